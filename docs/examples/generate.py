"""Asks a model: greedily, by beam search, by sampling; and how probable it finds given answers.

    python docs/examples/generate.py runs/kinds \\
        "Definition: Say if the last word is an animal, a food or a city. Now complete the \\
    following example- input: Nora eats soup. output: "

The first argument is a MODEL_DIR (here that of tune_my_jsonl.py), a Hugging Face directory or a T5X
checkpoint; prompts follow, in the format that the model was tuned with. This vocabulary, as T5's,
takes line breaks and repeated spaces for one space.
"""

from __future__ import annotations

import math
import sys

from t5x_ext import Model
from t5x_ext.decoding import Beam, Sampling


def main() -> None:
    """Answers every prompt in three ways and scores the greedy answers."""
    path, *prompts = sys.argv[1:]
    model = Model.load(path)
    greedy = model.generate(prompts, max_new_tokens=16)
    beam = model.generate(prompts, max_new_tokens=16, decoding=Beam(num_beams=4))
    sampled = model.generate(prompts, max_new_tokens=16, decoding=Sampling(temperature=0.7, seed=1))
    log_probabilities = model.score(prompts, greedy)
    for i, prompt in enumerate(prompts):
        print(prompt)
        print(f"  greedy   {greedy[i]}  (probability {math.exp(log_probabilities[i]):.2f})")
        print(f"  beam     {beam[i]}")
        print(f"  sampled  {sampled[i]}")


if __name__ == "__main__":
    main()
