"""Coefficients and ratios that were published for checkpoints, each with its source.

Tables that users measure are read in `nodes/cache/calibration/`.
"""
