"""The engine of cache gates: signals, rules, predictors, and the stack that replaces a model's blocks.

Parameters of gates belong to `nodes/cache/methods/`. The engine of the cache-dit package is in
`nodes/cache/cache_dit/`.
"""
