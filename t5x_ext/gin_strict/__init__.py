"""Gin with errors: reads gin files, checks every name and value, then binds them.

source: text to statements with places.  hints: values against type hints.
binding: statements into gin.  checks: what must hold before and after binding.
order: settings that a later file takes back.  networks: settings that a network does not take.
t5x_bindings: what of T5X has no parameter here.
"""
