"""Prompts of self-specialization: what a model reads to write its own data, and to be tested on it.

The templates are the paper's (Kang et al., 2023, arXiv:2310.00160, appendix) with the domain left
open. The first descends from Alpaca's (tatsu-lab/stanford_alpaca, prompt.txt, Apache-2.0).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

INSTRUCTIONS_TEMPLATE = """\
You are asked to come up with a set of 20 diverse task instructions about a {domain} domain. \
These task instructions will be given to a GPT model and we will evaluate the GPT model for \
completing the instructions.

Here are the requirements:
1. Try not to repeat the verb for each instruction to maximize diversity.
2. The language used for the instruction also should be diverse. For example, you should combine \
questions with imperative instructions.
3. The type of instructions should be diverse. The list should include diverse types of tasks like \
open-ended generation, classification, editing, etc.
4. A GPT language model should be able to complete the instruction. For example, do not ask the \
assistant to create any visual or audio output. For another example, do not ask the assistant to \
wake you up at 5pm or set a reminder because it cannot perform any action.
5. The instructions should be in English.
6. The instructions should be 1 to 2 sentences long. Either an imperative sentence or a question \
is permitted.
7. You should generate an appropriate input to the instruction. The input field should contain a \
specific example provided for the instruction. It should involve realistic data and should not \
contain simple placeholders. The input should provide substantial content to make the instruction \
challenging.
8. Ensure diverse tasks are covered in the instructions and inputs, while focusing on a {domain} \
domain.

List of 20 tasks:
"""

RESPONSE_TEMPLATE = (
    "You are a {domain} domain expert. Given an instruction and an input, generate the best "
    "response to solve the given {domain} task."
)

NO_INPUT = "<noinput>"  # stands for an empty input
TEXT = "ss.text"  # name of the prompt of rows that are texts already


class Demonstration(NamedTuple):
    """A worked example before the question; its instruction may differ from the question's."""

    instruction: str
    input: str
    output: str


def instructions_prompt(domain: str, tasks: Sequence[tuple[str, str]]) -> str:
    """Asks for a list of tasks, of which the first ones are given.

    Args:
        domain: an adjective, such as 'biomedical'.
        tasks: (instruction, input) pairs; the model continues with the next number.
    """
    parts = [INSTRUCTIONS_TEMPLATE.format(domain=domain), "\n"]
    for number, (instruction, text) in enumerate(tasks, start=1):
        folded = re.sub(r"\s+", " ", instruction).strip().rstrip(":")
        parts.append(
            f"###\n{number}. Instruction: {folded}\n{number}. Input:\n{text or NO_INPUT}\n"
        )
    parts.append(f"###\n{len(tasks) + 1}. Instruction:")
    return "".join(parts)


def response_prompt(domain: str, instruction: str, text: str, passage: str | None = None) -> str:
    """Asks for the answer to one task.

    Args:
        domain: as of `instructions_prompt`.
        instruction: what to do.
        text: the task's input; '' shows as <noinput>.
        passage: one to refer to; without it that part is absent.
    """
    reference = "" if passage is None else f"\n\nReference:\n{passage}"
    return (
        f"{RESPONSE_TEMPLATE.format(domain=domain)}{reference}\n\n"
        f"Instruction: {instruction}\nInput:\n{text or NO_INPUT}\nResponse:"
    )


def plain_prompt(instruction: str, text: str) -> str:
    """The task without a template around it, for models that were tuned on none."""
    return f"{instruction}\n\nInput: {text}\nOutput:"


def few_shot(
    render: Callable[[str, str], str],
    gap: str,
    demonstrations: Sequence[Demonstration],
    instruction: str,
    text: str,
) -> str:
    """A prompt after worked examples that are written the same way.

    Args:
        render: writes an instruction and its input.
        gap: between a prompt and its answer.
        demonstrations: in the order in which they are shown.
        instruction: of the question.
        text: the question's input.
    """
    shown = (f"{render(d.instruction, d.input)}{gap}{d.output}\n\n" for d in demonstrations)
    return "".join(shown) + render(instruction, text)
