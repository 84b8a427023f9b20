"""Tables for cache gates: measuring them, fitting them, and filling a gate from one.

Published numbers are in `nodes/cache/published/`.
"""
