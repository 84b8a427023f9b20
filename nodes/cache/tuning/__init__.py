"""Tuned gates: `sgd tune` finds the steps to compute, for one model, schedule and fidelity.

The gate that follows a plan runs in `nodes/cache/engine/tuned_model.py`.
"""
