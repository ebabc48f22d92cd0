"""The grammar of SeqIO names: `self[.<prompt>].<domain>.<part>[:<part>...][.k<shots>][.n<count>]`.

    self.biomedicine.ncbi_disease             an evaluation set; its splits are those of its file
    self.biomedicine.ncbi_disease.k5          every question after five seeds of the task
    self.ss.none.biomedicine.ncbi_disease.k5  the same without a template
    self.biomedicine.ncbi_disease:bc5cdr_ner.n50
                                              50 train rows of each of two sets
    self.biomedicine.seeds                    the seeds, as rows to train on
    self.biomedicine.seeds.n20                20 of them
    self.harbour.pretraining                  what a model of the bundled domain learns first

The prompt is `alpaca` unless the name has another.
"""

from __future__ import annotations

import dataclasses
import re

from mixtures.budgets import parse_budget
from mixtures.errors import DataError, quoted
from mixtures.names import check_only_one
from mixtures.prompts import PROMPTS, get_prompt
from mixtures.specialization_prompts import TEXT

PREFIX = "self."
SEEDS = "seeds"
PRETRAINING = "pretraining"
DEFAULT_PROMPT = "alpaca"

_GRAMMAR = f"{PREFIX}<domain>.<set>[:<set>...][.k<shots>][.n<count>]"


@dataclasses.dataclass(frozen=True)
class SelfName:
    """What a name says.

    Attributes:
        domain: such as "biomedicine".
        parts: evaluation sets; or "seeds", or "pretraining", alone.
        prompt: None if the name has none.
        shots: demonstrations before each question.
        budget: of the train rows of each part; None: all.
    """

    domain: str
    parts: tuple[str, ...]
    prompt: str | None = None
    shots: int = 0
    budget: str | None = None

    def __str__(self) -> str:
        shots = f"k{self.shots}" if self.shots else None
        named = [self.prompt, self.domain, ":".join(self.parts), shots, self.budget]
        return PREFIX + ".".join(filter(None, named))

    @property
    def prompt_in_use(self) -> str:
        """The registered prompt that rows are written with.

        Raises:
            DataError: no registered prompt shows that many demonstrations.
        """
        if self.parts == (PRETRAINING,):
            return TEXT
        prompt = self.prompt or DEFAULT_PROMPT
        return get_prompt(f"{prompt}.pos{self.shots}" if self.shots else prompt).name


def parse_name(name: str) -> SelfName:
    """Reads a name; says nothing about whether its data is there.

    Raises:
        DataError: the name does not follow the grammar.
    """
    rest = name.removeprefix(PREFIX)
    known = (one for one in PROMPTS if rest.startswith(f"{one}."))
    prompt = max(known, key=len, default=None)
    rest = rest.removeprefix(f"{prompt}.") if prompt else rest
    found = re.fullmatch(r"(\w+)\.(\w+(?::\w+)*)(?:\.k([0-9]{1,3}))?(?:\.(n[0-9]+))?", rest)
    if found is None:
        raise DataError(f"name {quoted(name)}; allowed: {_GRAMMAR}")
    domain, listed, shots, budget = found.groups()
    parts = tuple(listed.split(":"))
    if len(parts) > 1 and {SEEDS, PRETRAINING} & set(parts) or len(set(parts)) < len(parts):
        raise DataError(f"name {quoted(name)}; allowed: different evaluation sets")
    budget = budget and parse_budget(budget).name
    return SelfName(domain, parts, prompt, int(shots or 0), budget)


def with_settings(name: str, prompt: str | None, budget: str | None) -> str:
    """The name with a prompt and a budget that it does not have yet.

    Raises:
        DataError: it has another already.
    """
    parsed = parse_name(name)
    check_only_one(name, "prompt", prompt, parsed.prompt)
    check_only_one(name, "budget", budget, parsed.budget)
    if prompt is not None:
        get_prompt(prompt)
    return str(
        dataclasses.replace(parsed, prompt=prompt or parsed.prompt, budget=budget or parsed.budget)
    )
