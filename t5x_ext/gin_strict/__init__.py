"""Gin with errors: reads gin files, checks every name and value, then binds them.

source: text to statements with places.  hints: values against type hints.
binding: statements into gin.  checks: what must hold before and after binding.
t5x_bindings: what of T5X has no parameter here.
"""
