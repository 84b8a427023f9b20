"""Observers: what listens to a run. The executor knows none of them."""
