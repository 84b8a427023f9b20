"""Start the ranks of a run on this host, with torch.distributed.elastic. Their outputs go into files."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ....graph.contract.errors import NodeError
from ....graph.contract.interrupts import descendants
from ....graph.contract.rank_start import STARTER
from .store_board import StoreBoard

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import LogsDest

HOST = "127.0.0.1"
THREADS = "OMP_NUM_THREADS"
"""The variable for the number of torch's threads. Ranks share the cores, unless the user sets it."""

POLL_SECONDS = 0.02


def _environments(count: int, port: int) -> dict[int, dict[str, str]]:
    """The environment variables of each rank. `port`: the port of the store."""
    shared = {
        "TORCHELASTIC_RUN_ID": f"sgd-{os.getpid()}",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        STARTER: str(os.getpid()),
        THREADS: os.environ.get(THREADS) or str(max(_cores() // count, 1)),
    }
    return {rank: {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)}


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep this process's handlers of signals: torch.distributed.elastic sets its own."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(ValueError):  # only the main thread can set one
                signal.signal(number, handler)


class LocalRanks:
    """Ranks on this host; a `StartedRanks`.

    Args:
        command: The words of the command that each rank runs.
        count: The number of ranks.
        logs: The folder of their logs, `1.log` for rank 1. Rank 0 writes to the streams of this process.

    Raises:
        NodeError: If they cannot be started.
    """

    def __init__(self, command: Sequence[str], count: int, logs: Path) -> None:
        from torch.distributed import TCPStore
        from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SubprocessContext, start_processes

        class RankLogs(LogsSpecs):
            """`stderr` of each rank but 0 goes into a file of its own, and the rank sends its `stdout` there too."""

            root_log_dir = str(logs)

            def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
                outputs = {rank: "" if rank == 0 else os.devnull for rank in envs}
                errors = {rank: "" if rank == 0 else str(logs / f"{rank}.log") for rank in envs}
                return LogsDest(outputs, errors, {}, {}, dict.fromkeys(envs, os.devnull), os.devnull, os.devnull)

        logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
        try:
            logs.mkdir(parents=True, exist_ok=True)
            self._store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=10))
            self.board = StoreBoard(self._store)
            environments = _environments(count, self._store.port)
            with _own_handlers():
                started = start_processes(
                    name="sgd",
                    entrypoint=command[0],
                    args={rank: tuple(command[1:]) for rank in range(count)},
                    envs=environments,
                    logs_specs=RankLogs(),
                )
        except (OSError, RuntimeError) as error:
            raise NodeError(f"{count} processes cannot be started: {error}") from error
        assert isinstance(started, SubprocessContext)
        self._processes = {rank: handler.proc for rank, handler in started.subprocess_handlers.items()}

    def codes(self) -> Mapping[int, int | None]:
        return {rank: process.poll() for rank, process in self._processes.items()}

    def signal(self, number: int) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    process.send_signal(number)

    def end(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(code is None for code in self.codes().values()):
            time.sleep(POLL_SECONDS)
        for process in self._processes.values():
            if process.poll() is None:
                for child in [*descendants(process.pid), process.pid]:
                    with suppress(OSError):
                        os.kill(child, signal.SIGKILL)
        for process in self._processes.values():
            with suppress(Exception):  # a process that waits for a device may not end; the others have
                process.wait(1.0)
