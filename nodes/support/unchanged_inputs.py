"""A check of every call: it changes no tensor that it received, and returns tensors on the device of the run.

Torch counts the changes of a tensor in place (`Tensor._version`), so the check reads no numbers. Memory that NumPy, or
`Tensor.data`, writes into is not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import WrongValue
from ...graph.contract.events import CallInfo, Observer
from ...graph.contract.node import Run
from ...graph.contract.ports import Port
from .value_tensors import has_none, tensors_of

if TYPE_CHECKING:
    import torch


Found = Sequence[tuple[str, "torch.Tensor", Any]]
"""Tensors of a value, as `tensors_of` gives them."""


class Tracked:
    """The tensors of one value, as they were when the value was made.

    Attributes:
        tensors: The tensors; one that counts no changes (made in `torch.inference_mode`) is left out.
        versions: The number of changes of each.
        paths: The path of each in the value.
        holders: Lists and mappings with tensors, and the identities of their entries.
        made: The call that made the value and its port; None for a value that no call made.
    """

    __slots__ = ("holders", "made", "paths", "reference", "tensors", "versions")

    def __init__(self, found: Found, made: tuple[CallInfo, str] | None) -> None:
        self.tensors: list[torch.Tensor] = []
        self.paths: list[str] = []
        holders: dict[int, tuple[str, Any]] = {}
        for path, tensor, holder in found:
            if not tensor.is_inference():
                self.tensors.append(tensor)
                self.paths.append(path)
            if isinstance(holder, dict | list):
                holders[id(holder)] = (path.rpartition(".")[0] or path.partition("[")[0], holder)
        self.versions = [tensor._version for tensor in self.tensors]
        self.holders = [(path, holder, entries(holder)) for path, holder in holders.values()]
        self.made = made
        self.reference: Any = None

    def changed(self) -> str | None:
        """The path of the first tensor, list or mapping that was changed; None if none was."""
        if [tensor._version for tensor in self.tensors] != self.versions:
            each = zip(self.paths, self.tensors, self.versions, strict=True)
            return next(path for path, tensor, version in each if tensor._version != version)
        for path, holder, before in self.holders:
            if entries(holder) != before:
                return path
        return None


def entries(holder: dict[Any, Any] | list[Any]) -> list[int]:
    """The identities of the entries of a list or mapping."""
    return list(map(id, holder.values() if isinstance(holder, dict) else holder))


class UnchangedInputs(Observer):
    """Raises `WrongValue` for a call that changes an input in place or returns a tensor of another device.

    Args:
        run: The run, for its device.
    """

    def __init__(self, run: Run) -> None:
        self.device = run.device
        # A node that makes tensors on the CPU may do so in the plan of a run on the CPU.
        self.devices = (run.device, str(run.options.get("device", "cpu"))) if run.planning else (run.device,)
        self.tracked: dict[int, Tracked] = {}
        self.given: list[tuple[str, Tracked]] = []
        self.lists: list[tuple[str, list[Any], list[int]]] = []

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        given = self.given = []
        for name, value in arguments.items():
            if isinstance(value, list) and value and isinstance(value[0], Port):  # a list of plain values is its own
                self.lists.append((name, value, entries(value)))
            for each in value if isinstance(value, list | tuple) else (value,):
                if has_none(type(each)):
                    continue
                tracked = self.tracked.get(id(each))
                if tracked is None or (tracked.made is None and tracked.changed() is not None):
                    tracked = self.track(each, list(tensors_of(each)), None)
                elif tracked.made is not None and tracked.changed() is not None:
                    maker, port = tracked.made
                    raise WrongValue(
                        f"a tensor of its output `{port}` was changed after it was returned, before {call.id} read it",
                        call=maker,
                        help="return a new tensor at every call: a tensor that a state keeps must be cloned",
                    )
                given.append((name, tracked))

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        given, lists = self.given, self.lists
        self.given, self.lists = [], []
        for name, tracked in given:
            path = tracked.changed()
            if path is not None:
                raise WrongValue(
                    f"it changed `{path}` of its input `{name}` in place, which other nodes read too",
                    help="work on a copy (`tensor.clone()`), or use an operation without `_` at its end",
                )
        for name, value, before in lists:
            if entries(value) != before:
                message = f"it changed the list of its input `{name}`, which other nodes read too"
                raise WrongValue(message, help="make a new list")
        for port, value in outputs.items():
            for each in value if isinstance(value, list | tuple) else (value,):
                if not has_none(type(each)) and id(each) not in self.tracked:
                    found = list(tensors_of(each))
                    self.require_device(port, found, getattr(type(each), "on_run_device", True))
                    self.track(each, found, (call, port))

    def node_failed(self, call: CallInfo, error: BaseException) -> None:
        self.given, self.lists = [], []

    def track(self, value: Any, found: Found, made: tuple[CallInfo, str] | None) -> Tracked:
        """Remember the tensors of a value for as long as the value lives."""
        tracked, key = Tracked(found, made), id(value)
        with suppress(TypeError):  # a class with slots cannot be followed; its values are looked at again each time
            tracked.reference = weakref.ref(value, lambda _: self.tracked.pop(key, None))
            self.tracked[key] = tracked
        return tracked

    def require_device(self, port: str, found: Found, on_run_device: bool) -> None:
        """Raise `WrongValue` if a tensor of an output lies on another device than the run.

        Values of some types may stay in the host's memory (`Port.on_run_device`). A single number may stay on the CPU,
        where torch takes it for every device. So may numbers in a mapping that are not floating-point, and masks: a
        node that reads lengths or masks must not wait for a GPU.
        """
        for path, tensor, holder in found:
            kind, place = tensor.device.type, str(tensor.device)
            if kind in self.devices or place in self.devices:
                continue
            stays = not on_run_device or not tensor.dim() or (isinstance(holder, Mapping) and _stays(path, tensor))
            if kind == "cpu" and stays:
                continue
            where = f"`{path}` of its output `{port}`" if path else f"its output `{port}`"
            raise WrongValue(
                f"{where} is on the device {place}, but the run is on {self.device}",
                help="make tensors on `run.device`, or on the device of an input: `tensor.to(other.device)`",
            )


def _stays(path: str, tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or "mask" in path.rpartition(".")[2]
