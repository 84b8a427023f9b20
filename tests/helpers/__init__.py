"""Helpers of several tests: tiny models, toy node types, direct calls of nodes, and oracles to compare with.

Tests import a helper as `from helpers import tiny`; `tests/conftest.py` puts `tests/` on the path for that. Tests,
pytest fixtures and helpers of a single test file do not belong here.
"""
