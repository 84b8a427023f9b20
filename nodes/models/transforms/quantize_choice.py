"""The details of a quantised component: its layers, its bytes, and how this machine multiplies. Torch-free."""

from __future__ import annotations

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.errors import NodeError
from ....graph.contract.node import Run
from ...support import device_memory
from ..attention.backends import capability, gpu, gpu_name
from ..model import Model
from . import sensitive_layers, transform_checks
from .quantize_transform import Format, bytes_saved

SCALED = (8, 9)
"""Lowest compute capability with products of e4m3: Ada."""


def run_device(run: Run) -> str:
    """The device of the run; in a plan without a choice of device, the GPU if this machine has one."""
    if not run.planning:
        return run.device
    device = str(run.options.get("device", "auto"))
    if device != "auto":
        return device
    return "cpu" if gpu() is None else "cuda"


def no_product(format: Format, device: str, dtype: str) -> str | None:
    """The reason why products of a format are computed as floats; None if the device has them."""
    if format == "int8":
        return None
    if not device.startswith("cuda"):
        return "the run is on a CPU"
    if dtype != "bfloat16":
        return f"the dtype of the model is {dtype}, and `torch._scaled_mm` gives bfloat16"
    found = capability(device)
    if found is not None and found < SCALED:
        return f"{gpu_name()} has compute capability {found[0]}.{found[1]}, and e4m3 needs 8.9"
    return None


def details(model: Model, name: str, format: Format, run: Run, timed: bool = False) -> dict[str, object]:
    """The details of the node that quantises a component.

    Args:
        model: The model.
        name: Name of the component in the repository.
        format: The format.
        run: The run or plan.
        timed: Whether a run times the layers, and quantises only those that become faster.

    Raises:
        NodeError: If the class of the component has no table of layers.
    """
    class_name = transform_checks.class_name(model, name)
    if class_name not in sensitive_layers.LAYERS:
        raise NodeError(no_table(class_name))
    selection = sensitive_layers.select(model.weights.on_meta(name))
    dtype = model.weights.dtype_name(name)
    reason = no_product(format, run_device(run), dtype)
    operator = "torch._scaled_mm" if format == "fp8" else "torch._int_mm"
    before, after = bytes_saved(selection, 4 if dtype == "float32" else 2)
    layers = f"up to {len(selection.quantized)} layers" if timed else f"{len(selection.quantized)} layers"
    sizes = f"{device_memory.size(before)} to {device_memory.size(after)}"
    found: dict[str, object] = {
        "quantize": f"{format} by {operator}" if reason is None else f"{format}, multiplied as {dtype}: {reason}",
        "quantized": f"{layers}, {sizes}" + ("; a run times them" if timed else ""),
    }
    if selection.text():
        found["stays"] = selection.text()
    if not selection.quantized:
        run.warn(f"no layer of {name} can be quantised: {selection.text()}")
    return found


def no_table(class_name: str) -> Diagnostic:
    """The problem of a class whose sensitive layers are not known."""
    known = ", ".join(sorted(sensitive_layers.LAYERS))
    message = f"{class_name} has no table of layers to quantise"
    return Diagnostic("unsupported", message, "model", help=f"transformers that can be quantised: {known}")
