"""`vae.decode` and `vae.encode`: between latents and frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from ..graph.node import NodeError, Problem, Reads, node
from .families import Configs
from .models.model import Model
from .values import Frames, Latents, Size


def _check_decode(**known: Any) -> Iterator[Problem]:
    made, wanted = known.get("latents", {}).get("family"), known.get("model", {}).get("family")
    if made and wanted and made != wanted:
        yield Problem("unsupported", "latents", f"latents of {made} cannot be decoded by a model of {wanted}")


def _describe_frames(**known: Any) -> dict[str, Any]:
    latents = known.get("latents", {})
    return {key: latents[key] for key in ("size", "batch") if key in latents}


@node("vae.decode", describe=_describe_frames, check=_check_decode)
def decode(model: Annotated[Model, Reads("vae")], latents: Latents, *, tiling: bool = False) -> Frames:
    """Decode latents into frames, as the family's diffusers pipeline does.

    Args:
        model: A loaded model; only its VAE is used.
        latents: Normalised latents of this model, denoised.
        tiling: Decode tile by tile: less memory, slower, and slightly different where tiles overlap.

    Returns:
        Frames in [0, 1], float32, [B, F, H, W, 3].

    Raises:
        NodeError: If the latents are of another family, or the VAE cannot work in tiles.
    """
    for problem in _check_decode(latents={"family": latents.family}, model={"family": model.family.name}):
        raise NodeError(problem.message)
    with _tiling(model.component("vae"), tiling):
        tensor = model.family.unpack(latents.tensor, latents.size, _configs(model))
        return Frames(model.family.decode(model, tensor))


def _describe_latents(**known: Any) -> dict[str, Any]:
    family = known.get("model", {}).get("family")
    return _describe_frames(latents=known.get("frames", {})) | ({"family": family} if family else {})


@node("vae.encode", describe=_describe_latents)
def encode(model: Annotated[Model, Reads("vae")], frames: Frames, *, tiling: bool = False) -> Latents:
    """Encode frames into latents: the mode of the VAE's distribution, normalised.

    Args:
        model: A loaded model; only its VAE is used.
        frames: Frames in [0, 1], [B, F, H, W, 3], of a size the model can make.
        tiling: Encode tile by tile: less memory, slower, and slightly different where tiles overlap.

    Returns:
        Latents in the layout of the transformer, float32.

    Raises:
        NodeError: If the frames are of a size the model cannot make, or the VAE cannot work in tiles.
    """
    _, count, height, width, _ = frames.tensor.shape
    size = Size(width, height, count)
    made = model.family.size(width, height, count, _configs(model))
    if made != size:
        raise NodeError(f"frames of {size} are none of this model's sizes", help=f"the next one down is {made}")
    with _tiling(model.component("vae"), tiling):
        tensor = model.family.pack(model.family.encode(model, frames.tensor))
        return Latents(tensor, model.family.name, size)


def _configs(model: Model) -> Configs:
    return {part: model.config(part) for part in ("vae", "transformer")}


@contextmanager
def _tiling(vae: Any, wanted: bool) -> Iterator[None]:
    """Set tiling for one call and put it back: the VAE is shared by everything that uses the model."""
    if not hasattr(vae, "use_tiling"):
        if wanted:
            raise NodeError("this model's VAE cannot work tile by tile", help="leave `tiling` out")
        yield
        return
    before = vae.use_tiling
    vae.use_tiling = wanted
    try:
        yield
    finally:
        vae.use_tiling = before
