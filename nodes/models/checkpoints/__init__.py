"""One-file checkpoints: their headers, their tensors, and the parameters of a component that these belong to.

Only `checkpoint_loading` and `checkpoint_tensors` import torch. Finding a model's folder belongs to
`nodes/models/repository/`.
"""
