"""This process as one of the ranks of a run: it joins the others, tells where it is, and hears of their faults."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any

from ...compiler.plan import Plan
from ...contract import interrupts
from ...contract.errors import NodeError
from ...contract.events import Observer
from ...contract.node_library import NodeLibrary
from ...contract.processes import Mesh
from ...contract.rank_start import JoinedRanks, RankPlace
from ..clock import Clock
from ..failure import Interrupted, NodeFailed
from ..profiling import Profiling
from .lost_rank import lost_rank
from .placed_steps import PlacedSteps
from .rank_beat import EVERY_SECONDS, Beat, read_beat
from .rank_devices import host, require_fitting
from .rank_events import Heard, RankEvents, hear_last, leaders
from .rank_fault import Fault, posted
from .rank_position import RankPosition
from .rank_warnings import RankWarnings, others_warnings
from .stall import StallJudge, stall_seconds

if TYPE_CHECKING:
    from ..context import Context

POLL_SECONDS = 0.1
PATIENCE_SECONDS = 5.0
"""How long a rank that lost the others waits to hear why."""
NODES = Profiling()
LAST_SECONDS = 60.0
"""How long rank 0 waits for the last numbers of the others, when its own part is done."""


def rank_library(plan: Plan) -> NodeLibrary:
    """The library whose nodes run in several processes.

    Raises:
        NodeError: If there is none.
    """
    for library in plan.libraries:
        if library.starts_ranks:
            return library
    raise NodeError("no node library of this workflow can run in several processes", help="leave out --processes")


def fingerprint(plan: Plan, mesh: Mesh) -> str:
    """A text that is equal on two ranks if they run the same plan on the same mesh."""
    types = sorted({(call.type.name, call.type.version, call.type.library) for call in plan.calls()})
    settings = {name: repr(value) for name, value in plan.settings.items()}
    inputs = {name: repr(value) for name, value in plan.inputs.items()}
    facts = [plan.sha256, str(plan), types, inputs, settings, str(mesh)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=repr).encode()).hexdigest()


class RunRanks:
    """One rank of a run.

    Args:
        plan: The plan.
        place: The place of this process.
        mesh: How the processes are arranged.
        device: `cpu` or `cuda`.
        clock: The clock of the run.
        profile: What the run measures.

    Attributes:
        observers: Follow the events of the run.
        fault: The first fault of any rank, once this one has heard of it.
        warnings: The warnings of this rank.
        notes: Functions that give texts for rank 0 at the end of the run, by name (`noted`).
        began: When rank 0 started, in seconds since the epoch; known once this rank has joined.

    Raises:
        NodeError: If no library runs in several processes.
    """

    def __init__(
        self, plan: Plan, place: RankPlace, mesh: Mesh, device: str, clock: Clock, profile: Profiling = NODES
    ) -> None:
        self.profile, self.began = profile, clock.epoch
        self.notes: dict[str, Callable[[], str]] = {}
        self.plan, self.place, self.mesh, self.device, self.clock = plan, place, mesh, device, clock
        self.library = rank_library(plan)
        self._position = RankPosition(clock, stall_seconds())
        self._events = RankEvents()
        self.warnings = RankWarnings()
        self.observers: tuple[Observer, ...] = (self._position, self._events, self.warnings)
        self.fault: Fault | None = None
        self.joined: JoinedRanks | None = None
        self._heard: Heard | None = None
        self._serial = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sgd ranks", daemon=True)

    def join(self, context: Context, heard: Heard | None = None) -> PlacedSteps:
        """Join the others, in the thread that runs the nodes, and compare the plans.

        Args:
            context: The run.
            heard: On rank 0, receives events of other ranks.

        Raises:
            NodeError: If the others do not come, have another plan, or devices that do not fit; or if the process that
                started them has gone.
        """
        if self._starter_has_gone():  # it held the board; connecting to it would take minutes to fail
            raise self._alone().error()
        self.joined = self.library.join_ranks(self.place, self.mesh, self.device)
        self._thread.start()
        require_fitting(self.joined.board, self.place.rank, self.device)
        context.processes = processes = self.joined.join()
        own = fingerprint(self.plan, self.mesh)
        first, self.began = processes.agree((own, self.began))
        if first != own:
            raise NodeError(
                "this process has another plan than rank 0",
                help="give every rank the same file, values and libraries, and the same versions of packages",
            )
        self._heard = heard
        placed = PlacedSteps(self.plan, context, processes, lambda: self._events.tell(processes, heard))
        self._position.first_only = placed.first_only
        return placed

    def failure(self, computed: bool) -> NodeError | None:
        """The fault that ends this rank: that of another rank, or a stall of its own; None if there is none.

        Args:
            computed: Whether this rank has computed its part, so that no stall of its own can end it.
        """
        fault = self.fault
        if fault is None or (computed and fault.rank == self.place.rank):
            return None
        return fault.error()

    def judged(self, error: BaseException, memory: bool) -> BaseException:
        """The error of the run for an error of this rank: its own, which the others hear of, or that of another rank.

        Args:
            error: The error that ended the nodes of this rank.
            memory: Whether memory ran out.
        """
        joined, rank = self.joined, self.place.rank
        if joined is None or isinstance(error, Interrupted | KeyboardInterrupt):
            return error
        cause = error.__cause__ if isinstance(error, NodeFailed | NodeError) and error.__cause__ is not None else error
        try:
            if joined.is_lost(cause):
                until = time.monotonic() + PATIENCE_SECONDS
                while (found := posted(joined.board) or self.lost()) is None and time.monotonic() < until:
                    time.sleep(POLL_SECONDS)
                if found is not None:
                    return found.error()
            help = (error.help or "") if isinstance(error, NodeError) else ""
            message = f"rank {rank}: {str(error) or type(error).__name__}"
            self.warnings.post(joined.board, rank)  # rank 0 may not wait after the fault
            first = Fault(rank, message, help, memory).post(joined.board)
        except OSError:
            return self._alone().error() if joined.is_lost(cause) else error
        if first.rank != rank:
            return first.error()
        error.args = (message, *error.args[1:])
        return error

    def lost(self) -> Fault | None:
        """The fault where another rank ended unheard under a launcher, which ends this one by a signal; else None."""
        joined = self.joined if self.place.starter is None else None
        return lost_rank(joined.board, self.place.size) if joined is not None else None

    def finish(self, interrupted: bool = False) -> None:
        """End this rank's part, and tell what it has used; after an interrupt no more than that it ends."""
        self._over.set()
        joined = self.joined
        if joined is not None:
            with suppress(OSError):
                if not interrupted:
                    self._tell_all(joined, self.place.rank)
                self._beat(joined, over=True)

    def told(self) -> list[dict[str, Any]]:
        """On rank 0, after `finish`: a row for each rank, as far as it is known. Passes on the last events first."""
        joined = self.joined
        beats: dict[int, Beat | None] = dict.fromkeys(range(self.place.size))
        until = time.monotonic() + LAST_SECONDS
        with suppress(OSError):
            while joined is not None:
                beats = {rank: read_beat(joined.board, rank) for rank in beats}
                over = all(beat is not None and beat.over for beat in beats.values())
                self.fault = self.fault or posted(joined.board)  # `_watch` has ended
                if over or self.fault is not None or interrupts.pending() or time.monotonic() > until:
                    if self._heard is not None:
                        hear_last(joined.board, self.mesh, self._heard)
                    break
                time.sleep(POLL_SECONDS / 5)
        return [(beat or Beat()).row(rank) for rank, beat in beats.items()]

    def at_files(self) -> AbstractContextManager[None]:
        """Mark a block in which this rank reads or writes files, so that the others wait for it longer."""
        return self._position.at_files()

    def noted(self, name: str) -> dict[int, str | None]:
        """On rank 0, after `told`: the notes of a name by other ranks; None for one that left none."""
        joined, others = self.joined, range(1, self.place.size)
        found: dict[int, str | None] = dict.fromkeys(others)
        with suppress(OSError):
            for rank in others if joined is not None else ():
                assert joined is not None
                found[rank] = joined.board.read(_note(name, rank))
        return found

    def others_warnings(self, known: Collection[str]) -> list[str]:
        """On rank 0, after `told`: the warnings that only other ranks gave, each with its ranks.

        Args:
            known: The warnings of the record so far.
        """
        if self.joined is not None:
            with suppress(OSError):
                return others_warnings(self.joined.board, self.place.size, known)
        return []

    def _tell_all(self, joined: JoinedRanks, rank: int) -> None:
        self.warnings.post(joined.board, rank)
        for name, text in self.notes.items():
            joined.board.post(_note(name, rank), text())
        if rank in leaders(self.mesh):
            self._events.post(joined.board, rank)

    def _watch(self) -> None:
        """Post beats and warnings, and look for faults, until the run is over."""
        joined = self.joined
        assert joined is not None
        judge = StallJudge(self.place.size, time.monotonic())
        told, place = 0.0, ("", "")
        try:
            while not self._over.is_set():
                now, here = time.monotonic(), (self._position.node, self._position.turn)
                if now - told >= EVERY_SECONDS or here != place:
                    told, place = now, here
                    self._beat(joined)
                    self._judge(joined, judge, now)
                self.warnings.post(joined.board, self.place.rank)
                self.fault = self.fault or posted(joined.board)
                self._over.wait(POLL_SECONDS)
        except OSError:
            self.fault = self.fault or self._alone()

    def _alone(self) -> Fault:
        """The fault where the board has gone, with the process that held it."""
        starter = "the process that started the ranks" if self.place.starter is not None else "the launcher"
        return Fault(-1, f"{starter} has gone, so the run ends")

    def _starter_has_gone(self) -> bool:
        return self.place.starter is not None and os.getppid() != self.place.starter

    def _judge(self, joined: JoinedRanks, judge: StallJudge, now: float) -> None:
        """Look whether the run goes on, where the process that started it does not."""
        if self.place.starter is not None:
            if self._starter_has_gone():
                raise OSError("the process that started the ranks has gone")
        elif self.place.rank == 0:
            judge.read(joined.board, now)
            stalled = judge.stalled(now)
            if stalled is not None:
                stalled.post(joined.board)

    def _beat(self, joined: JoinedRanks, over: bool = False) -> None:
        self._serial += 1
        position, exchanges = self._position, joined.collectives()
        Beat(
            serial=self._serial,
            count=position.count() + exchanges,
            exchanges=exchanges,
            node=position.node,
            turn=position.turn,
            limit=position.limit,
            waits=joined.waits() or position.in_split,
            over=over,
            seconds=round(self.clock.now(), 3),
            waited_seconds=round(joined.waited_seconds(), 3),
            exchanged_bytes=joined.exchanged_bytes(),
            peak_bytes=joined.peak_bytes(),
            process=os.getpid(),
            host=host(),
            nodes=position.rows() if over else [],
        ).post(joined.board, self.place.rank)


def _note(name: str, rank: int) -> str:
    return f"note/{name}/{rank}"
