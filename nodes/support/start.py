"""Settings of the `sgd` command for the libraries that a run imports, made before it imports them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .deferred_imports import ALL, defer, resolve

PARALLEL = "HF_ENABLE_PARALLEL_LOADING"
"""A variable that diffusers reads when it is imported: whether the shards of a model are read by several threads."""

COLLECTIONS = (
    "diffusers.hooks",
    "diffusers.guiders",
    "diffusers.models.autoencoders",
    "diffusers.models.controlnets",
    "diffusers.models.transformers",
    "diffusers.models.unets",
)
"""Packages that import all their modules, of which a run needs one or two."""

UNUSED = (
    "scipy.stats",  # schedulers with noise levels by a beta distribution
    "scipy.integrate",  # linear multistep schedulers
    "httpcore2",  # downloads
    "requests",  # pictures behind links
)
"""Modules that libraries import as a whole, and use in functions that few runs call."""

NAMES: Mapping[str, tuple[str, ...]] = {
    # Losses of training.
    "scipy.optimize": ("linear_sum_assignment",),
    # Adapters: diffusers asks whether a layer belongs to one.
    "peft.tuners.tuners_utils": ("BaseTunerLayer",),
    # Masks that are made with `vmap`.
    "torch._dynamo._trace_wrapped_higher_order_op": ("TransformGetItemToIndex",),
    # Several devices: transformers asks whether a parameter is in several parts.
    "torch.distributed.tensor._utils": ("compute_local_shape_and_global_offset",),
    "torch.distributed.tensor.placement_types": ("Shard", "_StridedShard"),
    "torch.distributed._composable.fsdp": ("fully_shard",),
    "torch.distributed.fsdp": ("CPUOffloadPolicy", "MixedPrecisionPolicy"),
    "torch.distributed.checkpoint.hf_storage": ("HuggingFaceStorageReader", "HuggingFaceStorageWriter"),
    "transformers.distributed.expert_parallel": ("apply_expert_parallelism",),
    "transformers.distributed.tensor_parallel": (
        "apply_tensor_parallelism",
        "gather_state_dict_for_save",
        "get_kv_heads_per_rank",
        "verify_tp_plan",
    ),
}
"""Functions and classes that libraries import from a module, and that few runs use."""

MARKS = ("allow_in_graph", "assume_constant_result")
"""Decorators of the compiler that note a function or a class."""


def prepare_imports() -> None:
    """Have diffusers read shards in parallel, as transformers does, and keep libraries from executing what no run uses.

    What a run uses after all is executed then. A variable that the user has set stays as it is.
    """
    os.environ.setdefault(PARALLEL, "1")
    for package in COLLECTIONS:
        defer(package, inside=ALL)
    for module in UNUSED:
        defer(module)
    for module, names in NAMES.items():
        defer(module, stand_ins=names)
    defer("peft", inside=("tuners",))
    defer("peft.tuners", inside=("tuners_utils",))
    defer("torch.distributed.tensor", inside=("_utils", "placement_types"), stand_ins=("DTensor", "Shard"))
    defer("torch.distributed.checkpoint", inside=("hf_storage",))
    inside = ("_trace_wrapped_higher_order_op",)
    defer("torch._dynamo", inside=inside, marks=MARKS, given={"disable": _disable})


def _disable(function: Any = None, recursive: bool = True, **options: Any) -> Any:
    """`torch._dynamo.disable`: while there is no compiler, a function that it must leave alone is called as it is."""
    import torch

    if "wrapping" not in options:  # torch puts it off to the first call, which calls this function again
        return torch._disable_dynamo(function, recursive)
    disabled: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not disabled:
            disable = resolve("torch._dynamo", "disable", execute=False)
            if disable is None:
                return function(*args, **kwargs)
            disabled.append(disable(function, recursive, **options))
        return disabled[0](*args, **kwargs)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]  # the compiler looks for it
    return call
