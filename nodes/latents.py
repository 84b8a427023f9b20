"""`latents.noise`, `latents.save`, `latents.load`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import NodeFacts, require
from ..graph.contract.node import NO_RUN, OutPath, Reads, Run, node
from .families import by_name
from .models.model import Model
from .size_limits import size_problems
from .support.input_files import require_file, shown
from .support.lazy import lazy
from .support.path_names import written
from .support.recipe_places import KEY
from .support.tensor_header import read_header, sort_header
from .value_facts import LatentsFacts, ModelFacts, made_size
from .values import File, Latents, Size

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Positive = Annotated[int, Field(ge=1)]
FORMAT = "sgd-latents-1"
WRITES = "`latents.save` writes files of latents"
LARGEST_SIZE = 1_000_000  # pixels, or frames; far above every model's


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
    made, family = made_size(facts.model, facts.width, facts.height, facts.frames), facts.model.known_family
    if made is not None and family is not None and any(size_problems(family, made, facts.model.configs)):
        made = None  # `_check` reports it once
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
    yield from size_problems(family, made, facts.model.configs)


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
        NodeError: If the size is smaller than one patch or larger than the model can make, the family refuses the
            size, or the number of seeds is neither 1 nor the number of clips.
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
    """Save latents as safetensors, with the size of the clip, the name of the family, and the recipe of the run.

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
    recipe = run.recipe()
    metadata |= {KEY: recipe} if recipe is not None else {}
    target = run.output(path)
    with written(run, target) as part:
        save_file({"latents": latents.tensor.detach().cpu().contiguous()}, part, metadata=metadata)
        sort_header(part)
    return File(target)


FLOATING = ("F16", "BF16", "F32", "F64")


def _read(path: Path) -> LatentsFacts:
    """The facts of a file of latents, from its header.

    Raises:
        NodeError: If the file is missing or damaged, or `latents.save` did not write it.
    """
    require_file(path)
    name = shown(path)
    try:
        header = read_header(path)
    except NodeError as error:
        raise NodeError(str(error), help=WRITES) from error
    metadata, entry = header.get("__metadata__", {}), header.get("latents")
    if metadata.get("format") != FORMAT:
        raise NodeError(f"{name} has tensors, but `latents.save` did not write it", help=WRITES)
    if entry is None or entry["dtype"] not in FLOATING or not entry["shape"]:
        raise NodeError(f"{name} is not a file of latents: it holds no floating-point tensor `latents`", help=WRITES)
    if by_name(metadata.get("family")) is None:
        raise NodeError(f"{name} lacks the family of its latents, or names one that is not known", help=WRITES)
    try:
        numbers = [int(metadata[each]) for each in ("width", "height", "frames")]
    except (KeyError, ValueError):
        numbers = []
    if not numbers or not all(1 <= number <= LARGEST_SIZE for number in numbers):
        raise NodeError(f"{name} lacks the size of its latents", help=WRITES)
    return LatentsFacts(metadata["family"], Size(*numbers), entry["shape"][0])


@dataclass(frozen=True, kw_only=True)
class LatentsLoadFacts(NodeFacts):
    """Facts of `latents.load`."""

    path: str | None = None


def _describe_file(facts: LatentsLoadFacts) -> LatentsFacts:
    if facts.path is None:
        return LatentsFacts()
    try:
        return _read(Path(facts.path))
    except NodeError:
        return LatentsFacts()  # `check` reports the problem


def _check_file(facts: LatentsLoadFacts) -> Iterator[Diagnostic]:
    if facts.path is None:
        return
    try:
        _read(Path(facts.path))
    except NodeError as error:
        yield replace(error.diagnostic, place="path")


@node("latents.load", describe=_describe_file, check=_check_file)
def load(run: Run, path: Path) -> Latents:
    """Load latents that `latents.save` wrote.

    Args:
        path: A .safetensors file.

    Returns:
        The latents in their saved precision, on the run's device.

    Raises:
        NodeError: If the file is missing, incomplete, or not a file of latents.
    """
    facts = _read(path)
    assert facts.family is not None
    assert facts.size is not None
    from safetensors.torch import load_file

    tensor = load_file(path)["latents"].to(run.device)
    return Latents(tensor, facts.family, facts.size)
