"""Transforms of a component: a LoRA, numbers of 8 bits, an attention backend, compiled blocks.

The node types that add transforms to a model are in `nodes/models/nodes/`.
"""
