"""The bundled suite: a small procedural benchmark in the natural-instructions layout.

``suite/`` holds the shipped files; ``python -m mixtures.bundled.build`` writes them again, byte
for byte. The tasks are about people in short stories: one input has many possible questions, and
the definition says which one is asked.
"""
