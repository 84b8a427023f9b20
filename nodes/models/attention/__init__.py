"""Attention backends: the table of them, the check of this machine, and the choice of the fastest.

The node type `model.attention` is in `nodes/models/nodes/`.
"""
