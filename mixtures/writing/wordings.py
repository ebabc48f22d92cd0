"""Other wordings of the writing tasks' instructions, for tests alone.

The paper trains and tests with one instruction for each task. How a model takes the same request in
other words is what these are for: `writing.jfleg.w2` has JFLEG's rows under the second of them.
"""

from __future__ import annotations

WORDINGS = {
    "grammaticality": (
        "Correct the grammar.",
        "Rewrite the text without grammatical mistakes.",
        "Please remove all errors of grammar and spelling from this text.",
        "Proofread this.",
    ),
    "fluency": (
        "Improve the fluency of this text.",
        "Rewrite the text so that it reads smoothly.",
        "Please make this sound natural.",
        "Polish this.",
    ),
    "clarity": (
        "Make this clearer and shorter.",
        "Rewrite the text so that it is easy to read and has no needless words.",
        "Please say this more clearly.",
        "Tighten this.",
    ),
    "coherence": (
        "Improve the cohesion of this text.",
        "Rewrite the text so that its sentences are better connected.",
        "Please make the ideas in this text follow from one another.",
        "Connect this.",
    ),
    "simplification": (
        "Make this text easier to understand.",
        "Rewrite the text in plain words.",
        "Please write a simpler version of this text.",
        "Say it simply.",
    ),
    "neutralization": (
        "Remove bias from this text.",
        "Rewrite the text from a neutral point of view.",
        "Please take all opinions out of this text.",
        "Make this objective.",
    ),
    "paraphrasing": (
        "Say this in other words.",
        "Rewrite the text with the same meaning but different words.",
        "Please give a paraphrase of this text.",
        "Reword this.",
    ),
}
