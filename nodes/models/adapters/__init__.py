"""Adapter files (LoRA and similar forms): find the layer of each tensor, and merge the adapters into the weights.

Only `deltas` and `merging` import torch. Nodes and transforms do not belong here.
"""
