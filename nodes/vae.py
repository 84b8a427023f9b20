"""`vae.decode` and `vae.encode`: between latents and frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from ..graph.contract.node import NO_RUN, NodeError, Problem, Reads, Run, node
from .families import Configs
from .models.memory import tiling as tiles
from .models.memory.tiling import Tiling
from .models.model import Model
from .values import Frames, Latents, Size

if TYPE_CHECKING:
    import torch


def _check_decode(**known: Any) -> Iterator[Problem]:
    made, wanted = known.get("latents", {}).get("family"), known.get("model", {}).get("family")
    if made and wanted and made != wanted:
        yield Problem("unsupported", "latents", f"latents of {made} cannot be decoded by a model of {wanted}")


def _describe_frames(**known: Any) -> dict[str, Any]:
    latents = known.get("latents", {})
    return {key: latents[key] for key in ("size", "batch") if key in latents}


@node("vae.decode", describe=_describe_frames, check=_check_decode)
def decode(
    model: Annotated[Model, Reads("vae")], latents: Latents, *, tiling: Tiling = "auto", run: Run = NO_RUN
) -> Frames:
    """Decode latents into frames, as the family's diffusers pipeline does.

    Args:
        model: A loaded model; only its VAE is used.
        latents: Normalised latents of this model, denoised.
        tiling: Decode tile by tile: less memory, slower, and slightly different where tiles overlap. `auto` does it,
            with a warning, only if the whole would not fit in what the device has free, as a plan counts it. True
            and false are `on` and `off`.

    Returns:
        Frames in [0, 1], float32, [B, F, H, W, 3].

    Raises:
        NodeError: If the latents are of another family, or the VAE cannot work in tiles.
        DoesNotFit: If the device has too little memory for it.
    """
    for problem in _check_decode(latents={"family": latents.family}, model={"family": model.family.name}):
        raise NodeError(problem.message)
    size = latents.size

    def work(model: Model, tensor: torch.Tensor) -> torch.Tensor:
        return model.family.decode(model, model.family.unpack(tensor, size, _configs(model)))

    pixels = len(latents.tensor) * size.frames * size.height * size.width
    return Frames(tiles.work(run, model, latents.tensor, pixels, work, tiling=tiling, what="decoding"))


def _describe_latents(**known: Any) -> dict[str, Any]:
    family = known.get("model", {}).get("family")
    return _describe_frames(latents=known.get("frames", {})) | ({"family": family} if family else {})


@node("vae.encode", describe=_describe_latents)
def encode(
    model: Annotated[Model, Reads("vae")], frames: Frames, *, tiling: Tiling = "auto", run: Run = NO_RUN
) -> Latents:
    """Encode frames into latents: the mode of the VAE's distribution, normalised.

    Args:
        model: A loaded model; only its VAE is used.
        frames: Frames in [0, 1], [B, F, H, W, 3], of a size the model can make.
        tiling: Encode tile by tile: less memory, slower, and slightly different where tiles overlap. `auto` does it,
            with a warning, only if the whole would not fit in what the device has free, as a plan counts it. True
            and false are `on` and `off`.

    Returns:
        Latents in the layout of the transformer, float32.

    Raises:
        NodeError: If the frames are of a size the model cannot make, or the VAE cannot work in tiles.
        DoesNotFit: If the device has too little memory for it.
    """
    batch, count, height, width, _ = frames.tensor.shape
    size = Size(width, height, count)
    made = model.family.size(width, height, count, _configs(model))
    if made != size:
        raise NodeError(f"frames of {size} are none of this model's sizes", help=f"the next one down is {made}")

    def work(model: Model, tensor: torch.Tensor) -> torch.Tensor:
        return model.family.pack(model.family.encode(model, tensor))

    pixels = batch * count * height * width
    tensor = tiles.work(run, model, frames.tensor, pixels, work, tiling=tiling, what="encoding")
    return Latents(tensor, model.family.name, size)


def _configs(model: Model) -> Configs:
    return {part: model.config(part) for part in ("vae", "transformer")}
