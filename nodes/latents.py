"""`latents.noise`, `latents.save`, `latents.load`."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ..graph.contract.node import NO_RUN, NodeError, OutPath, Problem, Reads, Run, node
from .families import by_name
from .models.model import Model
from .support.lazy import lazy
from .support.path_names import written
from .values import File, Latents, Size

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Positive = Annotated[int, Field(ge=1)]
FORMAT = "sgd-latents-1"


def _describe(**known: Any) -> dict[str, Any]:
    description = {"family": known.get("model", {}).get("family"), "batch": known.get("batch")}
    size = _size(**known)
    if size is not None:
        description["size"] = [size.width, size.height, size.frames]
    return {key: value for key, value in description.items() if value is not None}


def _size(**known: Any) -> Size | None:
    """The rounded size, where the model and the size asked for are known."""
    model = known.get("model", {})
    family = by_name(model.get("family"))
    asked = [known.get(name) for name in ("width", "height", "frames")]
    if family is None or any(value is None for value in asked):
        return None
    return family.size(asked[0], asked[1], asked[2], model.get("configs", {}))  # type: ignore[arg-type]


def _check(**known: Any) -> Iterator[Problem]:
    seeds, batch = _seeds(known.get("seed")), known.get("batch")
    if "seed" in known and batch is not None and len(seeds) not in (1, batch):
        yield Problem("bad-value", "seed", f"{len(seeds)} seeds for a batch of {batch}: give one, or one for each")
    size = _size(**known)
    if size is None:
        return
    empty = [name for name in ("width", "height") if getattr(size, name) == 0]
    for name in empty:
        yield Problem("bad-value", name, f"a {name} of {known[name]} is smaller than one patch of this model")
    for name in ("width", "height", "frames"):
        made = getattr(size, name)
        if made != known[name] and not empty:
            message, family = f"{name} {known[name]} is not a size of this model", by_name(known["model"]["family"])
            if family is not None and (family.rounds or (name == "frames" and family.rounds_frames)):
                yield Problem("bad-value", name, f"{message}: {made} will be made ({size})", severity="warning")
            else:
                yield Problem("bad-value", name, message, f"the next one down is {size}")


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
    """Draw the noise a run starts from; equal seeds give the noise of the family's diffusers pipeline.

    Drawn on the CPU, so that a seed means the same on every device. A size that is not one of the model's is
    rounded down to one, as the pipeline does (Wan: width and height to whole patches, frames to 4k + 1); where the
    pipeline refuses it (Z-Image, HunyuanVideo's width and height), so does this node.

    Args:
        model: The model the noise is for; only its configuration is read.
        width: Width of the clip in pixels.
        height: Height in pixels.
        frames: Number of frames.
        batch: Number of clips.
        seed: One seed for the whole batch, or one for each clip (a clip then does not depend on its batch).
        dtype: Precision of the noise. diffusers' pipelines use float32, but for FLUX and Qwen-Image that of the text
            encoder; other numbers are drawn for the same seed in another precision.

    Returns:
        Normal noise in the layout of the transformer (Wan: [B, C, F, H, W]; FLUX, Qwen-Image: [B, tokens, 4 C]) on
        the model's device.

    Raises:
        NodeError: If the size is smaller than one patch or one that the family refuses, or there are neither one
            seed nor as many as clips.
    """
    configs = {part: model.config(part) for part in ("vae", "transformer")}
    asked = {"width": width, "height": height, "frames": frames, "batch": batch, "seed": seed}
    for problem in _check(model={"family": model.family.name, "configs": configs}, **asked):
        if problem.severity == "error":
            raise NodeError(problem.message, help=problem.help)
    from diffusers.utils.torch_utils import randn_tensor

    size = model.family.size(width, height, frames, configs)
    run.detail(tokens=model.family.tokens(size, configs))
    generators = [torch.Generator("cpu").manual_seed(value) for value in _seeds(seed)]
    tensor = randn_tensor(
        model.family.latent_shape(size, batch, configs),
        generator=generators,
        device=torch.device(model.device),
        dtype=getattr(torch, dtype),
    )
    return Latents(model.family.pack(tensor), model.family.name, size)


def _seeds(seed: list[int] | int | None) -> list[int]:
    return [seed] if isinstance(seed, int) else list(seed or [])


def _check_extension(**known: Any) -> Iterator[Problem]:
    path = known.get("path")
    if path is not None and Path(path).suffix != ".safetensors":
        yield Problem("bad-value", "path", f"latents are saved as .safetensors, not as {Path(path).suffix or 'that'}")


@node("latents.save", effect=True, check=_check_extension)
def save(run: Run, latents: Latents, path: OutPath) -> File:
    """Save latents, with the size of the clip and the family they are of, as safetensors.

    Args:
        latents: Latents of any family, before or after denoising.
        path: File name ending in .safetensors.

    Returns:
        The file.

    Raises:
        NodeError: If the file cannot be written, or the name does not end in .safetensors.
    """
    for problem in _check_extension(path=path):
        raise NodeError(problem.message)
    from safetensors.torch import save_file

    size = latents.size
    metadata = {"format": FORMAT, "family": latents.family}
    metadata |= {name: str(getattr(size, name)) for name in ("width", "height", "frames")}
    target = run.output(path)
    with written(target) as part:
        save_file({"latents": latents.tensor.detach().cpu().contiguous()}, part, metadata=metadata)
    return File(target)


def _header(path: Path) -> Mapping[str, Any]:
    """The header of a safetensors file: eight bytes of length, then JSON.

    Raises:
        NodeError: If the file is missing, or no latents that `latents.save` wrote.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 2**20:
                raise ValueError
            header = json.loads(file.read(length))
            extent = header["latents"]["data_offsets"][1]
        if 8 + length + extent > path.stat().st_size:
            raise NodeError(f"{path} ends before its data does: it was not completely written or copied")
        if header.get("__metadata__", {}).get("format") != FORMAT:
            raise NodeError(f"{path} holds tensors, but no latents that `latents.save` wrote")
        return header
    except FileNotFoundError:
        raise NodeError(f"there is no file {path}") from None
    except OSError as error:
        raise NodeError(f"{path} cannot be read: {error.strerror}") from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise NodeError(f"{path} is not a file of latents", help="such files are written by `latents.save`") from None


def _describe_file(**known: Any) -> dict[str, Any]:
    try:
        header = _header(Path(known["path"]))
        metadata = header["__metadata__"]
        size = [int(metadata[name]) for name in ("width", "height", "frames")]
        return {"family": metadata["family"], "size": size, "batch": header["latents"]["shape"][0]}
    except (NodeError, KeyError, ValueError):
        return {}  # unknown until the run, which says why


@node("latents.load", describe=_describe_file)
def load(run: Run, path: Path) -> Latents:
    """Load latents that `latents.save` wrote.

    Args:
        path: A .safetensors file.

    Returns:
        The latents, in the precision they were saved in, on the run's device.

    Raises:
        NodeError: If the file is missing, incomplete, or not one of latents.
    """
    description = _describe_file(path=path)
    if not description:
        _header(path)  # says what is wrong
        raise NodeError(f"{path} does not say the family and size of its latents")
    from safetensors.torch import load_file

    tensor = load_file(path)["latents"].to(run.device)
    return Latents(tensor, description["family"], Size(*description["size"]))
