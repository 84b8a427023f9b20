"""Transforms of a component: a LoRA, an attention backend, compiled blocks.

The node types that ask for them are in `nodes/models/nodes/`.
"""
