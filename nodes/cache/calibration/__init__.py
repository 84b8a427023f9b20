"""Tables for cache gates: measuring them, fitting them, and filling a gate from one.

Published numbers stand in `nodes/cache/published/`.
"""
