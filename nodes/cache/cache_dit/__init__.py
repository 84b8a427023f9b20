"""Code that lets the cache-dit package cache the blocks of a transformer, and reads the options of the package.

Our own engine is in `nodes/cache/engine/`.
"""
