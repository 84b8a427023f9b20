"""`image.encode` and `image.keep`: encode a first frame for a video model, and put it back after the loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import NodeFacts, require
from ..graph.contract.node import Reads, Run, node
from .denoiser import repeat_rows
from .families import by_name
from .models.model import IMAGE_ENCODER, Model
from .size_limits import size_problems
from .support.lazy import lazy
from .support.pixels import to_bytes
from .value_facts import FramesFacts, ImageConditionFacts, LatentsFacts, ModelFacts, made_size
from .values import Frames, ImageCondition, Latents, Size

if TYPE_CHECKING:
    import torch
    from PIL import Image, ImageOps
else:
    torch, Image, ImageOps = (lazy(name) for name in ("torch", "PIL.Image", "PIL.ImageOps"))

Positive = Annotated[int, Field(ge=1)]
CONFIGS = ("model_index", "vae", "transformer")
STRETCH = 0.02  # smaller changes of the aspect ratio cause no warning


@dataclass(frozen=True, kw_only=True)
class ImageEncodeFacts(NodeFacts):
    """Facts of `image.encode`."""

    model: ModelFacts = ModelFacts()
    image: FramesFacts = FramesFacts()
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    last: FramesFacts | None = None
    fit: str | None = None


def _reads(facts: ImageEncodeFacts) -> Mapping[str, tuple[str, ...]]:
    """The model's components that encode images, if they are known."""
    family, configs = facts.model.known_family, facts.model.configs
    return {} if family is None or "transformer" not in configs else {"model": family.image_parts(configs)}


def _describe(facts: ImageEncodeFacts) -> ImageConditionFacts:
    return ImageConditionFacts(facts.model.family, made_size(facts.model, facts.width, facts.height, facts.frames))


def _check(facts: ImageEncodeFacts) -> Iterator[Diagnostic]:
    family, configs = facts.model.known_family, facts.model.configs
    if family is None or "transformer" not in configs:
        return
    last = facts.last is not None
    problem = family.image_problem(configs, last)
    if problem is not None:
        yield Diagnostic("unsupported", problem, "last" if last else "model")
    size = made_size(facts.model, facts.width, facts.height, facts.frames)
    if size is None:
        return
    for name, asked, made in (("width", facts.width, size.width), ("height", facts.height, size.height)):
        if made != asked:
            message = f"this model does not support the {name} {asked}"
            yield Diagnostic("bad-value", message, name, help=f"the nearest size below is {made}")
    yield from size_problems(family, size, configs)


@node("image.encode", reads=_reads, describe=_describe, check=_check, processes="once")
def encode(
    run: Run,
    model: Annotated[Model, Reads("vae", *IMAGE_ENCODER)],
    image: Frames,
    *,
    width: Positive,
    height: Positive,
    frames: Positive = 1,
    last: Frames | None = None,
    fit: Literal["stretch", "crop"] = "stretch",
) -> ImageCondition:
    """Encode the first frame of a clip for `denoiser.predict`, and the last frame for models that take one.

    The image is resized and encoded as in the family's diffusers pipeline, which works on 8-bit pixels. Wan 2.1 uses
    CLIP and the VAE, Wan 2.2 the VAE alone.

    Args:
        model: A loaded model that takes an image; its VAE is used, and its image encoder if it has one.
        image: The first frame: one image for all clips, or one for each, [B, 1, H, W, 3].
        width: Width of the clip in pixels.
        height: Height in pixels.
        frames: Number of frames of the clip. Wan rounds it down to 4k + 1, as in `latents.noise`.
        last: The last frame, for models that take one; one for each first frame.
        fit: Fits an image of another aspect ratio: `stretch`, as the pipelines do, or `crop` to the middle.

    Returns:
        Named tensors, one row per image, float32. Wan 2.1 and 2.2 A14B: `latents`, a mask and VAE latents as
        additional channels [B, 4 + C, F, H, W]; Wan 2.1 also `embedding` [B, tokens, width]. Wan 2.2 TI2V: `kept`,
        the first latent frame, and `mask`, 0 at the positions of this frame.

    Raises:
        NodeError: If the model does not take the image, an image has several frames, the numbers of first and last
            frames differ, or the model does not support the size.
    """
    configs = {part: model.config(part) for part in CONFIGS}
    facts = ImageEncodeFacts(
        model=ModelFacts(model.family.name, configs=configs),
        last=None if last is None else FramesFacts(),
        width=width,
        height=height,
        frames=frames,
    )
    require(_check, facts)
    size = model.family.size(width, height, frames, configs)
    first = _pictures(run, image, size, fit)
    final = [None] * len(first) if last is None else _pictures(run, last, size, fit)
    if len(final) != len(first):
        message = f"there are {len(first)} first frames and {len(final)} last frames"
        raise NodeError(message, help="give one last frame for each first frame")
    rows = [model.family.encode_image(model, a, b, size) for a, b in zip(first, final, strict=True)]
    return ImageCondition({name: torch.cat([row[name] for row in rows]) for name in rows[0]}, model.family.name, size)


@dataclass(frozen=True, kw_only=True)
class ImageKeepFacts(NodeFacts):
    """Facts of `image.keep`."""

    latents: LatentsFacts = LatentsFacts()
    image: ImageConditionFacts = ImageConditionFacts()


def _describe_kept(facts: ImageKeepFacts) -> LatentsFacts:
    return facts.latents


@node("image.keep", describe=_describe_kept)
def keep(latents: Latents, image: ImageCondition) -> Latents:
    """Restore the part of a clip that the image condition fixes: the first latent frame in Wan 2.2 TI2V.

    The transformer of Wan 2.2 TI2V sees the clean first frame at every step, but the loop denoises its own copy. This
    node replaces the copy after the loop, as the pipeline does. Latents of other models do not change.

    Args:
        latents: Latents after the denoise loop.
        image: The condition of `denoiser.predict`.

    Returns:
        Latents with the clean first frame; shape and dtype do not change.

    Raises:
        NodeError: If the image was encoded for another family or size.
    """
    family = by_name(latents.family)
    if family is None or image.family != latents.family or image.size not in (None, latents.size):
        raise NodeError(
            f"an image encoded for {image.family} {image.size} cannot be put into latents of {latents.family} "
            f"{latents.size}",
            help="give image.encode and latents.noise the same model and size",
        )
    batch = latents.tensor.shape[0]
    tensors = {name: repeat_rows(tensor, batch, "image") for name, tensor in image.tensors.items()}
    return Latents(family.keep_image(latents.tensor, tensors), latents.family, latents.size)


def _pictures(run: Run, frames: Frames, size: Size, fit: str) -> list[Any]:
    """Make one Pillow image for each clip, cropped for `fit: crop`. The pipeline resizes the image."""
    _, count, height, width, _ = frames.tensor.shape
    if count > 1:
        raise NodeError(f"there are {count} frames, but an image has one", help="load the image with `image.load`")
    if frames.tensor.is_meta:
        pictures = [Image.new("RGB", (width, height)) for _ in frames.tensor]  # planning: only the size matters
    else:
        pictures = [Image.fromarray(to_bytes(clip[0])) for clip in frames.tensor]
    if fit == "crop":
        return [ImageOps.fit(picture, (size.width, size.height), Image.Resampling.LANCZOS) for picture in pictures]
    stretch = (width / height) / (size.width / size.height)
    if abs(stretch - 1) > STRETCH:
        made = f"{size.width}x{size.height}"
        run.warn(
            f"an image of {width}x{height} is stretched to {made}; `fit: crop` cuts it to the middle instead", "image"
        )
    return pictures
