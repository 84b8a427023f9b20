"""Observers of a run: progress on the terminal, and the measurement of every node.

The executor knows none of them. An observer of a node library stays with that library.
"""
