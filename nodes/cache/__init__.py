"""Cache gates: when a transformer's blocks are computed, and what stands in for them when they are not."""
