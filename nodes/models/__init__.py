"""Models: where their files come from, how components are held in memory, and how they are transformed.

How a family of models is used (text, latents, blocks) belongs to `nodes/families/`.
"""
