"""The snapshots of one run: how it was started, its keeper, and the facts that it takes over from an earlier run."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..compiler.plan import Plan
from ..contract.array_storage import ArrayStorage
from ..contract.errors import NodeError
from ..contract.processes import Mesh
from ..resume.keeper import Facts, Keeper
from ..resume.position import Positions, Start
from ..resume.snapshot_folder import SnapshotFolder
from ..resume.snapshot_reading import Resumed
from ..store.entries import FolderStore, Store
from .context import Context
from .ranks.placed_steps import PlacedSteps
from .ranks.rank_positions import RankPositions
from .record import Recorder
from .record_values import clean
from .resume_checks import code_of_plan, states_of_plan

EVERY = 30.0
"""Seconds from one snapshot to the next."""
CLOSE_SECONDS = 3.0
"""Seconds in which a run of several processes may write its last position. The run must end within five."""


@dataclass(frozen=True)
class Snapshots:
    """How a run writes snapshots.

    Attributes:
        every: Seconds from one snapshot to the next, at least 0; more where writing would take over 1 % of the time.
        source: The file whose workflow runs, where that is not the file of the plan: a record, a picture or a clip.
        libraries: The files of `--library`.
        resumed: Where the run goes on; None for a new run.
        overlap: Whether the run has a second thread (`--overlap`), or the name of the device of that thread. A resumed
            run has the same.
    """

    every: float = EVERY
    source: Path | None = None
    libraries: tuple[Path, ...] = ()
    resumed: Resumed | None = None
    overlap: bool | str = False

    def __post_init__(self) -> None:
        if not 0 <= self.every < float("inf"):
            raise NodeError(
                f"a run cannot write a snapshot every {self.every:g} seconds", help="give 0 or more seconds"
            )


class RunSnapshots:
    """The snapshots of a run under way.

    A new run replaces the folder of snapshots that an earlier one left. A run that cannot write there has a warning
    and goes on.

    Args:
        snapshots: How they are written; None for no snapshots.
        plan: The plan.
        context: The run.
        recorder: The recorder of the run.
        mesh: How the processes of the run are arranged. This is rank 0.
        store: The store of the run.

    Attributes:
        keeper: Hears of positions; None without snapshots.
        resumable: Whether `sgd resume` can go on with the run.
    """

    def __init__(
        self,
        snapshots: Snapshots | None,
        plan: Plan,
        context: Context,
        recorder: Recorder,
        mesh: Mesh,
        store: Store | None = None,
    ) -> None:
        self.plan, self.context, self.folder, self.mesh = plan, context, SnapshotFolder(context.out), mesh
        self.resumed = snapshots.resumed if snapshots is not None else None
        self.keeper: Keeper | None = None
        self._keys: str | None = None
        self.resumable = self.resumed is not None
        files: Sequence[Path] = ()
        if self.resumed is not None:
            files = self._take_over(self.resumed, recorder)
        try:
            if self.resumed is None:
                self.folder.remove()
                if snapshots is None or plan.recipe is None:
                    return
                self.folder.begin(started(snapshots, plan, context, mesh, store))
                self.resumable = True
        except OSError as error:
            context.warn(f"the run cannot be resumed: {self.folder.path}: {error.strerror or error}")
            return
        assert snapshots is not None
        facts = Facts(recorder.so_far, self._more, context.warn)
        self.keeper = Keeper(self.folder, plan, self.storages, snapshots.every, facts, files)

    def _take_over(self, resumed: Resumed, recorder: Recorder) -> list[Path]:
        """Give the record, the choices and the files of the earlier run to this one."""
        effects = resumed.finished_effects(self.context.out)
        recorder.resume(resumed.record, effects)
        self.context.earlier_choices = resumed.choices
        self.context.choices |= resumed.choices
        if self.context.used is not None:
            self.context.used.take_over(resumed.used)
        files = resumed.files(self.context.out)
        self.context.written += files
        earlier = resumed.record.get("warnings", ())
        self.context.mute([*earlier, *(warning.partition(": ")[2] for warning in earlier)])
        for warning in resumed.warnings:
            recorder.warned(None, warning)
        if resumed.lost is not None:
            loop, turn, reason = resumed.lost
            self.context.warn(f"{loop} begins again, though {turn} of its turns were over: {reason}")
        return files

    @property
    def begins_anew(self) -> bool:
        """Whether the run begins at its first node."""
        return self.resumed is None or not self.resumed.is_inside

    @property
    def lost(self) -> str | None:
        """The path of the loop that begins again though turns of it were over; None if none does."""
        lost = self.resumed.lost if self.resumed is not None else None
        return lost[0] if lost is not None else None

    def has_keys(self, keys: str) -> bool:
        """Whether these keys of stored results are those of every process of the run up to here.

        Args:
            keys: The hash of the keys of this process. The next snapshots have it.
        """
        same = self.begins_anew or (self.resumed is not None and self.resumed.keys == keys)
        self._keys = keys if same else None
        return same

    def start(self) -> Start | None:
        """The place where the run goes on. The packages of the node libraries are imported.

        Raises:
            NodeError: If the snapshot does not hold one.
        """
        if self.resumed is None:
            return None
        try:
            return self.resumed.start(self.plan, self.storages(), self.context.out)
        except ValueError as error:
            help = "start over with `sgd exec`; another version of a node library may have written the snapshot"
            raise NodeError(f"the snapshot in {self.folder.path} cannot be used: {error}", help=help) from error

    def positions(self, placed: PlacedSteps | None) -> Positions | None:
        """The listener of positions; None without snapshots. `placed`: the calls of rank 0 of several."""
        if self.keeper is None or placed is None:
            return self.keeper
        shared, last = placed.shared_loops, self.folder.last()
        return RankPositions(self.keeper, self.plan, placed.processes, shared, last)

    def storages(self) -> list[ArrayStorage]:
        """The storages of arrays of all loaded libraries."""
        return storages_of(self.plan, self.context)

    def _more(self) -> dict[str, Any]:
        used = self.context.used
        places = used.places() if used is not None else []
        return {"choices": dict(self.context.choices), "used": places, "mesh": asdict(self.mesh), "keys": self._keys}

    def close(self, failed: bool) -> None:
        """Write the last position of a run that is not done. A run that failed before there was one leaves nothing."""
        if self.keeper is None:
            return
        if self.mesh.size == 1:
            self.keeper.close(done=False)
        elif not close_soon(self.keeper):
            self.context.warn("the last turn could not be written in time; `sgd resume` goes on from an earlier one")
        if failed and not self.folder.has_snapshots():
            self.remove()

    def remove(self) -> None:
        """Remove the snapshots of a run that is done."""
        self.resumable = False
        with suppress(OSError):
            if self.keeper is not None:
                self.keeper.close(done=True)


def storages_of(plan: Plan, context: Context) -> list[ArrayStorage]:
    """The storages of arrays of all loaded libraries."""
    found = (library.array_storage(context) for library in plan.loaded)
    return [storage for storage in found if storage is not None]


def close_soon(keeper: Keeper) -> bool:
    """Write the last position on one of several ranks. Its device may wait forever for a rank that has ended.

    Returns:
        Whether it was written in `CLOSE_SECONDS`; if not, a thread still tries.
    """
    thread = threading.Thread(target=keeper.close, args=(False,), name="sgd last snapshot", daemon=True)
    thread.start()
    thread.join(CLOSE_SECONDS)
    return not thread.is_alive()


def started(
    snapshots: Snapshots, plan: Plan, context: Context, mesh: Mesh, store: Store | None = None
) -> dict[str, Any]:
    """How a run was started, as plain data: everything that `sgd resume` needs to compile the same plan."""
    assert plan.recipe is not None
    assert context.used is not None
    recipe = context.used.recipe()
    assert recipe is not None
    source = snapshots.source or plan.file
    assert source is not None
    options = {option.key: option for each in plan.loaded for option in each.options}
    return {
        "folder": str(Path.cwd()),
        "file": os.path.abspath(source),
        "inputs": clean(_given(plan)),
        "set": clean(plan.settings),
        "options": {n: v for n, v in context.options.items() if n in options and not options[n].permission},
        "permissions": [o.name for n, o in options.items() if o.permission and context.options.get(n)],
        "libraries": [[str(path), hashlib.sha256(path.read_bytes()).hexdigest()] for path in snapshots.libraries],
        "device": context.device,
        "parallel": asdict(mesh),
        "metadata": context.used.in_files,
        "overlap": snapshots.overlap,
        "store": str(store.folder) if isinstance(store, FolderStore) else None,
        "recipe": recipe.json(),
        "code": code_of_plan(plan),
        "reads": states_of_plan(plan),
    }


def _given(plan: Plan) -> dict[str, Any]:
    """The values of inputs. A path that the file declares as a default is relative to the file, and is left to it."""
    found = {}
    for name, value in plan.inputs.items():
        declared = plan.declared.get(name)
        is_path = declared is not None and (declared.type.item or declared.type).kind == "path"
        default = declared.default if declared is not None else None
        if not (is_path and default is not None and default.value == value):
            found[name] = value
    return found
