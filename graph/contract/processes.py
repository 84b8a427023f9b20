"""The processes that compute one run together: their mesh, and the group that a node gets from its run.

Process number r is `rank` r. A mesh is `branches × ulysses × ring`, in that order: the ranks of one branch follow each
other, and within a branch the sequence is cut over `ulysses × ring` ranks.

The standard library implements `Processes` with torch.distributed, in nodes/models/ranks/. A run in one process has
`ONE_PROCESS`, whose methods give their arguments back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from .errors import NodeError

T = TypeVar("T")

Axis = Literal["branches", "ulysses", "ring", "sequence", "all"]
"""Which ranks form a group. `sequence`: the ranks of one branch, `ulysses × ring`. `all`: every rank."""

Placement = Literal["every", "once", "split"]
"""How a node runs over ranks: on each, on rank 0 alone with its outputs sent to the others, or on all together."""

HELP = "write it as `branches=2,ulysses=2,ring=1`; what you leave out is 1"


@dataclass(frozen=True)
class Place:
    """The place of a rank in a mesh: its number along each axis, from 0."""

    branch: int
    ulysses: int
    ring: int


@dataclass(frozen=True)
class Mesh:
    """How the processes of a run are arranged.

    Attributes:
        branches: Evaluations of one step that are computed at once, 1 or 2.
        ulysses: Ranks that cut the sequence, and exchange heads for tokens where each token looks at all others.
        ring: Ranks that cut the sequence, and gather keys and values there.
    """

    branches: int = 1
    ulysses: int = 1
    ring: int = 1

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.branches * self.sequence

    @property
    def sequence(self) -> int:
        """The number of ranks that one sequence is cut over."""
        return self.ulysses * self.ring

    def place(self, rank: int) -> Place:
        """The place of a rank."""
        branch, rest = divmod(rank, self.sequence)
        return Place(branch, *divmod(rest, self.ring))

    def ranks(self, axis: Axis, rank: int) -> tuple[int, ...]:
        """The ranks of the group of an axis that a rank belongs to, in order."""
        if axis == "all":
            return tuple(range(self.size))
        own = self.place(rank)
        free = {"branches": ("branch",), "ulysses": ("ulysses",), "ring": ("ring",), "sequence": ("ulysses", "ring")}
        held = [f.name for f in fields(Place) if f.name not in free[axis]]
        alike = (r for r in range(self.size) if all(getattr(self.place(r), n) == getattr(own, n) for n in held))
        return tuple(alike)

    def __str__(self) -> str:
        parts = [f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) > 1]
        return ",".join(parts) or "branches=1"


AXES = tuple(f.name for f in fields(Mesh))


def read_mesh(text: str) -> Mesh:
    """Read `branches=2,ulysses=2,ring=1`, as `--parallel` takes it.

    Raises:
        NodeError: If a part is no axis with a whole number, or an axis stands twice.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\w+)\s*=\s*(\d+)\s*", part, re.ASCII)
        if found is None:
            problem = f"`{part}` is no axis with a size" if part.strip() else "an axis is missing"
            raise NodeError(problem, help=HELP)
        name, size = found[1], int(found[2])
        if name in sizes:
            raise NodeError(f"`{name}` stands twice", help=HELP)
        sizes[name] = size
    return mesh_of(sizes)


def mesh_of(sizes: Mapping[str, Any]) -> Mesh:
    """The mesh of a mapping from axes to sizes, as `run: {parallel: …}` of a file has it.

    Raises:
        NodeError: If a name is no axis, or a size is no whole number from 1 (from 1 to 2 for `branches`).
    """
    for name, size in sizes.items():
        if name not in AXES:
            raise NodeError(f"`{name}` is no axis: the axes are {', '.join(AXES)}", help=HELP)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise NodeError(f"`{name}` takes a whole number from 1, not {size}", help=HELP)
        if name == "branches" and size > 2:
            raise NodeError(f"`branches` is 1 or 2, not {size}: there are two branches", help=HELP)
    return Mesh(**sizes)


@dataclass(frozen=True)
class Group:
    """The ranks along an axis of the mesh, as the process sees them that holds this object.

    Attributes:
        ranks: Their numbers among all ranks, in order.
        rank: The number of this process within the group, from 0.
        handle: What collectives take: a `torch.distributed.ProcessGroup`; None in a group of one.
    """

    ranks: tuple[int, ...] = (0,)
    rank: int = 0
    handle: Any = None

    @property
    def size(self) -> int:
        """The number of ranks in the group."""
        return len(self.ranks)


class Processes:
    """The processes of a run, for a node: `run.processes`. This class is a run in one process.

    All ranks call `agree`, `broadcast` and `any_of` in the same order. Collectives on the handle of a group are the
    node's own; it tells `exchanged` about each.

    Attributes:
        rank: The number of this process, from 0.
        mesh: How the processes are arranged.
    """

    rank: int = 0
    mesh: Mesh = Mesh()

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.mesh.size

    def group(self, axis: Axis) -> Group:
        """The group along an axis that this process belongs to."""
        return Group()

    def agree(self, value: T) -> T:
        """The value of rank 0, a plain value. For whatever depends on time or on free memory."""
        return value

    def broadcast(self, value: T, source: int = 0) -> T:
        """The value of one rank, on all: plain values, tensors, and dataclasses, lists and mappings of these.

        Args:
            value: The value of the rank `source`. On other ranks it is ignored, and may be None.
            source: The number of the rank.

        Returns:
            The value. Tensors lie on this rank's device.
        """
        return value

    def any_of(self, flags: Sequence[bool]) -> tuple[bool, ...]:
        """For each flag, whether it is true on any rank. Each rank waits here until all ranks have come."""
        return tuple(flags)

    def exchanged(self, sent: int, waited: float = 0.0) -> None:
        """Note a collective, after it: the bytes that this rank sent, and the seconds that its host waited.

        A count of collectives also shows that this rank goes on.
        """


ONE_PROCESS = Processes()
"""A run in one process."""
