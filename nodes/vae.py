"""The node types `vae.decode` (latents to frames) and `vae.encode` (frames to latents)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import NodeFacts, require
from ..graph.contract.node import NO_RUN, Reads, Run, node
from .families import Configs
from .models.memory.tiling import Tiling, VaeWork
from .models.model import Model
from .size_limits import require_size
from .support.finite import checked_calls
from .value_facts import FramesFacts, LatentsFacts, ModelFacts
from .values import Frames, Latents, Size

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class VaeDecodeFacts(NodeFacts):
    """Facts of `vae.decode`."""

    model: ModelFacts = ModelFacts()
    latents: LatentsFacts = LatentsFacts()
    tiling: Tiling | None = None


def _check_decode(facts: VaeDecodeFacts) -> Iterator[Diagnostic]:
    made, wanted = facts.latents.family, facts.model.family
    if made and wanted and made != wanted:
        message = f"a model of {wanted} cannot decode latents of {made}"
        yield Diagnostic("unsupported", message, "latents")


def _describe_frames(facts: VaeDecodeFacts) -> FramesFacts:
    return FramesFacts(facts.latents.size, facts.latents.batch)


@node("vae.decode", describe=_describe_frames, check=_check_decode, processes="split")
def decode(
    model: Annotated[Model, Reads("vae")], latents: Latents, *, tiling: Tiling = "auto", run: Run = NO_RUN
) -> Frames:
    """Decode latents into frames, as the family's diffusers pipeline does.

    Args:
        model: A loaded model; only its VAE is used.
        latents: Normalised latents of this model, denoised.
        tiling: Decode tile by tile, which takes less memory and more time; pixels differ slightly where tiles overlap.
            `auto` uses tiles if decoding without tiles would need more memory than the device has free, by the estimate
            that `sgd plan` uses. It then prints a warning. `true` and `false` mean `on` and `off`.

    Returns:
        Frames in [0, 1], float32, [B, F, H, W, 3]. In one process, frames of a rebuilt Wan decoder are in the host's
        memory: they leave the GPU while it decodes the next ones.

    Raises:
        NodeError: If the latents belong to another family, or the VAE cannot work in tiles.
        DoesNotFit: If the device has too little memory.
    """
    require(_check_decode, VaeDecodeFacts(model=ModelFacts(model.family.name), latents=LatentsFacts(latents.family)))
    size = latents.size

    def work(model: Model, tensor: torch.Tensor) -> torch.Tensor:
        with checked_calls(getattr(model.component("vae"), "decoder", None), "decoded pixels"):
            latents = model.family.unpack(tensor, size, _configs(model))
            if run.processes.size == 1:
                return model.family.decode(model, latents)
            from .parallel.strips import decoded

            return decoded(run, model, latents)

    pixels = len(latents.tensor) * size.frames * size.height * size.width
    return Frames(VaeWork("decoding", run, model, latents.tensor, pixels, work).perform(tiling))


@dataclass(frozen=True, kw_only=True)
class VaeEncodeFacts(NodeFacts):
    """Facts of `vae.encode`."""

    model: ModelFacts = ModelFacts()
    frames: FramesFacts = FramesFacts()
    tiling: Tiling | None = None


def _describe_latents(facts: VaeEncodeFacts) -> LatentsFacts:
    return LatentsFacts(facts.model.family, facts.frames.size, facts.frames.batch)


@node("vae.encode", describe=_describe_latents, processes="split")
def encode(
    model: Annotated[Model, Reads("vae")], frames: Frames, *, tiling: Tiling = "auto", run: Run = NO_RUN
) -> Latents:
    """Encode frames into latents: the mode of the VAE's distribution, normalised.

    Args:
        model: A loaded model; only its VAE is used.
        frames: Frames in [0, 1], [B, F, H, W, 3], of a size that the model supports.
        tiling: Encode tile by tile, which takes less memory and more time; latents differ slightly where tiles overlap.
            `auto` uses tiles if encoding without tiles would need more memory than the device has free, by the estimate
            that `sgd plan` uses. It then prints a warning. `true` and `false` mean `on` and `off`.

    Returns:
        Latents in the layout of the transformer, float32.

    Raises:
        NodeError: If the model does not support this size, or the VAE cannot work in tiles.
        DoesNotFit: If the device has too little memory.
    """
    batch, count, height, width, _ = frames.tensor.shape
    size = Size(width, height, count)
    made = model.family.size(width, height, count, _configs(model))
    if made != size:
        raise NodeError(f"this model cannot make {size}", help=f"the nearest size below is {made}")
    require_size(model.family, size, _configs(model))

    def work(model: Model, tensor: torch.Tensor) -> torch.Tensor:
        frames = tensor.to(model.device)
        if run.processes.size == 1:
            return model.family.pack(model.family.encode(model, frames))
        from .parallel.strips import encoded

        return model.family.pack(encoded(run, model, frames))

    pixels = batch * count * height * width
    tensor = VaeWork("encoding", run, model, frames.tensor, pixels, work).perform(tiling)
    return Latents(tensor, model.family.name, size)


def _configs(model: Model) -> Configs:
    return {part: model.config(part) for part in ("vae", "transformer")}
