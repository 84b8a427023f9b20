"""Tiles for a VAE: because the node asks for them, or because the whole would not fit the device.

The work is traced on the meta device to count the bytes that it takes. There it takes no memory and at most a second
or two (`planning_meter.Meter`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ....graph.contract.errors import DoesNotFit, NodeError
from ....graph.contract.node import Run
from ...support import device_memory, planning_meter
from ...support.device_memory import HEADROOM, size
from ..model import Model

if TYPE_CHECKING:
    import torch

Tiling = Literal["auto", "on", "off", True, False]

PLENTY = 16384
"""Bytes for each pixel of a clip that are enough for the VAE of any family, in float32: more than twice the most that
was counted. Work that fits by this is not traced (tests/nodes/test_tiling.py keeps it above the counted bytes)."""

Work = Callable[[Model, "torch.Tensor"], Any]

_COUNTED: weakref.WeakKeyDictionary[Any, dict[Any, int]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class VaeWork:
    """A piece of work of a model's VAE.

    Attributes:
        name: The work in words: `decoding`.
        run: Receives the choice and its reason.
        model: Its VAE has been acquired.
        given: Latents or frames.
        pixels: Pixels of all frames of all clips.
        do: The work, given the model (or a twin of it on the meta device) and the tensor.
    """

    name: str
    run: Run
    model: Model
    given: torch.Tensor
    pixels: int
    do: Work

    @property
    def vae(self) -> Any:
        return self.model.component("vae")

    @property
    def able(self) -> bool:
        """Whether the VAE can work tile by tile."""
        return hasattr(self.vae, "use_tiling")

    def perform(self, tiling: Tiling) -> Any:
        """Let the VAE work, in tiles if the node says so, or if `auto` finds that the whole does not fit.

        Raises:
            NodeError: If tiles were asked for and the VAE has none.
            DoesNotFit: If the device has too little memory for it.
        """
        if tiling in ("on", True) and not self.able:
            raise NodeError("this model's VAE cannot work tile by tile", help="leave `tiling` out")
        if self.model.device == "meta":
            return _planned(self, tiling)
        tiled = tiling in ("on", True)
        if tiling == "auto":
            tiled = self.able and _needed(self, lambda: _bytes(self, False), lambda: _bytes(self, True))
        return _performed(self, tiled)


def _needed(work: VaeWork, whole: Callable[[], int], tiles: Callable[[], int]) -> bool:
    """Decide for `auto`: tiles only where the whole does not fit in the device's free memory, and they take less.

    Args:
        work: The work.
        whole: Counts the bytes that the work takes as a whole.
        tiles: Counts the bytes that it takes tile by tile.
    """
    run, free = work.run, device_memory.free(work.run)
    if free is None:
        run.detail(tiling="off")
        return False
    if PLENTY * work.pixels <= free:
        run.detail(tiling="off: it fits")
        return False
    needs = whole()
    if HEADROOM * needs <= free:
        run.detail(tiling=f"off: it fits, taking {size(needs)} of {size(free)}")
        return False
    if tiles() >= needs:
        run.detail(tiling="off: tiles would take no less")
        return False
    run.detail(tiling=f"on: {work.name} whole takes {size(needs)}, and {size(free)} are free")
    run.warn(
        f"{work.name} tile by tile, because whole it would take {size(needs)} and {size(free)} of the device are free; "
        "tiles differ slightly where they overlap (`tiling: off` forbids it)"
    )
    return True


def _bytes(work: VaeWork, tiled: bool) -> int:
    """Bytes that the work takes beside the VAE and its argument, counted on a twin on the meta device."""
    model = work.model
    known = _COUNTED.setdefault(model.weights, {})
    key = (work.name, tiled, tuple(work.given.shape), work.given.dtype)
    if key not in known:
        run = Run()
        run.device, run.planning = "meta", True
        weights = replace(model.weights, device="meta", kind="meta", offload="off")
        twin = replace(work, run=run, model=replace(model, weights=weights, transforms=()))
        with planning_meter.runtime(run), planning_meter.meter(run):
            twin.model.acquire("vae", run)
            traced = replace(twin, given=work.given.to("meta"))
            with planning_meter.attempt() as attempt:
                _traced(traced, tiled)
        known[key] = attempt.above
    placed = model.offload("vae")
    return known[key] + (placed.resident(work.vae) if placed is not None else 0)


def _planned(work: VaeWork, tiling: Tiling) -> Any:
    """The same while planning: the work runs on the meta device, and the plan counts the way that is chosen."""
    if tiling in ("on", True):
        return _traced(work, True)
    free = device_memory.free(work.run)
    frames = 3 * 4 * work.pixels  # bytes in float32, which tiles do not make smaller
    if not work.able or (free is not None and frames >= free):  # to count the tiles of such a clip could take hours
        if tiling == "auto":
            work.run.detail(tiling="off")
        return _traced(work, False)
    made: list[Any] = []
    attempts: list[planning_meter.Attempt] = []

    def whole() -> int:
        with planning_meter.attempt() as attempt:
            made.append(_traced(work, False))
        attempts.append(attempt)
        return attempt.above

    def tiles() -> int:
        with planning_meter.attempt() as attempt:
            _traced(work, True)
        attempt.undo()
        return attempt.above

    if tiling == "auto" and _needed(work, whole, tiles):
        made.clear()
        attempts[0].undo()
        return _traced(work, True)
    if tiling != "auto" and free is not None:
        _advise(work, free, whole(), tiles, attempts[0])
    return made.pop() if made else _traced(work, False)


def _advise(work: VaeWork, free: int, needs: int, tiles: Callable[[], int], attempt: planning_meter.Attempt) -> None:
    """Tell the plan how much tiles would save, where the whole does not fit and tiles are forbidden."""
    if HEADROOM * needs <= free:
        return
    less = tiles()
    if less < needs:
        work.run.detail(tiled_peak_bytes=attempt.live + less)
        work.run.warn(
            f"{work.name} takes {size(needs)}, and {size(free)} of the device are free; "
            f"`tiling: on` would take {size(less)}"
        )


def _traced(work: VaeWork, tiled: bool) -> Any:
    """The work on the meta device, tiles and chunks of one shape traced once."""
    vae = work.vae
    with ExitStack() as stack:
        if work.able:
            stack.enter_context(using(vae, tiled))
        for part in ("encoder", "decoder"):
            if hasattr(vae, part):
                stack.enter_context(planning_meter.traced_once(getattr(vae, part), "forward"))
        stack.enter_context(_unblended(vae))
        return work.do(work.model, work.given)


def _performed(work: VaeWork, tiled: bool) -> Any:
    """The work itself; if the device has too little memory for it, the error gives the numbers."""
    free = device_memory.free(work.run)
    try:
        with using(work.vae, tiled) if work.able else ExitStack():
            return work.do(work.model, work.given)
    except Exception as error:
        if not device_memory.exhausted(error):
            raise
        needs = "" if tiled else f" takes {size(_bytes(work, False))} in one piece, which"
        here = f": {size(free)} were free" if free is not None else ""
        tiles = "" if tiled or not work.able else "set `tiling: on`, or choose "
        raise DoesNotFit(
            f"{work.name}{needs} does not fit on the device{here}",
            help=f"{tiles}a smaller size, fewer frames, a batch of one or a narrower `vae_dtype` of model.load",
        ) from error


@contextmanager
def using(vae: Any, tiled: bool) -> Iterator[None]:
    """Set tiling for one call and put it back: the VAE is shared by everything that uses the model."""
    before = vae.use_tiling
    vae.use_tiling = tiled
    try:
        yield
    finally:
        vae.use_tiling = before


@contextmanager
def _unblended(vae: Any) -> Iterator[None]:
    """Leave out the blending of tiles, which writes each row into the tile it returns."""
    names = [name for name in ("blend_v", "blend_h", "blend_t") if hasattr(vae, name)]
    for name in names:
        setattr(vae, name, lambda above, tile, extent: tile)
    try:
        yield
    finally:
        for name in names:
            vars(vae).pop(name, None)
