"""Decoders and encoders of VAEs rebuilt in one memory layout, `[T, H, W, C]`, on diffusers' modules and weights.

Transforms that put them into a model stand in `../transforms`; tiling and the estimate of memory in `../memory`.
"""
