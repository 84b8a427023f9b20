"""What several tests share: tiny models, toy node types, direct calls of nodes, and oracles to compare with.

Tests import it as `from helpers import tiny`; `tests/conftest.py` puts `tests/` on the path for that. Tests and
fixtures of pytest do not belong here, nor does what only one test file needs.
"""
