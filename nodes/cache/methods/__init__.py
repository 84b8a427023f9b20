"""The node types of cache gates, with their parameters and defaults.

The decisions are taken in `nodes/cache/engine/`, and published numbers stand in `nodes/cache/published/`.
"""
