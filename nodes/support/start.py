"""Settings of the `sgd` command for the libraries that a run imports, made before it imports them."""

from __future__ import annotations

import os

from .deferred_imports import defer

PARALLEL = "HF_ENABLE_PARALLEL_LOADING"
"""A variable that diffusers reads when it is imported: whether the shards of a model are read by several threads."""


def prepare_imports() -> None:
    """Have diffusers read shards in parallel, as transformers does, and keep it from executing what no run uses.

    A variable that the user has set stays as it is.
    """
    os.environ.setdefault(PARALLEL, "1")
    defer("scipy.stats")  # schedulers import it, and use it only for noise levels by a beta distribution
