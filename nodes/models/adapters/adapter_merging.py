"""Merge adapters into the weights of a module, one layer after the other.

Every adapter of a layer is added in float32, in the order in which the files are given; the sum is cast to the dtype of
the weights once. A layer of a file may be several layers of the model. Its weights are joined, changed, and split
again, so that each form of adapter handles one weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ....graph.contract.errors import NodeError
from ..repository.weight_files import AGAIN
from . import adapter_deltas, adapter_forms
from .adapter_forms import BIASES
from .adapter_match import Adapter, Match
from .layer_table import LayerTable, Pieces

TRAINED = "its training may have failed: use an earlier state of it"
SMALLER = "give model.lora a smaller scale, or model.load a wider dtype (bfloat16 or float32)"


@dataclass(frozen=True)
class MatchedFile:
    """A file of adapters, its match with the model, and the strength at which it acts."""

    file: Path
    match: Match
    scale: float


def merge(
    module: torch.nn.Module,
    table: LayerTable,
    files: Sequence[MatchedFile],
    device: str,
    spare: torch.nn.Module | None = None,
) -> None:
    """Replace the weights of some layers by weights with merged adapters.

    Only `module` changes. Its old tensors, which other modules may share, stay unchanged.

    Args:
        module: The transformer.
        table: Its layers.
        files: The adapters, which fit the table.
        device: Where to compute.
        spare: A module whose tensors the first one shares, and that nobody else reads: a tensor that is replaced has
            no memory there any more, so that both together never take much more than one.

    Raises:
        NodeError: If a tensor cannot be read, or has a value that is not finite or too large.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(each.file, framework="pt")) for each in files]
        adapters = [
            (each, source, adapter)
            for each, source in zip(files, opened, strict=True)
            if each.scale  # a file with scale 0 changes nothing, also a DoRA
            for adapter in each.match.adapters
        ]
        for number_of in _groups([adapter for _, _, adapter in adapters]):
            layers = _Layers(module, table, device)
            for number in number_of:
                each, source, adapter = adapters[number]
                layers.add(adapter, _read(source, adapter, each.file, device), each)
            layers.write(spare)


def _read(source: Any, adapter: Adapter, file: Path, device: str) -> dict[str, torch.Tensor]:
    """The parts of an adapter but its alpha, in float32.

    Raises:
        NodeError: If a tensor cannot be read, or has a value that is not finite.
    """
    parts: dict[str, torch.Tensor] = {}
    for part, key in adapter.keys.items():
        if part == "alpha":
            continue
        try:
            tensor = source.get_tensor(key).to(device)
        except SafetensorError as error:
            raise NodeError(f"{file.name}: {key} cannot be read: {error}", help=AGAIN) from error
        parts[part] = tensor.float()
        if not _within(parts[part], torch.finfo(torch.float32).max):
            raise NodeError(f"{file.name}: {key} has values that are not finite (NaN or infinity)", help=TRAINED)
    return parts


def _within(tensor: torch.Tensor, limit: float) -> bool:
    """Whether all values of a float32 tensor are numbers of at most this size. Faster than `isfinite` on a CPU."""
    low, high = torch.aminmax(tensor)  # NaN if one value is
    return bool((low >= -limit) & (high <= limit))


def _groups(adapters: Sequence[Adapter]) -> Iterator[list[int]]:
    """Group the adapters that share layers, so that each layer is read and written once. The order is kept."""
    groups: list[tuple[set[str], list[int]]] = []
    of_layer: dict[str, int] = {}
    for number, adapter in enumerate(adapters):
        layers = {piece.layer for piece in adapter.pieces}
        joined = sorted({of_layer[layer] for layer in layers if layer in of_layer})
        target = joined[0] if joined else len(groups)
        if not joined:
            groups.append((set(), []))
        for other in joined[1:]:
            groups[target][0].update(groups[other][0])
            groups[target][1].extend(groups[other][1])
            groups[other][0].clear()
            groups[other][1].clear()
        groups[target][0].update(layers)
        groups[target][1].append(number)
        of_layer |= dict.fromkeys(groups[target][0], target)
    for _, numbers in groups:
        if numbers:
            yield sorted(numbers)


def put(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Set the parameter with this name to a tensor."""
    path, _, last = name.rpartition(".")
    setattr(module.get_submodule(path), last, torch.nn.Parameter(tensor, requires_grad=False))


class _Layers:
    """The parameters of a few layers in float32, while adapters are added to them."""

    def __init__(self, module: torch.nn.Module, table: LayerTable, device: str) -> None:
        self.module = module
        self.table = table
        self.device = device
        self.parameters: dict[str, torch.Tensor] = {}

    def add(self, adapter: Adapter, parts: dict[str, torch.Tensor], file: MatchedFile) -> None:
        """Add one adapter, whose parts are in float32."""
        own, rule, alpha = adapter.shapes, file.match.scale, adapter.alpha
        forms = adapter_forms.forms(own)
        if forms:
            weight = self._read(adapter.pieces)
            changed = weight
            for form in forms:
                factor = rule.factor(adapter.stem, form, adapter_forms.rank(form, own), alpha)
                change = adapter_deltas.delta(form, parts, weight)
                changed = torch.add(changed, change, alpha=file.scale * factor)
            shape = self.table.shape(adapter.pieces)
            self._keep(adapter.pieces, adapter_deltas.decomposed(parts, changed, shape))
        for part in BIASES:
            if part in parts:
                factor = 1.0
                if part == "lora_up_bias":
                    factor = rule.factor(adapter.stem, "lora", adapter_forms.rank("lora", own), alpha)
                bias = self._read(adapter.pieces, bias=True)
                change = parts[part].reshape(bias.shape)
                self._keep(adapter.pieces, torch.add(bias, change, alpha=file.scale * factor), bias=True)

    def write(self, spare: torch.nn.Module | None) -> None:
        """Put the parameters into the module, in the dtype and on the device that they had; take them from `spare`.

        Raises:
            NodeError: If a value does not fit the dtype.
        """
        for name, made in self.parameters.items():
            old = self.module.get_parameter(name)
            new = made.reshape(old.shape).to(device=old.device, dtype=old.dtype)
            if not _within(made, torch.finfo(old.dtype).max) and not new.isfinite().all() and old.isfinite().all():
                dtype = str(old.dtype).removeprefix("torch.")
                raise NodeError(f"{name} with its LoRA has values that {dtype} cannot hold", help=SMALLER)
            put(self.module, name, new)
            if spare is not None:
                put(spare, name, torch.empty_like(old, device="meta"))

    def _read(self, pieces: Pieces, *, bias: bool = False) -> torch.Tensor:
        """The rows of a layer in the file's order, [out, rest]."""
        rows = [self._parameter(self._name(piece.layer, bias))[piece.start : piece.stop] for piece in pieces]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _keep(self, pieces: Pieces, made: torch.Tensor, *, bias: bool = False) -> None:
        for piece, rows in zip(pieces, made.split([piece.rows for piece in pieces]), strict=True):
            self._parameter(self._name(piece.layer, bias))[piece.start : piece.stop] = rows

    def _name(self, layer: str, bias: bool) -> str:
        if bias:
            return f"{layer}.bias"
        return layer if layer in self.table.shapes else f"{layer}.weight"

    def _parameter(self, name: str) -> torch.Tensor:
        """A float32 copy of a parameter, as a matrix [out, rest]."""
        if name not in self.parameters:
            tensor = self.module.get_parameter(name).detach()
            copy = tensor.to(device=self.device, dtype=torch.float32, copy=True)
            self.parameters[name] = copy.reshape(tensor.shape[0], -1)
        return self.parameters[name]
