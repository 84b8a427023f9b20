"""Observers of a run: progress on the terminal, the measurement of every node, profiles and traces.

The executor does not know them. An observer of a node library stays with that library.
"""
