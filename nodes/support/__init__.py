"""Helpers without knowledge of models: lazy imports, pixels, file names, free memory, and the meter of plans.

A helper that names a model, a family or a gate belongs beside it.
"""
