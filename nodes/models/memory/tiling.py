"""Whether a VAE works tile by tile: asked for, or because its work would not fit the device otherwise.

What fits is told from the numbers of a plan: the work is traced on the meta device, where it takes no memory and at
most a second or two (`planning.Meter`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ....graph.contract.node import DoesNotFit, NodeError, Run
from ...support import device_memory, planning_meter
from ...support.device_memory import HEADROOM, size
from ..model import Model

if TYPE_CHECKING:
    import torch

Tiling = Literal["auto", "on", "off", True, False]

PLENTY = 16384
"""Bytes for each pixel of a clip that are enough for the VAE of any family, in float32: more than twice the most that
was counted. What fits by this is not traced (tests/nodes/test_tiling.py holds it above what is counted)."""

NO_LESS = "off: tiles would take no less"

Work = Callable[[Model, "torch.Tensor"], Any]

_COUNTED: weakref.WeakKeyDictionary[Any, dict[Any, int]] = weakref.WeakKeyDictionary()


def work(run: Run, model: Model, given: torch.Tensor, pixels: int, do: Work, *, tiling: Tiling, what: str) -> Any:
    """Let a VAE work, in tiles if that is asked for or needed.

    Args:
        run: Told what was chosen and why.
        model: Its VAE has been acquired.
        given: Latents or frames.
        pixels: Of all frames of all clips.
        do: The work, given the model (or a twin of it on the meta device) and the tensor.
        tiling: What the node was told.
        what: The work, in words: `decoding`.

    Raises:
        NodeError: If tiles were asked for and the VAE has none.
        DoesNotFit: If the device has too little memory for it.
    """
    vae = model.component("vae")
    able = hasattr(vae, "use_tiling")
    if tiling in ("on", True) and not able:
        raise NodeError("this model's VAE cannot work tile by tile", help="leave `tiling` out")
    if model.device == "meta":
        return _planned(run, model, given, pixels, do, tiling, what, able)
    tiled = tiling in ("on", True)
    if tiling == "auto":
        tiled = able and _needed(run, model, given, pixels, do, what)
    return _fitting(run, model, given, do, tiled, able, what)


def _needed(run: Run, model: Model, given: torch.Tensor, pixels: int, do: Work, what: str) -> bool:
    """Whether the work would not fit in what the device of a run has free."""
    free = device_memory.free(run)
    if free is None or PLENTY * pixels <= free:
        run.detail(tiling="off" if free is None else "off: it fits")
        return False
    needs = _bytes(model, given, do, what, False)
    if HEADROOM * needs <= free:
        run.detail(tiling=f"off: it fits, taking {size(needs)} of {size(free)}")
        return False
    if _bytes(model, given, do, what, True) >= needs:
        run.detail(tiling=NO_LESS)
        return False
    _say(run, what, needs, free)
    return True


def _say(run: Run, what: str, needs: int, free: int) -> None:
    run.detail(tiling=f"on: {what} whole takes {size(needs)}, and {size(free)} are free")
    run.warn(
        f"{what} tile by tile, because whole it would take {size(needs)} and {size(free)} of the device are free; "
        "tiles differ slightly where they overlap (`tiling: off` forbids it)"
    )


def _bytes(model: Model, given: torch.Tensor, do: Work, what: str, tiled: bool) -> int:
    """Bytes that the work takes beside the VAE and what it is given, as a plan counts them."""
    known = _COUNTED.setdefault(model.weights, {})
    key = (what, tiled, tuple(given.shape), given.dtype)
    if key not in known:
        run = Run()
        run.device, run.planning = "meta", True
        weights = replace(model.weights, device="meta", kind="meta", offload="off")
        twin = replace(model, weights=weights, transforms=())
        with planning_meter.runtime(run), planning_meter.meter(run):
            twin.acquire("vae", run)
            traced = given.to("meta")
            with planning_meter.attempt() as attempt:
                _traced(twin, traced, do, tiled, hasattr(twin.component("vae"), "use_tiling"))
        known[key] = attempt.above
    placed = model.offload("vae")
    return known[key] + (placed.resident(model.component("vae")) if placed is not None else 0)


def _planned(
    run: Run, model: Model, given: torch.Tensor, pixels: int, do: Work, tiling: Tiling, what: str, able: bool
) -> Any:
    """The same while planning: what was tried and does not fit is counted as not done."""
    if tiling in ("on", True):
        return _traced(model, given, do, True, able)
    free = device_memory.free(run)
    with planning_meter.attempt() as whole:
        made = _traced(model, given, do, False, able)
    fits = free is None or HEADROOM * whole.above <= free
    frames = 3 * 4 * pixels  # in float32, which tiles do not make smaller
    if fits or not able or frames >= (free or 0):
        if tiling == "auto":
            run.detail(tiling="off: it fits" if fits and free is not None else "off")
        return made
    with planning_meter.attempt() as parts:
        _traced(model, given, do, True, able)
    parts.undo()
    if parts.above >= whole.above:
        if tiling == "auto":
            run.detail(tiling=NO_LESS)
        return made
    if tiling == "auto":
        del made
        whole.undo()
        _say(run, what, whole.above, free or 0)
        return _traced(model, given, do, True, able)
    run.detail(tiled_peak_bytes=whole.live + parts.above)
    run.warn(
        f"{what} takes {size(whole.above)}, and {size(free or 0)} of the device are free; "
        f"`tiling: on` would take {size(parts.above)}"
    )
    return made


def _traced(model: Model, given: torch.Tensor, do: Work, tiled: bool, able: bool) -> Any:
    """The work on the meta device, tiles and chunks of one shape traced once."""
    vae = model.component("vae")
    with ExitStack() as stack:
        if able:
            stack.enter_context(using(vae, tiled))
        for part in ("encoder", "decoder"):
            if hasattr(vae, part):
                stack.enter_context(planning_meter.alike(getattr(vae, part), "forward"))
        stack.enter_context(_unblended(vae))
        return do(model, given)


def _fitting(run: Run, model: Model, given: torch.Tensor, do: Work, tiled: bool, able: bool, what: str) -> Any:
    """The work itself; if the device has too little memory for it, that is said with numbers."""
    vae, free = model.component("vae"), device_memory.free(run)
    try:
        with using(vae, tiled) if able else ExitStack():
            return do(model, given)
    except Exception as error:
        if not device_memory.exhausted(error):
            raise
        needs = "" if tiled else f" takes {size(_bytes(model, given, do, what, False))} in one piece, which"
        here = f": {size(free)} were free" if free is not None else ""
        tiles = "" if tiled or not able else "set `tiling: on`, or choose "
        raise DoesNotFit(
            f"{what}{needs} does not fit on the device{here}",
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
