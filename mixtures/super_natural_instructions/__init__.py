"""The tensorflow-datasets builder of task files in the natural-instructions layout."""
