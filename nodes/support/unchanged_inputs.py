"""A check of every call: it changes no tensor that it received, and returns tensors on the device of the run.

Torch counts the changes of a tensor in place (`Tensor._version`), so the check reads no numbers. Memory that NumPy, or
`Tensor.data`, writes into is not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...graph.contract.errors import WrongValue
from ...graph.contract.events import CallInfo, Observer
from ...graph.contract.node import Run
from .value_tensors import PLAIN, tensors_of

if TYPE_CHECKING:
    import torch


class Tracked:
    """The tensors of one value, with the number of changes that each had when the value was made.

    Attributes:
        tensors: The tensors; one that counts no changes (made in `torch.inference_mode`) is left out.
        versions: The number of changes of each.
        paths: The path of each in the value.
        made: The call that made the value and its port; None for a value that no call made.
    """

    __slots__ = ("made", "paths", "reference", "tensors", "versions")

    def __init__(self, value: Any, made: tuple[CallInfo, str] | None) -> None:
        self.tensors: list[torch.Tensor] = []
        self.paths: list[str] = []
        for path, tensor, _ in tensors_of(value):
            if not tensor.is_inference():
                self.tensors.append(tensor)
                self.paths.append(path)
        self.versions = [tensor._version for tensor in self.tensors]
        self.made = made
        self.reference: Any = None

    def changed(self) -> str | None:
        """The path of the first tensor that was changed; None if none was. The new state is the one to compare with."""
        now = [tensor._version for tensor in self.tensors]
        if now == self.versions:
            return None
        found = next(path for path, a, b in zip(self.paths, now, self.versions, strict=True) if a != b)
        self.versions = now
        return found


class UnchangedInputs(Observer):
    """Raises `WrongValue` for a call that changes an input in place or returns a tensor of another device.

    Args:
        run: The run, for its device.
    """

    def __init__(self, run: Run) -> None:
        self.device = run.device
        self.tracked: dict[int, Tracked] = {}
        self.given: list[tuple[str, Tracked]] = []

    def node_started(self, call: CallInfo, arguments: Mapping[str, Any]) -> None:
        given = self.given = []
        for name, value in arguments.items():
            for each in value if isinstance(value, list | tuple) else (value,):
                if type(each) in PLAIN:
                    continue
                tracked = self.tracked.get(id(each)) or self.track(each, None)
                if not tracked.tensors:
                    continue
                if tracked.changed() is not None and tracked.made is not None:
                    maker, port = tracked.made
                    raise WrongValue(
                        f"a tensor of its output `{port}` was changed after it was returned, before {call.id} read it",
                        call=maker,
                        help="return a new tensor at every call: a tensor that a state keeps must be cloned",
                    )
                given.append((name, tracked))

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        given, self.given = self.given, []
        for name, tracked in given:
            path = tracked.changed()
            if path is not None:
                tensor = f"`{path}` of its input `{name}`" if path else f"its input `{name}`"
                raise WrongValue(
                    f"it changed {tensor} in place, which other nodes read too",
                    help="work on a copy (`tensor.clone()`), or use an operation without `_` at its end",
                )
        for port, value in outputs.items():
            for each in value if isinstance(value, list | tuple) else (value,):
                if type(each) not in PLAIN and id(each) not in self.tracked:
                    self.require_device(port, each)
                    self.track(each, (call, port))

    def node_failed(self, call: CallInfo, error: BaseException) -> None:
        self.given = []

    def track(self, value: Any, made: tuple[CallInfo, str] | None) -> Tracked:
        """Remember the tensors of a value for as long as the value lives."""
        tracked, key = Tracked(value, made), id(value)
        with suppress(TypeError):  # a class with slots cannot be followed; its values are looked at again each time
            tracked.reference = weakref.ref(value, lambda _: self.tracked.pop(key, None))
            self.tracked[key] = tracked
        return tracked

    def require_device(self, port: str, value: Any) -> None:
        """Raise `WrongValue` if a tensor of an output lies on another device than the run.

        A single number may stay on the CPU, where torch takes it for every device. So may numbers in a mapping that are
        not floating-point, and masks: a node that reads lengths or masks must not wait for a GPU.
        """
        for path, tensor, in_mapping in tensors_of(value):
            place = str(tensor.device)
            if place == self.device or place.partition(":")[0] == self.device:
                continue
            if place == "cpu" and (tensor.dim() == 0 or (in_mapping and _stays(path, tensor))):
                continue
            where = f"`{path}` of its output `{port}`" if path else f"its output `{port}`"
            raise WrongValue(
                f"{where} is on the device {place}, but the run is on {self.device}",
                help="make tensors on `run.device`, or on the device of an input: `tensor.to(other.device)`",
            )


def _stays(path: str, tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or "mask" in path.rpartition(".")[2]
