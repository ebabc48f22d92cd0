"""Measures of task data before a run: lengths, truncation, leaks, label skew."""
