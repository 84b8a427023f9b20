"""Connect to a Ray cluster, or start one on this machine for the length of a block."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ...contract import interrupts
from ...contract.errors import NodeError
from ...contract.node_library import NodeLibrary
from ...contract.text_tables import shortened

INSTALL = 'pip install "sgd[ray]"'
LOCAL, AUTO = "local", "auto"
THREADS = "OMP_NUM_THREADS"
CONNECT_SECONDS = 5.0
LONGEST_FOLDER = 22
"""The most bytes of a path below which Ray can put its sockets, whose paths have at most 107 bytes."""


@dataclass(frozen=True)
class Cluster:
    """A connection to a Ray cluster.

    Attributes:
        ray: The module `ray`.
        scratch: The folder for temporary files of workers; None where workers may be on other machines.
    """

    ray: Any
    scratch: str | None

    def count(self, kind: str) -> int:
        """How many `GPU` or `CPU` there are now."""
        return int(self.ray.cluster_resources().get(kind, 0))

    def said(self, gpu: bool) -> str:
        """How many workers it has room for now, in words."""
        count = self.count("GPU" if gpu else "CPU")
        return f"{count} {'GPU' if gpu else 'core'}{'s' * (count != 1)}"

    def share(self, gpu: bool) -> dict[str, Any]:
        """The share of a machine that a worker has, as options of its actor: a GPU, or a core.

        Ray lets a worker with a GPU use one CPU thread. Here it gets its part of the cores, unless the user has set
        `OMP_NUM_THREADS`.
        """
        if not gpu:
            return {"num_cpus": 1}
        known = [node["Resources"] for node in self.ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
        threads = min((int(each.get("CPU", 1) // each["GPU"]) for each in known), default=1)
        chosen = {} if THREADS in os.environ else {"runtime_env": {"env_vars": {THREADS: str(max(1, threads))}}}
        return {"num_cpus": 0, "num_gpus": 1, **chosen}

    def device(self, asked: str, libraries: Collection[NodeLibrary]) -> str:
        """The device of workers, `cpu` or `cuda`, for a name on the command line.

        Args:
            asked: `cpu`, `cuda` or `auto`, which is a GPU if the cluster has one and a library of the plan uses GPUs.
            libraries: The libraries of the plan.

        Raises:
            NodeError: If it is `cuda` and the cluster has no GPU.
        """
        gpus, wanted = self.count("GPU"), any(library.uses_gpu for library in libraries)
        if asked == "cuda" and not gpus:
            raise NodeError("--device cuda: the cluster has no GPU", help="--device cpu works everywhere")
        return "cuda" if asked == "cuda" or (asked == "auto" and gpus and wanted) else "cpu"


def require_ray() -> None:
    """Raise a NodeError if Ray is not installed. It is not imported."""
    if find_spec("ray") is None:
        raise NodeError("--ray needs the package ray, which is not installed", help=f"install it: {INSTALL}")


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """Connect to a cluster. Only errors of its messages are shown.

    Args:
        address: `host:port`, `auto` for the cluster of this machine, or None to start a cluster on this machine, which
            ends with the block.

    Raises:
        NodeError: If Ray is not installed, the address is of another form, or there is no cluster.
    """
    require_ray()
    if address not in (None, AUTO):
        _require_answer(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a worker without a GPU sees none
    import ray

    scratch = _new_folder() if address is None else None
    given: dict[str, Any] = {"address": address}
    if scratch is not None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        given = {"address": LOCAL, "num_cpus": cores, "include_dashboard": False, "_temp_dir": scratch}
    try:
        if scratch is not None:
            interrupts.before_end(lambda: shutil.rmtree(scratch, ignore_errors=True))
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            with redirect_stdout(sys.stderr):
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = shortened(" ".join(str(error).split()) or type(error).__name__, 300)
            if scratch is not None:
                help = "start a cluster with `ray start --head`, and add --ray-address auto"
                raise NodeError(f"Ray does not start on this machine: {reason}", help=help) from error
            raise _no_answer(address, reason) from error
        finally:
            if interrupts.installed():
                interrupts.install()  # Ray has handlers of its own
        yield Cluster(ray, scratch)
    finally:
        ray.shutdown()
        if interrupts.installed():
            interrupts.install()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
            interrupts.before_end(None)


def _new_folder() -> str:
    """A new folder for temporary files, with a path that is short enough for sockets in it."""
    base = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="sgd-ray-", dir=base if len(os.fsencode(base)) <= LONGEST_FOLDER else "/tmp")


def _require_answer(address: str) -> None:
    """Raise a NodeError if nothing answers at an address. Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        help = "such as 10.0.0.1:6379, or auto for the cluster of this machine"
        raise NodeError(f"--ray-address {address} is not HOST:PORT", help=help)
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise _no_answer(address, getattr(error, "strerror", None) or str(error)) from error


def _no_answer(address: str | None, reason: str) -> NodeError:
    help = "run `ray status` on a machine of the cluster, or leave out --ray-address to start a cluster here"
    return NodeError(f"no Ray cluster answers at {address}: {reason}", help=help)
