"""Tiled VAE work: on request, or because the work without tiles does not fit on the device.

A trace on the meta device counts the bytes of the work (`cost_meter.Meter`). The trace takes no memory and at most
one or two seconds.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ....graph.contract.errors import DoesNotFit, NodeError
from ....graph.contract.node import Run
from ...support import cost_meter, device_memory
from ...support.device_memory import HEADROOM, size
from ...support.traced_once import traced_once
from ..model import Model

if TYPE_CHECKING:
    import torch

Tiling = Literal["auto", "on", "off", True, False]

ENOUGH_PER_PIXEL = 16384
"""Bytes for each pixel of a clip that are enough for the VAE of any family, in float32.

The number is more than twice the largest count; tests/nodes/test_tiling.py checks this. Work that fits with this
number is not traced."""

Work = Callable[[Model, "torch.Tensor"], Any]

_COUNTED: weakref.WeakKeyDictionary[Any, dict[Any, int]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class VaeWork:
    """Encoding or decoding by a model's VAE.

    Attributes:
        name: `decoding` or `encoding`, for messages.
        run: Receives the choice and its reason.
        model: A model whose VAE has been acquired.
        tensor: Latents or frames.
        pixels: Number of pixels in all frames of all clips.
        do: The function that does the work. It takes the model, or its copy on the meta device, and the tensor.
    """

    name: str
    run: Run
    model: Model
    tensor: torch.Tensor
    pixels: int
    do: Work

    @property
    def vae(self) -> Any:
        return self.model.component("vae")

    @property
    def can_tile(self) -> bool:
        """Whether the VAE can work tile by tile."""
        return hasattr(self.vae, "use_tiling")

    def perform(self, tiling: Tiling) -> Any:
        """Do the work. Tiles are used on request, or if the setting is `auto` and work without tiles does not fit.

        Raises:
            NodeError: If the node requests tiles and the VAE cannot work in tiles.
            DoesNotFit: If the device has too little memory.
        """
        if tiling in ("on", True) and not self.can_tile:
            raise NodeError("this model's VAE cannot work tile by tile", help="leave `tiling` out")
        if self.model.device == "meta":
            return _planned(self, tiling)
        tiled = tiling in ("on", True)
        if tiling == "auto":
            tiled = self.can_tile and _must_tile(self, lambda: _bytes(self, False), lambda: _bytes(self, True))
            tiled = self.run.agree(tiled)  # free memory may differ between processes
        return _performed(self, tiled)


def _must_tile(work: VaeWork, whole: Callable[[], int], tiles: Callable[[], int]) -> bool:
    """Whether `auto` uses tiles: work without tiles needs more than the device's free memory, and tiles need less.

    Args:
        work: The encoding or decoding.
        whole: Counts the bytes that the work needs without tiles.
        tiles: Counts the bytes that the work needs with tiles.
    """
    run, free = work.run, device_memory.free(work.run)
    if free is None:
        run.detail(tiling="off")
        return False
    if ENOUGH_PER_PIXEL * work.pixels <= free:
        run.detail(tiling="off: it fits")
        return False
    needs = whole()
    if HEADROOM * needs <= free:
        run.detail(tiling=f"off: it fits, taking {size(needs)} of {size(free)}")
        return False
    if tiles() >= needs:
        run.detail(tiling="off: tiles would not take less")
        return False
    run.detail(tiling=f"on: {work.name} without tiles takes {size(needs)}, and {size(free)} are free")
    run.warn(
        f"{work.name} runs tile by tile: without tiles it would need {size(needs)}, and {size(free)} are free; "
        "results differ slightly where tiles overlap (`tiling: off` forbids tiles)"
    )
    return True


def _bytes(work: VaeWork, tiled: bool) -> int:
    """Count the bytes of the work, without the VAE and the input tensor, on a copy on the meta device."""
    model = work.model
    known = _COUNTED.setdefault(model.weights, {})
    transforms = tuple(t for t in model.recipe("vae") if getattr(t, "planned", False))
    key = (work.name, tiled, tuple(work.tensor.shape), work.tensor.dtype, transforms)
    if key not in known:
        run = Run()
        run.device, run.planning = "meta", True
        weights = replace(model.weights, device="meta", kind="meta", offload="off")
        twin = replace(work, run=run, model=replace(model, weights=weights, transforms=transforms))
        with cost_meter.runtime(run), cost_meter.meter(run):
            twin.model.acquire("vae", run)
            traced = replace(twin, tensor=work.tensor.to("meta"))
            with cost_meter.attempt() as attempt:
                _traced(traced, tiled)
        known[key] = attempt.above
    placed = model.offload("vae")
    return known[key] + (placed.resident(work.vae) if placed is not None else 0)


def _planned(work: VaeWork, tiling: Tiling) -> Any:
    """Do the work on the meta device, in a plan, with tiles if the run will use them."""
    if tiling in ("on", True):
        return _traced(work, True)
    free = device_memory.free(work.run)
    frames = 3 * 4 * work.pixels  # bytes in float32; tiles do not reduce them
    # Counting the tiles of a clip with more bytes than the free memory could take hours.
    if not work.can_tile or work.run.agree(free is not None and frames >= free):
        if tiling == "auto":
            work.run.detail(tiling="off")
        return _traced(work, False)
    made: list[Any] = []
    attempts: list[cost_meter.Attempt] = []

    def whole() -> int:
        with cost_meter.attempt() as attempt:
            made.append(_traced(work, False))
        attempts.append(attempt)
        return attempt.above

    def tiles() -> int:
        with cost_meter.attempt() as attempt:
            _traced(work, True)
        attempt.undo()
        return attempt.above

    if tiling == "auto" and work.run.agree(_must_tile(work, whole, tiles)):  # ranks may have other peaks
        made.clear()
        for attempt in attempts:
            attempt.undo()
        return _traced(work, True)
    if tiling != "auto" and free is not None:
        _advise(work, free, whole(), tiles, attempts[0])
    return made.pop() if made else _traced(work, False)


def _advise(work: VaeWork, free: int, needs: int, tiles: Callable[[], int], attempt: cost_meter.Attempt) -> None:
    """Add the bytes of tiled work to the plan if work without tiles does not fit and the node forbids tiles."""
    if HEADROOM * needs <= free:
        return
    less = tiles()
    if less < needs:
        work.run.detail(tiled_peak_bytes=attempt.live + less)
        work.run.warn(
            f"{work.name} takes {size(needs)}, and the device has {size(free)} free; "
            f"`tiling: on` would take {size(less)}"
        )


def _traced(work: VaeWork, tiled: bool) -> Any:
    """Do the work on the meta device. Tiles and chunks of one shape are traced once."""
    vae = work.vae
    with ExitStack() as stack:
        if work.can_tile:
            stack.enter_context(tiling_set(vae, tiled))
        for part in ("encoder", "decoder"):
            if hasattr(vae, part):
                stack.enter_context(traced_once(getattr(vae, part), "forward"))
        stack.enter_context(_unblended(vae))
        return work.do(work.model, work.tensor)


def _performed(work: VaeWork, tiled: bool) -> Any:
    """Do the work on the device. If the device has too little memory, the error gives the numbers."""
    free = device_memory.free(work.run)
    try:
        with tiling_set(work.vae, tiled) if work.can_tile else ExitStack():
            return work.do(work.model, work.tensor)
    except Exception as error:
        if not device_memory.exhausted(error):
            raise
        needs = "" if tiled else f" takes {size(_bytes(work, False))} without tiles, which"
        here = f": the device had {size(free)} free" if free is not None else ""
        tiles = "" if tiled or not work.can_tile else "set `tiling: on`, or choose "
        raise DoesNotFit(
            f"{work.name}{needs} does not fit on the device{here}",
            help=f"{tiles}a smaller size, fewer frames, a batch of one or a narrower `vae_dtype` of model.load",
        ) from error


@contextmanager
def tiling_set(vae: Any, tiled: bool) -> Iterator[None]:
    """Set tiling inside `with` and restore it afterwards. All values of the model share the VAE."""
    before = vae.use_tiling
    vae.use_tiling = tiled
    try:
        yield
    finally:
        vae.use_tiling = before


@contextmanager
def _unblended(vae: Any) -> Iterator[None]:
    """Skip the blending of tiles, which writes each row into the returned tile."""
    names = [name for name in ("blend_v", "blend_h", "blend_t") if hasattr(vae, name)]
    for name in names:
        setattr(vae, name, lambda above, tile, extent: tile)
    try:
        yield
    finally:
        for name in names:
            vars(vae).pop(name, None)
