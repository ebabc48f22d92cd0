"""Writes docs/api.md, the index of what Python and gin files can use, from docstrings.

    python docs/build_api.py

A test holds the page to what this prints.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path

PAGE = Path(__file__).with_name("api.md")

# Title of a section, what it says of itself, and module -> names (None: the module's `__all__`).
SECTIONS: list[tuple[str, str, dict[str, list[str] | None]]] = [
    (
        "Models",
        "Weights of any layout, text in and text out.",
        {"t5x_ext": None, "t5x_ext.decoding": None},
    ),
    (
        "Tasks and mixtures",
        "Everything here ends as a SeqIO task.",
        {
            "mixtures": None,
            "mixtures.vocabularies": [
                "ByteVocabulary",
                "SentencePieceVocabulary",
                "bundled_vocabulary",
                "harbour_vocabulary",
                "byt5_vocabulary",
                "mt5_vocabulary",
                "open_vocabulary",
                "save_tokenizer",
                "t5_vocabulary",
            ],
            "mixtures.train_vocabulary": ["train_vocabulary", "trained_vocabulary"],
            "mixtures.writing.bundled.vocabulary": ["writing_vocabulary"],
            "mixtures.records": ["Row"],
        },
    ),
    (
        "Commands as functions",
        "Each is what the command of that name runs, with its gin bindings as arguments.",
        {
            "t5x_ext.train": ["train"],
            "t5x_ext.eval": ["evaluate"],
            "t5x_ext.infer": ["infer"],
            "t5x_ext.specialize": ["specialize"],
            "t5x_ext.study": ["study"],
            "t5x_ext.report": ["write_report"],
            "t5x_ext.score": ["summarise"],
            "t5x_ext.audit": ["Settings", "audit", "audit_synthetic"],
            "t5x_ext.convert": ["convert"],
            "t5x_ext.inspect_checkpoint": ["inspect"],
        },
    ),
    (
        "What gin files bind",
        "Frozen dataclasses and functions; gin files of T5X know most of them by these names.",
        {
            "t5x_ext.configs": None,
            "t5x_ext.gin_utils": ["summarize_gin_config"],
            "t5x_ext.models": None,
            "t5x_ext.models.network": ["T5Config", "Transformer"],
            "t5x_ext.models.lora": ["LoRA", "create_lora"],
            "t5x_ext.models.llama": ["LlamaConfig"],
            "t5x_ext.models.mpt": ["MptConfig"],
            "t5x_ext.models.falcon": ["FalconConfig"],
            "t5x_ext.models.network_config": ["NetworkConfig"],
            "t5x_ext.models.nnx_network": ["NNXNetwork"],
            "t5x_ext.models.linen": ["LinenNetwork"],
            "t5x_ext.partitioning": [
                "PjitPartitioner",
                "ModelBasedPjitPartitioner",
                "standard_logical_axis_rules",
            ],
            "t5x_ext.training.adafactor": ["Adafactor", "standard_logical_factor_rules"],
            "t5x_ext.training.optimizers": None,
            "t5x_ext.training.trainer": None,
            "t5x_ext.seqio": None,
            "t5x_ext.studies": None,
        },
    ),
    (
        "Files",
        "Checkpoints, predictions and scores.",
        {
            "t5x_ext.checkpoints": None,
            "t5x_ext.checkpoints.peft": None,
            "t5x_ext.metrics": None,
        },
    ),
    (
        "Self-specialization",
        "Data that a model writes for itself.",
        {
            "t5x_ext.generation": None,
            "t5x_ext.generation.rounds": [
                "Round",
                "Written",
                "write_instructions",
                "write_responses",
                "write_rows",
            ],
            "t5x_ext.generation.text_models": ["ModelSource", "Writer"],
            "t5x_ext.generation.tuning": ["TuningSettings", "train_arguments", "write_adapter"],
            "t5x_ext.generation.evaluation": ["EvaluationSettings", "write_predictions"],
            "t5x_ext.generation.scores": ["score_file", "table"],
            "t5x_ext.generation.pipeline": ["Pipeline"],
            "t5x_ext.retrieval": None,
        },
    ),
    (
        "Errors",
        "What a user can correct; the message is one line.",
        {"t5x_ext.errors": ["ConfigError"]},
    ),
    (
        "Several hosts",
        "Commands use these by themselves.",
        {"t5x_ext.multihost": None},
    ),
]

_WITH_METHODS = {"t5x_ext.Model"}


def summary(thing: object) -> str:
    """The first sentence of a docstring, as one line; of a constant, its value."""
    if not callable(thing):
        return f"`{thing!r}`"
    paragraph = " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].removesuffix(".").removesuffix(":")


def signature(thing: object) -> str:
    """Parameters with their defaults, without types: `(path, dtype='float32')`."""
    if not callable(thing):
        return ""
    if inspect.isclass(thing) and not (
        dataclasses.is_dataclass(thing) or "__init__" in vars(thing)
    ):
        return ""
    shown = []
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        short = parameter.default is parameter.empty or len(repr(parameter.default)) < 24
        text = str(parameter.replace(annotation=parameter.empty))
        shown.append(text if short else f"{parameter.name}=...")
    return f"({', '.join(name for name in shown if name != 'self')})"


def rows(module_name: str, names: list[str] | None) -> list[str]:
    """Table rows for the names of a module."""
    module = importlib.import_module(module_name)
    found = []
    for name in names or module.__all__:
        thing = getattr(module, name)
        things = {f"{name}{signature(thing)}": summary(thing)}
        if f"{module_name}.{name}" in _WITH_METHODS:
            inherited = [vars(base) for base in reversed(thing.__mro__[1:]) if base is not object]
            methods = {k: v for own in [vars(thing), *inherited] for k, v in own.items()}
            for method_name, method in methods.items():
                public = not method_name.startswith("_")
                if public and (inspect.isfunction(method) or isinstance(method, classmethod)):
                    bound = getattr(thing, method_name)
                    things[f"{name}.{method_name}{signature(bound)}"] = summary(bound)
        found += [f"| `{text}` | {what} |".replace("|'", "\\|'") for text, what in things.items()]
    return found


def build() -> str:
    """The page."""
    lines = [
        "# Index of the Python API",
        "",
        "Written by `docs/build_api.py` from docstrings, which say more: `help(NAME)` in Python.",
        "Names that are not here may change without notice. Examples: [examples/](examples).",
    ]
    for title, about, modules in SECTIONS:
        lines += ["", f"## {title}", "", about]
        for module_name, names in modules.items():
            lines += ["", f"### `{module_name}`", "", "| Name | What |", "| --- | --- |"]
            lines += rows(module_name, names)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(build(), encoding="utf-8")
