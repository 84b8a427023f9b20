"""The second thread's own device (`--overlap-device`): its components, and moves of values there and back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from ...compiler.overlaps import Overlap
from ...compiler.plan import Acquire, Release
from ...contract.errors import NodeError
from ..arguments import Environment
from ..components import Components
from ..execute import Executor
from ..failure import NodeFailed


class OtherDevice:
    """Holds the components of the tails on their device.

    The thread of the run acquires and releases them; values come and go in the second thread.

    Args:
        main: The executor of the run.
        device: The other device, such as `cuda:1`.

    Attributes:
        links: For each library of the plan, the object that moves its values there and back.
    """

    def __init__(self, main: Executor, device: str) -> None:
        self.main, self.device = main, device
        self.links = [library.second_device(main.run, device) for library in main.plan.libraries]
        self.components = Components(main.run.on(device), main.observer, main.maker, main.stop)
        self._held: dict[Acquire, set[str]] = {}  # with the loops whose tails need it

    def there(self, values: Mapping[Any, Any]) -> Environment:
        """Values of the run by key, on the other device."""
        return {key: self._through(value) for key, value in values.items()}

    def back(self, values: Mapping[Any, Any]) -> Environment:
        """Values of the second thread by key, on the device of the run."""
        found = dict(values)
        for link in self.links:
            found = {key: link.back(value) for key, value in found.items()}
        return found

    def acquire(self, overlap: Overlap, step: Acquire, environment: Environment) -> None:
        """Acquire a component for the tails of a loop.

        Raises:
            NodeFailed: If it cannot be acquired, or if it is on the device of the run already and cannot be on both.
        """
        if step in self._held:
            self._held[step].add(overlap.loop.loop.id)
            return
        value = environment[step.holder]
        with ExitStack() as stack:
            for link in self.links:
                stack.enter_context(link.around())
            there = self._through(value)
            if there is value and step in overlap.common:
                maker = self.main.maker(step.holder)
                message = f"--overlap-device: {step.part} of {maker.id} is read on both devices, but can be on only one"
                error = NodeError(message, help="write `--overlap`, which uses one device")
                raise NodeFailed(maker, {"component": step.part}, error)
            self.components.acquire(step, {**environment, step.holder: there})
        self._held[step] = {overlap.loop.loop.id}

    def release(self, overlap: Overlap) -> None:
        """Release what was acquired for the tails of a loop alone."""
        with ExitStack() as stack:
            for link in self.links:
                stack.enter_context(link.around())
            for step, loops in list(self._held.items()):
                loops.discard(overlap.loop.loop.id)
                if not loops:
                    del self._held[step]
                    self.components.release(Release(step.holder, step.part))

    def end(self) -> None:
        """Release everything that is still held, after an error."""
        with ExitStack() as stack:
            for link in self.links:
                stack.enter_context(link.around())
            self.components.release_all()

    def _through(self, value: Any) -> Any:
        for link in self.links:
            value = link.there(value)
        return value
