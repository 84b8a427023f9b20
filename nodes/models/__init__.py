"""Models: their files, their components in memory, and the transforms of components.

The rules of each model family (text, latents, blocks) belong to `nodes/families/`.
"""
