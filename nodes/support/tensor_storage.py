"""Tensors of torch and arrays of NumPy as bytes of safetensors files, and back: equal numbers, strides and devices."""

from __future__ import annotations

import sys
from math import prod
from typing import TYPE_CHECKING, Any

from ...graph.contract.array_storage import StoredArray

if TYPE_CHECKING:
    import torch

DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
}
"""Names of safetensors (Dtype in safetensors/src/tensor.rs of safetensors 0.8) by those of torch and NumPy."""
NAMES = {stored: name for name, stored in DTYPES.items()}


class TensorStorage:
    """The storage of arrays of a run; an `ArrayStorage`.

    Args:
        device: The device of the run.
    """

    def __init__(self, device: str) -> None:
        self.device = device

    def holds(self, value: Any) -> bool:
        torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
        if torch is not None and type(value) is torch.Tensor:
            dense = value.layout is torch.strided and not value.is_meta and not value.is_quantized
            return dense and str(value.dtype).removeprefix("torch.") in DTYPES
        return numpy is not None and type(value) is numpy.ndarray and value.dtype.name in DTYPES

    def finite(self, value: Any) -> bool:
        import torch

        tensor = torch.as_tensor(value)
        if tensor.is_floating_point() and tensor.dtype.itemsize == 1:
            tensor = tensor.float()  # torch has no test for 8 bits
        return bool(torch.isfinite(tensor).all())

    def moment(self) -> Any:
        if not self.device.startswith("cuda"):
            return None
        import torch

        mark = torch.cuda.Event()
        mark.record()
        return mark

    def stored(self, value: Any, moment: Any = None) -> StoredArray:
        import torch

        if moment is not None and isinstance(value, torch.Tensor) and value.is_cuda:
            beside = torch.cuda.Stream(value.device)
            beside.wait_event(moment)
            with torch.cuda.stream(beside):
                return self.stored(value)

        if not isinstance(value, torch.Tensor):
            import numpy

            return StoredArray(
                DTYPES[value.dtype.name], value.shape, numpy.ascontiguousarray(value).tobytes(), {"numpy": True}
            )
        # The same order in memory gives the same order of additions, and so the same bits.
        strides = value.stride()
        order = sorted(range(value.dim()), key=lambda dim: (-strides[dim], dim))
        host = value.detach().permute(order).cpu().contiguous()
        data = host.reshape(-1).view(torch.uint8).numpy().data if host.numel() else b""
        form: dict[str, Any] = {"order": order} if order != list(range(value.dim())) else {}
        if value.device.type != "cpu":
            form["device"] = "run"
        return StoredArray(DTYPES[str(value.dtype).removeprefix("torch.")], tuple(host.shape), data, form)

    def restored(self, stored: StoredArray) -> Any:
        import torch

        if stored.dtype not in NAMES:
            raise ValueError(f"there is no dtype {stored.dtype!r}")
        name, form = NAMES[stored.dtype], stored.form
        if form.get("numpy"):
            import numpy

            return numpy.frombuffer(bytearray(stored.data), dtype=name).reshape(stored.shape)
        dtype: torch.dtype = getattr(torch, name)
        if len(stored.data) != prod(stored.shape) * dtype.itemsize:
            raise ValueError("the bytes of a tensor do not fit its shape")
        found = torch.empty(stored.shape, dtype=dtype)
        if found.numel():
            found.reshape(-1).view(torch.uint8).copy_(torch.frombuffer(bytearray(stored.data), dtype=torch.uint8))
        order = form.get("order")
        if order is not None:
            if sorted(order) != list(range(found.dim())):
                raise ValueError("the order of a tensor's dimensions is not one")
            found = found.permute([order.index(dim) for dim in range(found.dim())])
        return found.to(self.device) if form.get("device") == "run" else found
