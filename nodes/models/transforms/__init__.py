"""Transforms of a component: a LoRA, an attention backend, compiled blocks.

The node types that add transforms to a model are in `nodes/models/nodes/`.
"""
