"""`--trace-values`: statistics of every output tensor of every call, one line of JSON for each tensor.

This waits for the device after every call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...contract.events import CallInfo, LoopInfo, Observer
from ...contract.node_library import NodeLibrary
from .chosen_calls import EVERY, ChosenCalls
from .trace_file import GrowingFile, as_json, finish


class TraceValues(Observer):
    """Writes the statistics of outputs as calls finish.

    Args:
        file: The file.
        libraries: The loaded libraries, which know the tensors of values.
        say: Takes the text of a warning.
    """

    def __init__(self, file: GrowingFile, libraries: Sequence[NodeLibrary], say: Callable[[str], None]) -> None:
        self.file, self.libraries, self.say = file, libraries, say
        self._loops = ChosenCalls(EVERY, None)
        self._calls: dict[str, int] = {}

    def loop_started(self, loop: LoopInfo, turns: int) -> None:
        self._loops.loop_started(loop)

    def turn_started(self, loop: LoopInfo, index: int, variables: Mapping[str, Any]) -> None:
        self._loops.turn_started(loop, index)

    def loop_finished(self, loop: LoopInfo) -> None:
        self._loops.loop_finished()

    def node_finished(self, call: CallInfo, seconds: float, outputs: Mapping[str, Any]) -> None:
        number = self._calls[call.id] = self._calls.get(call.id, 0) + 1
        about = {"node": call.id, "type": call.type.name, "call": number, "turns": dict(self._loops.turns)}
        for port, value in outputs.items():
            for library in self.libraries:
                found = library.value_statistics(value)
                for each in found:
                    row = asdict(each)
                    self.file.add(as_json({**about, "port": port, "tensor": row.pop("path"), **row}) + "\n")
                if found:
                    break

    def run_finished(self, status: str, error: BaseException | None) -> None:
        finish(self.file, self.say)
