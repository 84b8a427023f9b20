"""Helpers without knowledge of models: lazy imports, pixels, file names, free memory, and the meter of plans.

A helper for one model, family or gate belongs beside that model, family or gate.
"""
