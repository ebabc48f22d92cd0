"""A language model in pure Python: chains of words as they follow each other in a text.

It writes lists of tasks as the instruction prompt asks for, now and then badly, and answers from
the passages that it is shown. What it writes is a pure function of (seed, request number, prompt).
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from t5x_ext.generation import (
    Completion,
    CompletionRequest,
    FilterSettings,
    InstructionSettings,
    ResponseSettings,
    TextModel,
    read_evaluation,
    read_seeds,
    write_instructions,
    write_responses,
)
from t5x_ext.generation.records import bundled
from t5x_ext.retrieval import Corpus, open_index

BUNDLED = Path(bundled("seeds.jsonl")).parent


def chain(text: str, rng: random.Random, length: int) -> str:
    """Words that follow each other as in `text`."""
    words = text.split()
    after = defaultdict(list)
    for word, following in zip(words, words[1:], strict=False):
        after[word].append(following)
    found = [rng.choice(words)]
    while len(found) < length:
        found.append(rng.choice(after[found[-1]] or words))
    return " ".join(found)


class Sampler:
    def __init__(self, delay_secs: float = 0.0):
        self.text = "\n".join(
            f"{seed.instruction} {seed.input}" for seed in read_seeds(BUNDLED / "seeds.jsonl")
        )
        self.delay_secs = delay_secs
        self.answered = 0

    def text_model(self) -> TextModel:
        return TextModel(self, lambda text: len(text.split()), 4000, "chain", "chain of words")

    def __call__(self, requests: Sequence[CompletionRequest]) -> Iterator[tuple[int, Completion]]:
        places = list(range(len(requests)))
        random.Random(len(requests)).shuffle(places)  # as a queue of rows ends them
        for place in places:
            time.sleep(self.delay_secs)
            self.answered += 1
            yield place, self.complete(requests[place])

    def complete(self, request: CompletionRequest) -> Completion:
        rng = random.Random(f"{request.seed}/{request.number}/{request.contexts[0]}")
        finish = "length" if rng.random() < 0.1 else "eos"
        if request.contexts[0].endswith("4. Instruction:"):
            return Completion(self.tasks(rng), finish)
        shown = " ".join(context.partition("Reference:")[2] for context in request.contexts)
        answer = chain(shown or self.text, rng, rng.randint(1, 12)) if rng.random() < 0.9 else ""
        tail = rng.choice(["", "", "\n###\nand more", ":"])
        return Completion(answer + tail, finish, -1.5 * len(answer))

    def tasks(self, rng: random.Random) -> str:
        parts = []
        for number in range(4, rng.randint(6, 12)):
            instruction = chain(self.text, rng, rng.randint(3, 12)).strip("#:")
            text = chain(self.text, rng, rng.randint(1, 25))
            shown = number if rng.random() < 0.9 else number + 1
            parts.append(f" {instruction}\n{shown}. Input:\n{text}\n")
            if rng.random() < 0.05:
                parts.append(f"{number}. Output:\n{text}\n")
            parts.append(f"###\n{number + 1}. Instruction:")
        return "".join(parts)


def run(directory: str, delay_secs: float, batch_size: int, tasks: int = 60, rows: int = 30):
    """Both stages, from whatever is in the directory."""
    sampler = Sampler(delay_secs)
    seeds = read_seeds(BUNDLED / "seeds.jsonl")
    evaluation = read_evaluation(BUNDLED / "evaluation" / "harbour_log.jsonl")
    asking = InstructionSettings("harbour", seed=7, filters=FilterSettings(max_rouge_l=0.6))
    made = write_instructions(
        directory, seeds, sampler.text_model(), asking, tasks, evaluation, batch_size
    )
    index = open_index(Corpus(BUNDLED / "corpus.jsonl"))
    answering = ResponseSettings("harbour", num_passages=3)
    kept = write_responses(
        directory, sampler.text_model(), answering, rows, index, seeds, batch_size
    )
    return made, kept, sampler
