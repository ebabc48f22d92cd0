"""Reads the tasks out of a completion of the instruction prompt."""

from __future__ import annotations

import re
from typing import NamedTuple

from mixtures.specialization_prompts import NO_INPUT

_LAST_TASK = 20  # that the prompt asks for
# A completion is of no more use where a task beyond the last one begins.
STOPS = (f"\n{_LAST_TASK + 1}.", f"###\n{_LAST_TASK + 1}")

# Small models lose count: "1. Output:" after the input of task 7 is not part of that input.
_NEXT_FIELD = r"^[ \t]*\d+\.\s+(?:Output|Response|Instruction):"


class Piece(NamedTuple):
    """What lies between two `###`.

    Attributes:
        text: as it stands.
        task: (instruction, input), or None if the piece is not a task.
    """

    text: str
    task: tuple[str, str] | None


def parse_completion(text: str, first_number: int = 4, cut: bool = False) -> list[Piece]:
    """Divides a completion into tasks, as Alpaca does.

        " Name the drug.\\n4. Input:\\nMetformin was given.\\n###\\n5. Instruction: ..."

    A piece is a task if it has `n. Instruction:` and then `n. Input:` with its own running number.
    What follows `n. Output:` or `n. Response:` is left out, and so is a line that begins like that,
    or with `Instruction:`, under a wrong number. A `###` inside an input ends it.

    Args:
        text: what the model wrote after `{first_number}. Instruction:`.
        first_number: of the first task.
        cut: whether the completion ended for its length; its last piece is then left out.

    Returns:
        Every other piece, in order.
    """
    pieces = f"{first_number}. Instruction:{text}".split("###")
    if cut:
        pieces.pop()
    return [
        Piece(piece, _parse_piece(piece, number))
        for number, piece in enumerate(pieces, start=first_number)
        if piece.strip()
    ]


def _parse_piece(piece: str, number: int) -> tuple[str, str] | None:
    found = re.search(
        rf"(?<!\d){number}\.\s+Instruction:(.*?)(?<!\d){number}\.\s+Input:(.*?)"
        rf"(?:(?<!\d){number}\.\s+(?:Output|Response):|{_NEXT_FIELD}|\Z)",
        piece,
        re.DOTALL | re.MULTILINE,
    )
    if found is None:
        return None
    instruction, text = (part.strip() for part in found.groups())
    return instruction, "" if text.lower() == NO_INPUT else text


def cut_at_stop(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The text before the first of the stop strings in it, and whether there was one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
