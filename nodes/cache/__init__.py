"""Cache gates: which denoising steps are computed, and which reuse earlier results.

The call of the transformer itself is in `nodes/denoiser.py`. A model family in `nodes/families/` describes the blocks
of its transformer.
"""
