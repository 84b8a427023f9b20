"""The help line of an error about numbers that are not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...graph.contract.events import CallInfo

if TYPE_CHECKING:
    import torch

OFF = "--no-check-finite switches this check off"
NARROW = "float16 ends at 65504"


def help_for(call: CallInfo, kind: str, dtype: torch.dtype) -> str:
    """The things to try, for the output of a call.

    Args:
        call: The call.
        kind: The type of the value; empty for a tensor inside of the node.
        dtype: The dtype of its numbers.
    """
    inputs = call.type.inputs
    files = [name for name, parameter in inputs.items() if parameter.path == "read"]
    if files:
        return f"make the file of `{files[0]}` again: its numbers are damaged; {OFF}"
    models = any(parameter.type.name == "Model" for parameter in inputs.values())
    narrow = str(dtype) == "torch.float16"
    if not models:
        source = "a guidance scale that is too large" if kind in ("Velocity", "Latents") else "its parameters"
        return f"look at {source}, and at the node's inputs; {OFF}"
    if call.type.name.startswith("vae.") or kind in ("Frames", ""):
        wider = "`vae_dtype: bfloat16` or `vae_dtype: float32`" if narrow else "`vae_dtype: float32`"
        why = f": {NARROW}" if narrow else ""
        if not kind and str(dtype) == "torch.float32":
            return f"check the files of the VAE; {OFF}"
        return f"set {wider} of model.load{why}; if that does not help, check the files of the VAE; {OFF}"
    part = "text encoder" if kind == "Conditioning" else "image encoder" if kind == "ImageCondition" else "transformer"
    check = f"check the files of the {part}" + (", and of a LoRA if there is one" if part == "transformer" else "")
    if narrow:
        wider = f"set `dtype: bfloat16` or `dtype: float32` of model.load: {NARROW}"
        return f"{wider}; if that does not help, {check}; {OFF}"
    return f"{check}; {OFF}" if str(dtype) == "torch.float32" else f"{check}, or set `dtype: float32`; {OFF}"
