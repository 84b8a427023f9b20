"""`image.encode` and `image.keep`: what a video model needs of a first frame, and putting it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ..graph.contract.node import NodeError, Problem, Reads, Run, node
from .denoiser import spread
from .families import Configs, Family, by_name
from .models.model import IMAGE_ENCODER, Model
from .support.lazy import lazy
from .support.pixels import to_bytes
from .values import Frames, ImageCondition, Latents, Size

if TYPE_CHECKING:
    import torch
    from PIL import Image, ImageOps
else:
    torch, Image, ImageOps = (lazy(name) for name in ("torch", "PIL.Image", "PIL.ImageOps"))

Positive = Annotated[int, Field(ge=1)]
CONFIGS = ("model_index", "vae", "transformer")
STRETCH = 0.02  # a change of the aspect ratio by less than this is not seen


def _model(known: Mapping[str, Any]) -> tuple[Family | None, Configs]:
    """Family and configurations of the model, as far as they are known."""
    model = known.get("model") or {}
    return by_name(model.get("family")), model.get("configs", {})


def _reads(**known: Any) -> Mapping[str, tuple[str, ...]]:
    """The encoders that this model has for images, where that is known."""
    family, configs = _model(known)
    return {} if family is None or "transformer" not in configs else {"model": family.image_parts(configs)}


def _describe(**known: Any) -> dict[str, Any]:
    family, configs = _model(known)
    asked = [known.get(name) for name in ("width", "height", "frames")]
    if family is None:
        return {}
    if any(value is None for value in asked):
        return {"family": family.name}
    size = family.size(asked[0], asked[1], asked[2], configs)  # type: ignore[arg-type]
    return {"family": family.name, "size": [size.width, size.height, size.frames]}


def _check(**known: Any) -> Iterator[Problem]:
    family, configs = _model(known)
    if family is None or "transformer" not in configs:
        return
    last = known.get("last", "wired") is not None
    problem = family.image_problem(configs, last)
    if problem is not None:
        yield Problem("unsupported", "last" if last else "model", problem)
    made = _describe(**known).get("size")
    for name, value in zip(("width", "height"), made or (), strict=False):
        if value != known[name]:
            message = f"{name} {known[name]} is not a size of this model"
            yield Problem("bad-value", name, message, f"the next one down is {value}")


@node("image.encode", reads=_reads, describe=_describe, check=_check)
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
    """Encode the first frame of a clip, and where the model takes one the last, for `denoiser.predict`.

    Resizing and encoding are those of the family's diffusers pipeline, which works on 8-bit pixels. Wan 2.1 reads
    the image with CLIP and the VAE, Wan 2.2 with the VAE alone.

    Args:
        model: A loaded model that takes an image; its VAE is used, and its image encoder if it has one.
        image: The first frame: one image for all clips, or one for each, [B, 1, H, W, 3].
        width: Width of the clip in pixels.
        height: Height in pixels.
        frames: Number of frames of the clip; rounded down to 4k + 1 by Wan, as `latents.noise` does.
        last: The last frame, for models that take one: as many as there are first ones.
        fit: How an image of another aspect ratio becomes one of the clip's: `stretch`, as the pipelines do, or
            `crop` to the middle.

    Returns:
        Named tensors, one row per image (Wan 2.1 and 2.2 A14B: `latents`, mask and VAE latents as further channels
        [B, 4 + C, F, H, W], and for 2.1 `embedding` [B, tokens, width]; Wan 2.2 TI2V: `kept`, the first latent frame,
        and `mask`, 0 where it stays). float32.

    Raises:
        NodeError: If the model takes no such image, an image is a clip of several frames, there are not as many
            last frames as first ones, or the size is none of the model's.
    """
    configs = {part: model.config(part) for part in CONFIGS}
    asked: dict[str, Any] = {"width": width, "height": height, "frames": frames, "last": None if last is None else {}}
    for problem in _check(model={"family": model.family.name, "configs": configs}, **asked):
        raise NodeError(problem.message, help=problem.help)
    size = model.family.size(width, height, frames, configs)
    first = _pictures(run, image, size, fit)
    final = [None] * len(first) if last is None else _pictures(run, last, size, fit)
    if len(final) != len(first):
        raise NodeError(f"there are {len(first)} first frames and {len(final)} last ones", help="give one for each")
    rows = [model.family.encode_image(model, a, b, size) for a, b in zip(first, final, strict=True)]
    return ImageCondition({name: torch.cat([row[name] for row in rows]) for name in rows[0]}, model.family.name, size)


@node("image.keep", describe=lambda **known: known.get("latents"))
def keep(latents: Latents, image: ImageCondition) -> Latents:
    """Put back what the image condition keeps of a clip: in Wan 2.2 TI2V the first latent frame.

    Such models are shown the clean first frame at every step, while the loop goes on denoising it; this replaces it
    after the loop, as the pipeline does. Latents of models that take the image as channels stay as they are.

    Args:
        latents: Latents after the denoise loop.
        image: The condition that `denoiser.predict` was given.

    Returns:
        Latents with that frame; shape and dtype as given.

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
    tensors = {name: spread(tensor, batch, "image") for name, tensor in image.tensors.items()}
    return Latents(family.keep_image(latents.tensor, tensors), latents.family, latents.size)


def _pictures(run: Run, frames: Frames, size: Size, fit: str) -> list[Any]:
    """One Pillow image per clip, cropped if that is asked for; resizing is left to the pipeline."""
    _, count, height, width, _ = frames.tensor.shape
    if count > 1:
        raise NodeError(f"there are {count} frames, and an image is one", help="load it with `image.load`")
    if frames.tensor.is_meta:
        pictures = [Image.new("RGB", (width, height)) for _ in frames.tensor]  # planning: only the size matters
    else:
        pictures = [Image.fromarray(to_bytes(clip[0])) for clip in frames.tensor]
    if fit == "crop":
        return [ImageOps.fit(picture, (size.width, size.height), Image.Resampling.LANCZOS) for picture in pictures]
    stretch = (width / height) / (size.width / size.height)
    if abs(stretch - 1) > STRETCH:
        made = f"{size.width}x{size.height}"
        run.warn(f"an image of {width}x{height} is stretched to {made}; `fit: crop` cuts it to the middle instead")
    return pictures
