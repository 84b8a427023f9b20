"""Attention backends: which exist, which this machine can use, and which is fastest.

The node type `model.attention` is in `nodes/models/nodes/`.
"""
