"""The node types of cache gates, with their parameters and defaults.

The code that decides is in `nodes/cache/engine/`, and published numbers are in `nodes/cache/published/`.
"""
