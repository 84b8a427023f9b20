"""Values that the executor supplies to a node: the run, the path of the node, its state, and the parts to make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .kept_values import Session
from .output_files import new_temporary
from .processes import ONE_PROCESS, Mesh, Processes, T
from .recipe_run import RecipeRun

ALL = "*"
"""The whole value, where parts of it could be named."""


@dataclass(frozen=True)
class Unkept:
    """The answer of a state that no file can hold. A resumed run starts its loop again.

    Attributes:
        reason: Why, in words, for the user.
    """

    reason: str


class State:
    """State that a node keeps from one iteration of a loop to the next.

    The executor creates one instance, without arguments, for each node and parameter in each run of the innermost
    enclosing loop.
    """

    def end(self) -> None:
        """Called when the loop ends, also after an error or an interrupt."""

    def snapshot(self) -> Any:
        """The state after an iteration, for a run that is resumed in another process; called after every iteration.

        Return plain values, tensors, values of ports, dataclasses, and lists, tuples, sets and mappings of these. A
        tensor goes in as it is, without a copy: the state never writes into it later, and replaces it instead. Lists
        and mappings that the state changes are copied.

        Returns:
            The snapshot; `Unkept` with the reason if a file cannot hold the state.
        """
        return Unkept(f"{type(self).__name__} has no `snapshot`")

    def restore(self, snapshot: Any, run: Run) -> None:
        """Take over a snapshot, before the first call in a resumed run. Required of states with `snapshot`.

        Args:
            snapshot: An equal copy of the return value of `snapshot`. Tensors are on their devices again.
            run: The run.
        """
        raise NotImplementedError

    @classmethod
    def is_divided(cls, snapshot: Any, mesh: Mesh) -> bool:
        """Whether each process of a run has only a part of such a snapshot.

        Asked for nodes that the processes compute together. The snapshot of rank 0 stands for all if every process
        answers False. A process that has nothing to keep yet may answer False although others answer True.
        """
        return False

    @classmethod
    def merged(cls, parts: Sequence[Any], mesh: Mesh) -> Any:
        """Join the snapshots of all ranks into the one that a single process would have taken. Goes with `is_divided`.

        Args:
            parts: The snapshot of each rank, in order. None for a rank other than 0 where `is_divided` is false.
            mesh: How these ranks were arranged. The ranks that restore the snapshot may be arranged in another way.
        """
        raise NotImplementedError


class Here(str):
    """The node's path in the file, such as `loop.node`."""


class Wanted(frozenset[str]):
    """The parts of the node's only output that other nodes read. It contains `*` if a node reads the whole value."""

    def __contains__(self, part: object) -> bool:
        return frozenset.__contains__(self, part) or frozenset.__contains__(self, ALL)


class Run(RecipeRun):
    """The run, for a node; the executor supplies a subclass.

    Attributes:
        device: `cpu`, `cuda` or, while planning, `meta`; in the second thread of a run with `--overlap-device`, such as
            `cuda:1`.
        planning: True while the plan is traced on meta tensors: nothing is computed, nothing is written.
        options: Values of the options that node libraries add to `sgd exec` and `sgd plan`, and `device`.
        ranges: Whether an observer listens to ranges.
        session: What libraries keep between runs of this process; None if nothing is kept.
        processes: The processes that compute this run together.
        waits: Whether this process is free to load, since it waits for a node that another process runs.
    """

    device: str = "cpu"
    planning: bool = False
    ranges: bool = False
    options: Mapping[str, Any] = {}
    session: Session | None = None
    processes: Processes = ONE_PROCESS
    waits: bool = False

    def output(self, path: Path | str) -> Path:
        """The absolute path for an output file; its folder exists.

        Raises:
            NodeError: If the path lies outside the output folder, or exists and may not be overwritten.
        """
        raise NotImplementedError

    def temporary(self, target: Path) -> Path:
        """A new empty file beside an output file (`target`, from `output`), with a name that nobody can guess.

        Write to it, and then rename it to the output file (`temporary.replace(target)`): a reader never sees half of
        the file. The run removes it if the node fails, and the next run in this folder if the process is killed.

        Raises:
            NodeError: If it cannot be created.
        """
        return new_temporary(target)

    def agree(self, value: T) -> T:
        """The value of rank 0, where several processes compute the run: see `Processes.agree`."""
        return self.processes.agree(value)

    def progress(self, done: int, total: int, label: str = "") -> None:
        """Report progress inside a long node."""

    def choice(self, name: str) -> Any:
        """The choice that a resumed run had made under a name before; None in a new run, or if there was none."""
        return None

    def chose(self, name: str, value: Any) -> None:
        """Note a choice that depends on the machine's state, such as timings. A resumed run makes the same one.

        Args:
            name: A name that only this choice has, and that is equal in a resumed run.
            value: A plain value other than None.
        """

    def at_hand(self) -> Iterable[Any]:
        """The values that later nodes read, while the run loads a component; empty at other times.

        A loader can choose by their sizes.
        """
        return ()

    def ending(self) -> bool:
        """Whether the run is at its end, so that work ahead of time serves nobody."""
        return False

    def loading(self, part: str, total: int, loaded: Callable[[], int]) -> None:
        """Tell that a component is being loaded. It is over when the component is in memory.

        Args:
            part: Its name.
            total: Bytes of its files.
            loaded: Gives the bytes that were read so far. It is called from another thread, a few times in a second,
                and only where somebody looks.
        """

    def detail(self, **values: Any) -> None:
        """Add facts about this call to the plan and the record."""

    def current(self) -> object:
        """The present call, for `on_behalf`; None outside of a run."""
        return None

    def on_behalf(self, call: object) -> AbstractContextManager[None]:
        """Inside `with`, details and warnings belong to an earlier call of this run.

        Args:
            call: The call, from `current`. None changes nothing.
        """
        return nullcontext()

    def event(self, kind: str, **data: Any) -> None:
        """Report an event of this kind to the observers."""

    def range(self, kind: str, name: str) -> AbstractContextManager[None]:
        """Surround a part of this call, such as a `block`, for profilers. Nothing is done unless `ranges` is true."""
        return nullcontext()

    def warn(self, message: str, parameter: str | None = None) -> None:
        """Add a warning, shown once and kept in the record.

        Args:
            message: The problem, and how to solve it.
            parameter: The parameter that it is about; the warning names the place of its value in the file.
        """


NO_RUN = Run()
"""The run of a node that is called outside of any run: it drops details and warnings."""
