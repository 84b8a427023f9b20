"""Cache gates: which denoising steps are computed, and which reuse earlier results.

The call of the transformer itself is in `nodes/denoiser.py`. A model family says in `nodes/families/` where its
blocks are.
"""
