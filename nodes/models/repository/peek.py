"""Reads single modules of a component from its files on this disk. The rest of the component is not loaded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ....graph.contract.node import Run
from ..model import Model
from . import weight_files


def submodules(model: Model, part: str, module: Any, names: Sequence[str], run: Run) -> Any | None:
    """Load some submodules of a component with their weights, on the CPU.

    Args:
        model: The model.
        part: Role of the component.
        module: The component on the meta device.
        names: Dotted names of the submodules.
        run: The planned run. With dummy weights it does not use the files, so the result is None.

    Returns:
        An object with the submodules at these dotted names; None if the files are not on this disk.
    """
    import torch
    from safetensors import safe_open

    repository, checkpoint = model.weights.repository, model.weights.checkpoints.get(model.name(part))
    if run.options.get("weights") == "dummy":
        return None
    found: dict[str, torch.Tensor] = {}
    prefixes = tuple(f"{name}." for name in names)
    if checkpoint is not None:
        if checkpoint.file is None:
            return None
        from ..checkpoints import checkpoint_loading

        found = checkpoint_loading.parameters(module, model.config(part), checkpoint.file, model.name(part), prefixes)
    elif repository.kind == "bundled":
        return None
    folder = repository.folder / model.name(part)
    for file in weight_files.weight_files(folder, model.weights.variant) if checkpoint is None else ():
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - `opened` is not a mapping
                if key.startswith(prefixes):
                    found[key] = opened.get_tensor(key)
    holder = SimpleNamespace()
    for name in names:
        made = copy.deepcopy(module.get_submodule(name)).to_empty(device="cpu")
        own = made.state_dict()
        state = {key: found[f"{name}.{key}"] for key in own if f"{name}.{key}" in found}
        if len(state) != len(own):
            return None
        made.load_state_dict(state)
        *path, last = name.split(".")
        place = holder
        for step in path:
            if not hasattr(place, step):
                setattr(place, step, SimpleNamespace())
            place = getattr(place, step)
        setattr(place, last, made)
    return holder
