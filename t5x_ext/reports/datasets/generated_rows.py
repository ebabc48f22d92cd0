"""What the models of a study wrote for themselves: how much was kept, why not, and what it is like.

STUDY_DIR/generated/<key>/made.json, responses.jsonl, train.jsonl    rows of one kind
STUDY_DIR/generated/<key of tasks>/instructions.jsonl, rejected.jsonl    the tasks they answer
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_ext import files
from t5x_ext.generation.audit import SyntheticRow, most_frequent, read_rows
from t5x_ext.generation.responses import TRAIN
from t5x_ext.generation.yields import KEPT, MADE, Yields, tasks_key, yields_of
from t5x_ext.json_fields import Fields
from t5x_ext.reports.datasets.scores import RowId
from t5x_ext.reports.documents.document import Block, Paragraph, Table
from t5x_ext.reports.study_files import Study
from t5x_ext.reports.wording import ABSENT, duration, percent

_LISTED = 4  # reasons, openings, pairs of verb and noun


@dataclasses.dataclass(frozen=True)
class Generated:
    """Rows that one model wrote.

    Attributes:
        name: as the study states it: arms are trained on "generated.<name>".
        tasks: the directory of the tasks that it answers; those of one name answer the same.
        asked: rows wanted.
        secs: of the process that finished them.
        flagged: test inputs that share 13 words in a row with them; None if that is not recorded.
        yields: what was kept and dropped.
        rows: that are trained on.
    """

    name: str
    tasks: str
    asked: int
    secs: float
    flagged: frozenset[RowId] | None
    yields: Yields
    rows: tuple[SyntheticRow, ...]


def read_generated(study: Study) -> list[Generated]:
    """The generated data of a study that is there.

    Raises:
        ConfigError: a file is malformed.
    """
    found = (_read(study, name, key) for name, key in study.generated.items())
    return [each for each in found if each is not None]


def _read(study: Study, name: str, key: str) -> Generated | None:
    directory = study.directory / "generated" / key
    if not files.is_file(directory / MADE):
        return None
    made = Fields(directory / MADE)
    yields = yields_of(directory / TRAIN)
    if yields is None:
        return None
    return Generated(
        name=name,
        tasks=tasks_key(made),
        asked=made.integer("asked"),
        secs=made.number("secs", 0.0),
        flagged=_flagged(made) if "flagged" in made.values else None,
        yields=yields,
        rows=tuple(read_rows(directory / TRAIN)) if yields.answers.get(KEPT) else (),
    )


def _flagged(made: Fields) -> frozenset[RowId]:
    pairs = made.get("flagged", list)
    for pair in pairs:
        is_pair = isinstance(pair, list) and [type(part) for part in pair] == [str, str]
        if not is_pair:
            raise made.error("flagged", "a list of [set, id]")
    return frozenset((task, name) for task, name in pairs)


def flagged_rows(generated: Sequence[Generated]) -> frozenset[RowId] | None:
    """Test inputs that share words with any of the data; None if no data says."""
    known = [each.flagged for each in generated if each.flagged is not None]
    return frozenset[RowId]().union(*known) if known else None


def generated_blocks(study: Study, generated: Sequence[Generated]) -> list[Block]:
    """The tables of tasks and of answers, who has none, and what became of leaks."""
    empty = [f"“{_label(study, each.name)}”" for each in generated if not each.rows]
    return [
        *([Paragraph(_empty_text(empty))] if empty else []),
        _task_table(study, generated),
        _answer_table(study, generated),
        Paragraph(_leak_text(flagged_rows(generated))),
    ]


def _empty_text(labels: Sequence[str]) -> str:
    return (
        f"No usable rows were written for {', '.join(labels)}: what would be tuned on them, or "
        "written by a model that was, is left out."
    )


def _label(study: Study, name: str) -> str:
    """How tables call the arm that is trained on it."""
    return next((arm.label for arm in study.arms if arm.generated == name), name)


def _task_table(study: Study, generated: Sequence[Generated]) -> Table:
    by_tasks: dict[str, list[Generated]] = {}
    for each in generated:
        by_tasks.setdefault(each.tasks, []).append(each)
    rows = []
    for group in by_tasks.values():
        most = max(group, key=lambda each: len(each.rows))
        tasks = most.yields.tasks
        rows.append(
            (
                "; ".join(_label(study, each.name) for each in group),
                _reasons(tasks),
                _frequent(most_frequent(most.rows, "openings")),
                _frequent(most_frequent(most.rows, "verb_nouns")),
                f"{most.yields.num_tasks:,}",
                _share(tasks),
            )
        )
    return Table(
        "Tasks that models wrote",
        ("for", "dropped because", "openings", "verbs and nouns", "tasks", "kept"),
        tuple(rows),
        note="Dropped tasks: share of all. Openings, the first two words, and verbs with their "
        "nouns: share of the rows trained on. The paper draws these (its Figure 6) and states no "
        "shares.",
        text_columns=4,
    )


def _answer_table(study: Study, generated: Sequence[Generated]) -> Table:
    rows = []
    for each in generated:
        answers = each.yields
        number = max(1, answers.num_answers)
        rows.append(
            (
                _label(study, each.name),
                _reasons(answers.answers),
                f"{each.asked:,}",
                f"{answers.num_answers:,}",
                f"{answers.answers.get(KEPT, 0):,}",
                percent(answers.answers_at_limit / number),
                percent(answers.prompts_cut / number),
                f"{sum(len(row.output.split()) for row in each.rows) / max(1, len(each.rows)):.1f}",
                duration(each.secs),
            )
        )
    return Table(
        "Their answers",
        (
            "arm",
            "dropped because",
            "rows wanted",
            "answers",
            "kept",
            "at the limit",
            "prompts cut",
            "words",
            "time",
        ),
        tuple(rows),
        note="Dropped answers: share of all. At the limit: ended at the most tokens allowed. "
        "Prompts cut: to the model’s context. Words: of a kept answer. Time: of the process that "
        "finished them, tasks that it wrote included.",
        text_columns=2,
    )


def _share(counts: Mapping[str, int]) -> str:
    return percent(counts.get(KEPT, 0) / sum(counts.values())) if counts else ABSENT


def _reasons(counts: Mapping[str, int]) -> str:
    """`"similar 31%, unparsed 12%, ..."`; the forbidden words are one reason."""
    dropped: dict[str, int] = {}
    for reason, count in counts.items():
        if reason != KEPT:
            name = reason.partition(":")[0].replace("_", " ")
            dropped[name] = dropped.get(name, 0) + count
    ranked = sorted(dropped.items(), key=lambda item: -item[1])
    total = sum(counts.values())
    shown = [f"{name} {100 * count / total:.0f}%" for name, count in ranked[:_LISTED]]
    return ", ".join([*shown, *(["..."] if len(ranked) > _LISTED else [])]) or "none"


def _frequent(shares: Sequence[Mapping[str, Any]]) -> str:
    shown = (f"“{each['text']}” {100 * each['share']:.0f}%" for each in shares[:_LISTED])
    return ", ".join(shown)


def _leak_text(flagged: frozenset[RowId] | None) -> str:
    if flagged is None:
        return "Whether test inputs share words with these rows was not recorded."
    if not flagged:
        return "No test input shares 13 words in a row with these rows."
    rows = "1 test input shares" if len(flagged) == 1 else f"{len(flagged)} test inputs share"
    return (
        f"{rows} 13 words in a row with these rows, which may be boilerplate: F1 by number of "
        "demonstrations is also given without them. `t5x_ext audit --synthetic` shows the texts."
    )


def to_json(each: Generated) -> dict[str, Any]:
    """The counts as JSON."""
    return {
        "name": each.name,
        "asked": each.asked,
        "secs": each.secs,
        "flagged": None if each.flagged is None else len(each.flagged),
        **dataclasses.asdict(each.yields),
    }
