"""Adapter files (LoRA and its kin): their tensors, the layers that these belong to, and how they are merged.

Only `deltas` and `merging` import torch. Nodes and transforms do not belong here.
"""
