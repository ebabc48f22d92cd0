"""Gin with errors: reads gin files, checks every name and value, then binds them.

source: text to statements with places.  hints: values against type hints.
binding: statements into gin.  checks: what must hold before and after binding.
"""
