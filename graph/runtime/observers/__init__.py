"""Observers of a run: progress on the terminal, and the measurement of every node.

The executor does not know them. An observer of a node library stays with that library.
"""
