"""The registry of prompts: pure functions from a row to the text that the encoder reads.

A prompt's name is `<family>.<parts>` or one word; what it stands for never changes under one
version number. Families:

    ql.*     Quick Learners, the paper's own format (srsawant34/efficient_instruction_learning)
    tk.*     Tk-Instruct (yizhongw/Tk-Instruct, src/ni_collator.py, without its length limit)
    alpaca, alpaca_lora, flan, ni_v1, cot     other published formats, named at each function
    chat     as the model's own chat template writes it

Parts: def = definition, posN / negN = N positive / negative examples, expl = explanations.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mixtures.chat_templates import Message, template_of
from mixtures.errors import DataError, hint
from mixtures.records import Example, Row
from mixtures.specialization_prompts import (
    TEXT,
    Demonstration,
    few_shot,
    instructions_prompt,
    plain_prompt,
    response_prompt,
)

Format = Callable[[Row], str]


@dataclass(frozen=True)
class Prompt:
    """A named way to write a row; with several `formats` each row is written in one of them.

    `is_chat`: the text is that of a chat template, which comes with a vocabulary; it then has its
    own beginning, see `mixtures.chat_templates.ChatText`.
    """

    name: str
    version: int
    formats: tuple[Format, ...]
    is_chat: bool = False

    @property
    def versioned_name(self) -> str:
        """The name to hash, or to print with a score."""
        return f"{self.name}.v{self.version}"

    def render(self, row: Row, seed: int = 0) -> str:
        """Writes `row`; the format is a pure function of (seed, row.id)."""
        if len(self.formats) == 1:
            return self.formats[0](row)
        return self.formats[draw(len(self.formats), "format", seed, row.id)](row)

    def for_vocabulary(self, vocabulary: Any) -> Prompt:
        """The prompt as it is written for the model of a vocabulary.

        Raises:
            DataError: it is a chat, and the vocabulary came without a template, or with one that
                refuses a single message of the user.
        """
        if not self.is_chat:
            return self
        template = template_of(vocabulary)
        template.render([{"role": "user", "content": "text"}])  # at once, not at the first row
        return replace(self, formats=(lambda row: template.render(chat_messages(row)),))


PROMPTS: dict[str, Prompt] = {}


def register_prompt(name: str, version: int = 1) -> Callable[[Format], Format]:
    """Decorator that registers a function from Row to text under `name`.

    Raises:
        DataError: the name is taken, or holds a character outside [A-Za-z0-9_.].
    """

    def register(render: Format) -> Format:
        register_mix(name, (render,), version)
        return render

    return register


def register_mix(name: str, formats: tuple[Format, ...], version: int = 1) -> None:
    """Registers a prompt that writes each row in one of `formats`.

    Raises:
        DataError: the name is taken, or holds a character outside [A-Za-z0-9_.].
    """
    if name in PROMPTS:
        raise DataError(f"prompt '{name}' is registered already; allowed: a new name")
    if not name or not set(name) <= set(string.ascii_letters + string.digits + "_."):
        raise DataError(f"prompt name '{name}'; allowed: letters, digits, '_' and '.'")
    PROMPTS[name] = Prompt(name, version, formats)


def get_prompt(name: str) -> Prompt:
    """Looks a prompt up.

    Raises:
        DataError: no prompt has this name; the message lists the nearest and all names.
    """
    if name not in PROMPTS:
        raise DataError(
            f"prompt '{name}' is unknown; allowed: {', '.join(sorted(PROMPTS))}"
            f"{hint(name, PROMPTS)}"
        )
    return PROMPTS[name]


def draw(count: int, *key: str | int) -> int:
    """An integer in [0, count) that is a pure function of `key`, evenly spread over keys.

    A hash and not a random generator: the answer is the same on every machine, in every Python
    version, and does not depend on what was drawn before.
    """
    text = "\x1f".join(str(part) for part in key)
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def choose_reference(row: Row, seed: int, epoch: int) -> str:
    """The reference to train on: a pure function of (seed, row.id, epoch)."""
    texts = row.targets or row.references
    return texts[reference_index(len(texts), seed, row.id, epoch)]


def reference_index(count: int, seed: int, row_id: str, epoch: int) -> int:
    """Which of a row's `count` references is trained on in this epoch."""
    return draw(count, "reference", seed, row_id, epoch)


# Quick Learners ---------------------------------------------------------------------------------


@register_prompt("ql.io")
def ql_io(row: Row) -> str:
    """The instance alone: the paper's data `without_instructions`."""
    return f"input: {row.input}\noutput: "


@register_prompt("ql.def_pos2")
def ql_def_pos2(row: Row) -> str:
    """Definition, two positive examples and the instance: the paper's `with_instructions`."""
    parts = [f"Definition: {row.definition}\n"] if row.definition.strip() else []
    for number, example in enumerate(row.positive_examples[:2], start=1):
        parts.append(
            f"Positive example {number}-\ninput: {example.input}\noutput: {example.output}\n"
        )
    parts.append("Now complete the following example-\n" + ql_io(row))
    return "".join(parts)


# Tk-Instruct ------------------------------------------------------------------------------------


def _tk_format(
    name: bool = False,
    definition: bool = False,
    positives: int = 0,
    negatives: int = 0,
    explanations: bool = False,
) -> Format:
    """One encoding of Tk-Instruct's collator; the arguments are its flags."""

    def render(row: Row) -> str:
        parts = [f"{row.task}. "] if name else []
        if definition and row.definition.strip():
            parts.append(f"{_tk_sentence('Definition: ' + row.definition.strip())}\n\n")
        for kind, examples in (
            ("Positive", row.positive_examples[:positives]),
            ("Negative", row.negative_examples[:negatives]),
        ):
            for number, example in enumerate(examples, start=1):
                parts.append(f" {kind} Example {number} -\n{_tk_example(example, explanations)}\n")
        parts.append("Now complete the following example -\n")
        parts.append(_tk_sentence(f"Input: {row.input.strip()}") + "\nOutput: ")
        return "".join(parts)

    return render


def _tk_example(example: Example, explanation: bool) -> str:
    lines = [
        _tk_sentence(f"Input: {example.input.strip()}"),
        _tk_sentence(f" Output: {example.output.strip()}"),
    ]
    if explanation and example.explanation is not None:
        lines.append(_tk_sentence(f" Explanation: {example.explanation.strip()}"))
    return "".join(line + "\n" for line in lines)


def _tk_sentence(text: str) -> str:
    """Tk-Instruct ends every part in punctuation, with a full stop where there is none."""
    return text if text[-1] in string.punctuation else text + "."


tk_def = register_prompt("tk.def")(_tk_format(definition=True))
tk_pos2 = register_prompt("tk.pos2")(_tk_format(positives=2))
tk_def_pos2 = register_prompt("tk.def_pos2")(_tk_format(definition=True, positives=2))
tk_def_pos2_neg2 = register_prompt("tk.def_pos2_neg2")(
    _tk_format(definition=True, positives=2, negatives=2)
)
tk_def_pos2_expl = register_prompt("tk.def_pos2_expl")(
    _tk_format(definition=True, positives=2, explanations=True)
)
tk_name = register_prompt("tk.name")(_tk_format(name=True))
# The released Tk-Instruct models were trained on these five, one drawn per example.
register_mix("tk.mix", (tk_def, tk_pos2, tk_def_pos2, tk_def_pos2_neg2, tk_def_pos2_expl))


# Other published formats ------------------------------------------------------------------------


def alpaca_prompt(instruction: str, text: str) -> str:
    """Stanford Alpaca with and without input (tatsu-lab/stanford_alpaca, train.py, PROMPT_DICT)."""
    if not text.strip():
        return (
            "Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request.\n\n"
            f"### Instruction:\n{instruction}\n\n### Response:"
        )
    return (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n"
        f"### Instruction:\n{instruction}\n\n### Input:\n{text}\n\n### Response:"
    )


@register_prompt("alpaca")
def alpaca(row: Row) -> str:
    """Stanford Alpaca; the definition is the instruction."""
    return alpaca_prompt(row.definition, row.input)


@register_prompt("alpaca_lora")
def alpaca_lora(row: Row) -> str:
    """Alpaca-LoRA (tloen/alpaca-lora, templates/alpaca.json): the answer has its own line."""
    return f"{alpaca(row)}\n"


# The zero-shot templates that the Flan 2022 collection uses for Super-NaturalInstructions
# (google-research/FLAN, flan/v2/templates.py, PATTERNS["natinst_v2"]).
_FLAN_TEMPLATES = (
    "{definition}\n\n{input}",
    "You will be given a definition of a task first, then some input of the task.\n"
    "{definition}\n\n{input}\nOutput:",
    "Definition: {definition}\nInput: {input}\nOutput:",
    "Instructions: {definition}\nInput: {input}\nOutput:",
    "{definition}\nQ: {input}\nA: ",
    "Given the task definition and input, reply with output. {definition}\n\n{input}\n",
    "Teacher:{definition}\nTeacher: Now, understand the problem? Solve this instance: {input}\n"
    "Student:",
    "Q: {definition}\n{input}\nA:",
    "Detailed Instructions: {definition}\nProblem:{input}\nSolution:",
    "Detailed Instructions: {definition}\nQ: {input}\nA:",
)


def _template(text: str) -> Format:
    return lambda row: text.format(definition=row.definition, input=row.input)


register_mix("flan", tuple(_template(text) for text in _FLAN_TEMPLATES))


@register_prompt("ni_v1")
def ni_v1(row: Row) -> str:
    """Natural Instructions v1 (Mishra et al., 2022; its src/utils/encodeinstruction.py).

    Definition, two negative and two positive examples with reasons, instance. The v1 fields that
    task files of v2 do not have (prompt, things to avoid, emphasis and caution, suggestion) are
    left out, as the v1 code leaves out a field that holds '-'.
    """
    parts = [f"Definition: {row.definition.strip()}"]
    for kind, examples in (
        ("Negative", row.negative_examples[:2]),
        ("Positive", row.positive_examples[:2]),
    ):
        for number, example in enumerate(examples, start=1):
            parts.append(f"{kind} Example{number}- ")
            parts.append(f"input: {example.input}\noutput: {example.output}")
            if example.explanation:
                parts.append(f"reason: {example.explanation}")
    parts.append(f"input: {row.input}\noutput:")
    return "\n".join(parts)


@register_prompt("cot")
def cot(row: Row) -> str:
    """Chain of thought, "zero-plus-few-shot" (Kojima et al., 2022, arXiv:2205.11916, table 2).

    Each answer starts with "Let's think step by step."; the chain of a positive example is its
    explanation, and its answer follows "The answer is" as in Wei et al. (2022, arXiv:2201.11903).
    """
    parts = [f"{row.definition}\n\n"] if row.definition.strip() else []
    for example in row.positive_examples[:2]:
        answer = f"The answer is {example.output.strip().removesuffix('.')}."
        thought = f"{example.explanation.strip()} " if example.explanation else ""
        parts.append(f"Q: {example.input}\nA: Let's think step by step. {thought}{answer}\n\n")
    parts.append(f"Q: {row.input}\nA: Let's think step by step.")
    return "".join(parts)


# Chats ------------------------------------------------------------------------------------------


def chat_messages(row: Row) -> list[Message]:
    """The row as what a user says: the definition, and the input below it."""
    parts = [text for text in (row.definition, row.input) if text.strip()]
    return [{"role": "user", "content": "\n\n".join(parts)}]


def _needs_template(row: Row) -> str:
    raise DataError("prompt 'chat': needs the chat template of a vocabulary; see for_vocabulary")


PROMPTS["chat"] = Prompt("chat", 1, (_needs_template,), is_chat=True)


# Self-specialization (Kang et al., 2023, arXiv:2310.00160) ----------------------------------------


@register_prompt("ss.instructions")
def ss_instructions(row: Row) -> str:
    """Asks for new tasks: the category is the domain.

    Each positive example is a task that is shown: `output` is its instruction, `input` its input.
    """
    tasks = [(example.output, example.input) for example in row.positive_examples]
    return instructions_prompt(row.category, tasks)


@register_prompt("ss.response")
def ss_response(row: Row) -> str:
    """Asks for the answer to a task that the model wrote, without a passage."""
    return response_prompt(row.category, row.definition, row.input)


@register_prompt(TEXT)
def ss_text(row: Row) -> str:
    """The input as it is, for rows whose inputs are whole prompts."""
    return row.input


# How a template writes a task, and what stands between a worked example's prompt and its answer.
TEMPLATES: dict[str, tuple[Callable[[str, str], str], str]] = {
    "alpaca": (alpaca_prompt, ""),
    "ss.none": (plain_prompt, " "),
}
# Texts before which an answer in a template ends.
STOPS: dict[str, tuple[str, ...]] = {
    "alpaca": ("###",),
    # Without a template nothing but a blank line says that an answer is over.
    "ss.none": ("###", "\n\n"),
}


def _few_shot_format(template: str, count: int) -> Format:
    """The row after its first `count` positive examples, all written as `template` does."""
    render, gap = TEMPLATES[template]

    def write(row: Row) -> str:
        shown = [
            Demonstration(row.definition, example.input, example.output)
            for example in row.positive_examples[:count]
        ]
        return few_shot(render, gap, shown, row.definition, row.input)

    return write


register_prompt("ss.none")(_few_shot_format("ss.none", 0))
for _count in (1, 5):
    register_prompt(f"alpaca.pos{_count}")(_few_shot_format("alpaca", _count))
    register_prompt(f"ss.none.pos{_count}")(_few_shot_format("ss.none", _count))
