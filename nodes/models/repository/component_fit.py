"""Compares a component's class, configuration and weights before the weights are read.

The class is built on the meta device, which takes no memory. A fault then has a message that names the file, the key or
the tensor. The libraries' loaders report such faults in many forms, or not at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....graph.contract.errors import NodeError
from ....graph.contract.ports import show
from . import dummy, weight_files

if TYPE_CHECKING:
    import torch

OTHER = "the config belongs to other weights, or a file was changed: download the model again"
READABLE = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""Dtypes of safetensors whose numbers the loaders convert to a floating-point parameter."""
SCALES = (".scale_weight", ".weight_scale", ".scale_input", ".input_scale", "scaled_fp8")
"""Ends of names of tensors that scale the weights beside them."""
PATIENCE = 5.0  # seconds for the search of the key that is at fault


def on_meta(cls: Any, config: Mapping[str, Any], dtype: torch.dtype, file: Path) -> torch.nn.Module:
    """The module on the meta device.

    Raises:
        NodeError: If the class cannot be built from its configuration. The message names the file and the key.
    """
    try:
        return dummy.meta_module(cls, config, dtype)
    except NodeError as error:
        key = _key_at_fault(cls, config, dtype)
        if key is None:
            raise NodeError(f"{file}: no {cls.__name__} can be built from these values", help=OTHER) from error
        message = f"{file}: no {cls.__name__} can be built with `{key}` {show(config[key])}"
        raise NodeError(message, help=OTHER) from error


def _key_at_fault(cls: Any, config: Mapping[str, Any], dtype: torch.dtype) -> str | None:
    """The key without which the class can be built; None if there is none, or the search takes too long."""
    began = time.monotonic()
    for key in config:
        if key.startswith("_") or time.monotonic() - began > PATIENCE:
            continue
        try:
            dummy.meta_module(cls, {k: v for k, v in config.items() if k != key}, dtype)
        except NodeError:
            continue
        return key
    return None


def check_fit(module: torch.nn.Module, files: list[Path], config: Path) -> None:
    """Compare the tensors of a module with the headers of its weight files.

    Tensors whose names differ are left to the loader, which renames some.

    Args:
        module: The module on the meta device.
        files: Its weight files.
        config: Its configuration file, for messages.

    Raises:
        NodeError: If a tensor has another shape, or numbers that are no weights. The message names the file.
    """
    expected = module.state_dict()
    for file in files:
        for name, entry in weight_files.header(file).items():
            if name == "__metadata__":
                continue
            if name.endswith(SCALES) and name not in expected:
                raise NodeError(
                    f"{file}: tensor {name[:80]} scales the weights beside it, and no {type(module).__name__} reads it",
                    help="use weights in bfloat16, float16 or float32",
                )
            wanted = expected.get(name)
            if wanted is None:
                continue
            if list(wanted.shape) != entry["shape"]:
                raise NodeError(
                    f"{file}: tensor {name[:80]} has shape {entry['shape']}, and by {config} it has "
                    f"{list(wanted.shape)}",
                    help=OTHER,
                )
            if wanted.is_floating_point() and entry["dtype"] not in READABLE:
                raise NodeError(
                    f"{file}: tensor {name[:80]} holds numbers of dtype {entry['dtype']}, which are no weights",
                    help="use weights in bfloat16, float16 or float32",
                )


def try_schedule(scheduler: Any) -> None:
    """Make a schedule of four steps, with a copy of a scheduler.

    Raises:
        Exception: Whatever the class raises for its configuration.
        ValueError: If the noise levels are not finite, or not between 0 and 1 for flow matching.
    """
    config = scheduler.config
    copy = type(scheduler).from_config(config)
    copy.set_timesteps(4, **({"mu": 1.0} if config.get("use_dynamic_shifting") else {}))
    sigmas = getattr(copy, "sigmas", None)
    levels = [] if sigmas is None else [float(sigma) for sigma in sigmas]
    flow = type(scheduler).__name__.startswith("FlowMatch") or config.get("use_flow_sigmas")
    if not all(map(math.isfinite, levels)) or (flow and not all(0 <= level <= 1.001 for level in levels)):
        raise ValueError("noise levels out of range")
