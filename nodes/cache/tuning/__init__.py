"""Tuned gates: the cheapest schedule of computed steps that keeps a fidelity, for one model and schedule."""
