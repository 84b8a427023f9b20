"""Denoise loops that the cache-dit package runs, and the reading of its options.

Our own engine is in `nodes/cache/engine/`.
"""
