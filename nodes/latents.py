"""`latents.noise`, `latents.save`, `latents.load`."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import NodeFacts, require
from ..graph.contract.node import NO_RUN, OutPath, Reads, Run, node
from .models.model import Model
from .support.lazy import lazy
from .support.path_names import written
from .value_facts import LatentsFacts, ModelFacts, made_size
from .values import File, Latents, Size

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Positive = Annotated[int, Field(ge=1)]
FORMAT = "sgd-latents-1"


@dataclass(frozen=True, kw_only=True)
class LatentsNoiseFacts(NodeFacts):
    """Facts of `latents.noise`."""

    model: ModelFacts = ModelFacts()
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    batch: int | None = None
    seed: tuple[int, ...] | None = None
    dtype: str | None = None


def _describe(facts: LatentsNoiseFacts) -> LatentsFacts:
    made = made_size(facts.model, facts.width, facts.height, facts.frames)
    return LatentsFacts(facts.model.family, made, facts.batch)


def _check(facts: LatentsNoiseFacts) -> Iterator[Diagnostic]:
    seeds, batch = facts.seed, facts.batch
    if seeds is not None and batch is not None and len(seeds) not in (1, batch):
        message = f"{len(seeds)} seeds for a batch of {batch}: give one seed, or one for each clip"
        yield Diagnostic("bad-value", message, "seed")
    family, made = facts.model.known_family, made_size(facts.model, facts.width, facts.height, facts.frames)
    if made is None or family is None:
        return
    empty = [(name, value) for name, value in (("width", made.width), ("height", made.height)) if value == 0]
    asked = {"width": facts.width, "height": facts.height, "frames": facts.frames}
    for name, _ in empty:
        message = f"a {name} of {asked[name]} is smaller than one patch of this model"
        yield Diagnostic("bad-value", message, name)
    for name, value in (("width", made.width), ("height", made.height), ("frames", made.frames)):
        if value != asked[name] and not empty:
            message = f"this model does not support the {name} {asked[name]}"
            if family.rounds or (name == "frames" and family.rounds_frames):
                message = f"{message}: the {name} is rounded down to {value} ({made})"
                yield Diagnostic("bad-value", message, name, severity="warning")
            else:
                yield Diagnostic("bad-value", message, name, help=f"the nearest size below is {made}")


@node("latents.noise", describe=_describe, check=_check)
def noise(
    model: Annotated[Model, Reads()],
    *,
    width: Positive,
    height: Positive,
    frames: Positive = 1,
    batch: Positive = 1,
    seed: list[Annotated[int, Field(ge=-(2**63), lt=2**64)]] = [0],  # noqa: B006 - never changed
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    run: Run = NO_RUN,
) -> Latents:
    """Draw the noise that a run starts from. A seed gives the same noise as in the family's diffusers pipeline.

    The noise is drawn on the CPU, so a seed gives equal noise on every device. A size that the model does not support
    is treated as in the pipeline. Wan, FLUX and Qwen-Image round the size down (Wan: width and height to whole patches,
    frames to 4k + 1). Z-Image reports an error. HunyuanVideo reports an error for a width or height, and rounds frames
    down.

    Args:
        model: The model the noise is for; only its configuration is read.
        width: Width of the clip in pixels.
        height: Height in pixels.
        frames: Number of frames.
        batch: Number of clips.
        seed: One seed for the whole batch, or one for each clip (a clip then does not depend on its batch).
        dtype: Precision of the noise. diffusers' pipelines use float32; those of FLUX and Qwen-Image use the precision
            of the text encoder. The numbers for a seed depend on the precision.

    Returns:
        Normal noise in the layout of the transformer (Wan: [B, C, F, H, W]; FLUX, Qwen-Image: [B, tokens, 4 C]) on
        the model's device.

    Raises:
        NodeError: If the size is smaller than one patch, the model does not support the size, or the number of seeds is
            neither 1 nor the number of clips.
    """
    configs = {part: model.config(part) for part in ("vae", "transformer")}
    seeds, known = (seed,) if isinstance(seed, int) else tuple(seed), ModelFacts(model.family.name, configs=configs)
    facts = LatentsNoiseFacts(model=known, width=width, height=height, frames=frames, batch=batch, seed=seeds)
    require(_check, facts)
    from diffusers.utils.torch_utils import randn_tensor

    size = model.family.size(width, height, frames, configs)
    run.detail(tokens=model.family.tokens(size, configs))
    generators = [torch.Generator("cpu").manual_seed(value) for value in seeds]
    tensor = randn_tensor(
        model.family.latent_shape(size, batch, configs),
        generator=generators,
        device=torch.device(model.device),
        dtype=getattr(torch, dtype),
    )
    return Latents(model.family.pack(tensor), model.family.name, size)


@dataclass(frozen=True, kw_only=True)
class LatentsSaveFacts(NodeFacts):
    """Facts of `latents.save`."""

    latents: LatentsFacts = LatentsFacts()
    path: str | None = None


def _check_extension(facts: LatentsSaveFacts) -> Iterator[Diagnostic]:
    suffix = ".safetensors" if facts.path is None else Path(facts.path).suffix
    if suffix != ".safetensors":
        other = f"as {suffix}" if suffix else "without an extension"
        yield Diagnostic("bad-value", f"latents are saved as .safetensors, not {other}", "path")


@node("latents.save", effect=True, check=_check_extension)
def save(run: Run, latents: Latents, path: OutPath) -> File:
    """Save latents as safetensors, with the size of the clip and the name of the family.

    Args:
        latents: Latents of any family, before or after denoising.
        path: File name ending in .safetensors.

    Returns:
        The file.

    Raises:
        NodeError: If the file cannot be written, or the name does not end in .safetensors.
    """
    require(_check_extension, LatentsSaveFacts(path=str(path)))
    from safetensors.torch import save_file

    size = latents.size
    metadata = {"format": FORMAT, "family": latents.family}
    metadata |= {name: str(getattr(size, name)) for name in ("width", "height", "frames")}
    target = run.output(path)
    with written(target) as part:
        save_file({"latents": latents.tensor.detach().cpu().contiguous()}, part, metadata=metadata)
    return File(target)


def _header(path: Path) -> Mapping[str, Any]:
    """Read the header of a safetensors file: eight bytes with the length, then JSON.

    Raises:
        NodeError: If the file is missing, or `latents.save` did not write it.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 2**20:
                raise ValueError
            header = json.loads(file.read(length))
            extent = header["latents"]["data_offsets"][1]
        if 8 + length + extent > path.stat().st_size:
            raise NodeError(f"{path} is incomplete: the file was not completely written or copied")
        if header.get("__metadata__", {}).get("format") != FORMAT:
            raise NodeError(f"{path} has tensors, but `latents.save` did not write it")
        return header
    except FileNotFoundError:
        raise NodeError(f"there is no file {path}") from None
    except OSError as error:
        raise NodeError(f"{path} cannot be read: {error.strerror}") from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise NodeError(f"{path} is not a file of latents", help="`latents.save` writes files of latents") from None


@dataclass(frozen=True, kw_only=True)
class LatentsLoadFacts(NodeFacts):
    """Facts of `latents.load`."""

    path: str | None = None


def _describe_file(facts: LatentsLoadFacts) -> LatentsFacts:
    if facts.path is None:
        return LatentsFacts()
    try:
        header = _header(Path(facts.path))
        metadata = header["__metadata__"]
        size = Size(*(int(metadata[name]) for name in ("width", "height", "frames")))
        return LatentsFacts(metadata["family"], size, header["latents"]["shape"][0])
    except (NodeError, KeyError, ValueError):
        return LatentsFacts()  # the run reports the problem


@node("latents.load", describe=_describe_file)
def load(run: Run, path: Path) -> Latents:
    """Load latents that `latents.save` wrote.

    Args:
        path: A .safetensors file.

    Returns:
        The latents in their saved precision, on the run's device.

    Raises:
        NodeError: If the file is missing, incomplete, or not a file of latents.
    """
    facts = _describe_file(LatentsLoadFacts(path=str(path)))
    if facts.family is None or facts.size is None:
        _header(path)  # raises if the file is wrong
        raise NodeError(f"{path} lacks the family or the size of its latents")
    from safetensors.torch import load_file

    tensor = load_file(path)["latents"].to(run.device)
    return Latents(tensor, facts.family, facts.size)
