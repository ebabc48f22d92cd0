"""Writing assistance: texts to edit, with instruction and references.

Readers for the distributed layouts, the bundled suite of edit tasks, and the SeqIO names
`writing.*` made of them.
"""
