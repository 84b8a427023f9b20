"""The base class of a node library: everything that the graph asks of a library, beside its node types.

A library is a module. It may have one object of a class derived from `NodeLibrary`, under any name:

    class ShopLibrary(NodeLibrary):
        node_modules = ("parcels", "letters")

    shop = ShopLibrary()

A module without such an object is a library too: then the defaults below hold. The module is imported whenever node
types are looked up, so heavy imports belong into the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from .array_storage import ArrayStorage
    from .diagnostics import Diagnostic
    from .events import Observer
    from .file_edits import FileEdit
    from .kernel_caches import KernelCache
    from .library_command import LibraryCommand, RunOption
    from .likeness import Likeness
    from .machine_limits import MachineLimits, WorkMeter
    from .node import Run
    from .previews import Previews
    from .processes import Mesh
    from .rank_start import JoinedRanks, PlannedRanks, RankPlace, StartedRanks
    from .report_section import ReportSection
    from .second_stream import SecondDevice, SecondStream
    from .value_statistics import ValueStatistics


class PlanMeter(Protocol):
    """Counts operations, memory and bytes that are sent while a plan is traced."""

    def take(self) -> Mapping[str, Any]:
        """Numbers since the last call: `flops`, `peak_bytes` (most bytes alive at once), `live_bytes` (alive now).

        Also, if known, `sent_bytes` (bytes that go to other processes), `dtype` (its name, for most operations) and
        `eight_bit_flops` (the part of `flops` that a run may compute with numbers of 8 bits).
        """


class NodeLibrary:
    """A node library. Each attribute and method has a default that does nothing.

    Attributes:
        node_modules: Modules with node types, relative to the library's module, such as `models.load`.
        starts_ranks: Whether `start_ranks`, `join_ranks` and `plan_ranks` work: its nodes can run in several processes.
        uses_gpu: Whether nodes can run on a GPU. Without it, `--device auto` is the CPU.
        packages: Names of Python packages. The record of every run has their versions.
        kernel_caches: Caches of the packages that compile kernels. They are kept in the user's cache folder.
        recorded_events: Kinds of events that the record lists even if none happened: `parcel` makes the list `parcels`.
        commands: Commands that the library adds to `sgd`.
        options: Options that the library adds to `sgd exec` and `sgd plan`.
        starter_sources: The sources that `starter` knows: `sgd init` writes a workflow for them.
        out_of_memory_help: One line: a change to a workflow that needs too much memory.
        example_file: A file that comes with the library, as `sgd:` name. `sgd init --memory` plans with it where a
            workflow needs a path.
    """

    node_modules: Sequence[str] = ()
    starts_ranks: bool = False
    uses_gpu: bool = False
    packages: Sequence[str] = ()
    kernel_caches: Sequence[KernelCache] = ()
    recorded_events: Sequence[str] = ()
    commands: Sequence[LibraryCommand] = ()
    options: Sequence[RunOption] = ()
    starter_sources: str = ""
    out_of_memory_help: str = ""
    example_file: str = ""

    def prepare_imports(self) -> None:
        """Called in the process of the `sgd` command, before it imports packages that the library needs."""

    def around_run(self, run: Run) -> AbstractContextManager[None]:
        """Surrounds a run, or the trace of a plan (`run.planning`), in the thread that runs the nodes."""
        return nullcontext()

    def second_stream(self, run: Run) -> SecondStream:
        """An object that orders the device's work of the two threads of a run with `--overlap`."""
        from .second_stream import SecondStream

        return SecondStream()

    def second_device(self, run: Run, device: str) -> SecondDevice:
        """An object that moves values to another device and back in a run with `--overlap-device`.

        Args:
            run: The run, for its own device.
            device: The other device, such as `cuda:1`.
        """
        from .second_stream import SecondDevice

        return SecondDevice()

    def start_ranks(self, command: Sequence[str], count: int, logs: Path) -> StartedRanks:
        """Start processes that compute a run together.

        Args:
            command: The words of the command that each of them runs.
            count: The number of processes.
            logs: A folder for the output of all ranks but 0, which writes to the terminal.

        Raises:
            NodeError: If they cannot be started.
        """
        raise NotImplementedError

    def join_ranks(self, place: RankPlace, mesh: Mesh, device: str) -> JoinedRanks:
        """Reach the board of the other ranks, from one of them; `join` joins them. Nothing has used the device before.

        Raises:
            NodeError: If there is no board.
        """
        raise NotImplementedError

    def plan_ranks(self, mesh: Mesh) -> PlannedRanks:
        """The ranks of a planned run, so that each can be traced."""
        raise NotImplementedError

    def import_packages(self, run: Run) -> None:
        """Import the packages that most nodes need: the time counts as import, and no node is charged for it.

        Called inside `around_run`, before the first node. Not called if a store has so much that no part of a value is
        acquired, such as a component of a model: nodes then import for themselves.
        """

    def value_checks(self, run: Run) -> Sequence[Observer]:
        """Checks of the values of a run, or of the trace of a plan; every loaded library is asked.

        A check receives the events of the executor from `node_started` to `loop_finished`, and `run_finished` after
        the last step. It raises `WrongValue` to end the run. Other observers cannot end a run.

        With `--overlap`, each thread has checks of its own. The checks of the run's own thread hear of the calls of
        the second thread before these run, without arguments and outputs.
        """
        return ()

    def value_statistics(self, value: Any) -> Sequence[ValueStatistics]:
        """Statistics of every tensor of a value, wherever it lies in it, for `--trace-values`.

        The loaded libraries are asked in order, until one finds a tensor.
        """
        return ()

    def array_storage(self, run: Run) -> ArrayStorage | None:
        """Stores the library's arrays, such as tensors, in the snapshots of a run; None if it has none."""
        return None

    def plan_meter(self, run: Run) -> AbstractContextManager[PlanMeter] | None:
        """Surrounds the trace of a plan and counts operations and memory in it; None counts nothing."""
        return None

    def previews(self) -> Previews:
        """The previews of one run, for `sgd exec --preview N`."""
        from .previews import Previews

        return Previews()

    def work_meter(self, run: Run) -> WorkMeter | None:
        """Counts the work of single calls of the library's nodes, while they run; None counts nothing."""
        return None

    def limits_key(self, device: str) -> str | None:
        """A name for a device whose limits this library can measure, with all that changes them; None otherwise."""
        return None

    def measure_limits(self, device: str) -> MachineLimits:
        """Measure the limits of a device, within a few seconds. Called if `limits_key` gives a name."""
        raise NotImplementedError

    def table_section(self, record: Mapping[str, Any]) -> str:
        """Text below the table of `sgd exec`, from the record of the run; empty for none."""
        return ""

    def computed_share(self, record: Mapping[str, Any]) -> float | None:
        """The share of the steps of a run's loops that were computed in full, from its record.

        None if the library's nodes reuse nothing in this run.
        """
        return None

    def report_sections(self, record: Mapping[str, Any]) -> Sequence[ReportSection]:
        """Sections of the report of a run (`sgd report`), from its record. The record may be one of a failed run."""
        return ()

    def memory_advice(self, estimate: Mapping[str, Any]) -> list[str]:
        """Lines of advice for a plan that does not fit the device.

        Args:
            estimate: The result of `sgd plan --json`.
        """
        return []

    def memory_edits(self, estimate: Mapping[str, Any], origins: Mapping[str, str]) -> Sequence[FileEdit]:
        """Edits of the file that make a plan fit the device, or bring it nearer.

        Args:
            estimate: The result of `sgd plan --json`.
            origins: For each node, the node that its parts come from (`Shares`), or itself.
        """
        return ()

    def chosen_edits(self, estimate: Mapping[str, Any], origins: Mapping[str, str]) -> Sequence[FileEdit]:
        """Edits that write into the file what nodes chose in the plan because of the device's memory.

        Args:
            estimate: The result of `sgd plan --json`.
            origins: See `memory_edits`.
        """
        return ()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an error of the library's packages says that memory ran out. `MemoryError` is known without it."""
        return False

    def machine_facts(self) -> Mapping[str, Mapping[str, str]]:
        """Sections of `sgd doctor`: facts about this machine by name."""
        return {}

    def foreign_file(self, path: Path) -> Diagnostic | None:
        """The problem of a file that is no workflow but belongs to another program; None for every other file.

        The message says what the file is, and the help what to do instead. Called with files that cannot be read as
        workflows, which may hold anything.
        """
        return None

    def recipe_text(self, path: Path) -> str | None:
        """The recipe in a file that a node of the library may have written, such as a picture.

        Called with files that may hold anything. It must tell from the first bytes whether a file is of such a kind.

        Returns:
            The text that `Run.recipe` gave; empty if the file is of such a kind but has none; None for other files.

        Raises:
            NodeError: If the file is of such a kind, but damaged, or its text is too long.
        """
        return None

    def likeness(
        self, before: Path, after: Path, progress: Callable[[int], None], network: Path | None = None
    ) -> Likeness | None:
        """How alike the pixels of two files are; None if the library does not know what kind of file one of them is.

        Args:
            before: The reference.
            after: The file that is compared with it.
            progress: Called with the number of frames that are compared, after each frame.
            network: The file with the network of LPIPS; None without LPIPS.

        Raises:
            NodeError: If one of the files cannot be read.
            UnfitNetwork: If `network` cannot be read, or is of no known kind.
        """
        return None

    def source_path(self, source: str, arguments: Mapping[str, Any]) -> Path | None:
        """The file or folder on this disk that a name in a parameter of the type `Source` stands for.

        Args:
            source: The name; it is no path.
            arguments: The literals of the call by parameter.

        Returns:
            The path; None if the library does not know the name, or its files are not on this disk.
        """
        return None

    def starter(self, source: str) -> tuple[str, str] | None:
        """Name and text of a first workflow for a source, for `sgd init`; None if the library knows no such source.

        Raises:
            NodeError: If the source is one of the library's, and there is no workflow for it.
        """
        return None
