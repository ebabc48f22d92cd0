"""Self-specialization: the seeds, corpus and evaluation sets of a domain.

Readers of a directory with all three, the bundled domain of a made-up harbour, and the SeqIO names
`self.*` made of them.
"""
