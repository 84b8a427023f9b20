"""Cache gates: whether a step computes the transformer's blocks or reuses what earlier steps computed."""
