"""Values as bytes and tensors, to send them from one rank to others. Only processes of one run read these bytes."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....graph.contract.errors import NodeError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TensorForm:
    """How a tensor is made again from its numbers, which are sent in the order of memory."""

    shape: tuple[int, ...]
    order: tuple[int, ...]
    dtype: torch.dtype
    device: str

    def of_bytes(self, numbers: torch.Tensor) -> torch.Tensor:
        """The tensor. `numbers`: the bytes, uint8 [n]."""
        dense = numbers.view(self.dtype).reshape(self.shape)
        return dense.permute([self.order.index(dim) for dim in range(len(self.order))])


@dataclass(frozen=True)
class SentValue:
    """A value without the numbers of its tensors."""

    content: bytes
    forms: tuple[TensorForm, ...]


class _Pickler(pickle.Pickler):
    """Leaves tensors out of the bytes, and keeps them in `tensors`."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[torch.Tensor] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        import torch

        if type(value) is not torch.Tensor:
            return None
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return self._numbers[id(value)]


class _Unpickler(pickle.Unpickler):
    """Puts tensors back in."""

    def __init__(self, file: io.BytesIO, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_load(self, number: Any) -> torch.Tensor:
        return self._tensors[number]


def packed(value: Any) -> tuple[SentValue, list[torch.Tensor]]:
    """A value, and the bytes of its tensors as uint8 [n], on their devices.

    Raises:
        Exception: Of the `pickle` module, if the value cannot be sent.
    """
    import torch

    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    forms, numbers = [], []
    for tensor in pickler.tensors:
        strides = tensor.stride()
        # The same order in memory gives the same order of additions, and so the same bits.
        order = tuple(sorted(range(tensor.dim()), key=lambda dim: (-strides[dim], dim)))
        dense = tensor.detach().permute(order).contiguous()
        forms.append(TensorForm(tuple(dense.shape), order, dense.dtype, dense.device.type))
        numbers.append(dense.reshape(-1).view(torch.uint8))
    return SentValue(file.getvalue(), tuple(forms)), numbers


def cannot_send(value: Any, reason: str) -> NodeError:
    """The error of a value that `packed` refuses."""
    return NodeError(f"a {type(value).__name__} cannot be sent to other processes: {reason}")


def unpacked(sent: SentValue, numbers: Sequence[torch.Tensor]) -> Any:
    """The value again. `numbers`: the bytes of each tensor, in order."""
    tensors = [form.of_bytes(each) for form, each in zip(sent.forms, numbers, strict=True)]
    return _Unpickler(io.BytesIO(sent.content), tensors).load()
