"""The bundled writing suite: seven edit tasks with exact answers, and generic instructions.

The texts are procedural, so every answer is known to be right, and a perfect system scores 100
where the metric allows it. Rows are drawn when they are asked for, always the same ones; nothing is
stored. Apache-2.0, as the rest of the project.

    grammaticality   verbs in a wrong form
    fluency          words written twice
    clarity          wordy phrases for short ones
    coherence        two sentences to be joined by "so" or "but"
    simplification   hard words for easy ones
    neutralization   adjectives of praise and blame
    paraphrasing     words for others of the same meaning (held out: never trained on)
    generic          the bundled suite of tasks, and instructions about words and sentences
"""
