"""Coefficients and ratios that were published for checkpoints, with the source of each number.

The code for tables that users measure is in `nodes/cache/calibration/`.
"""
