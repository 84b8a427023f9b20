"""Components that do not fit the free memory of a device: they are offloaded, or an error says what else helps."""

from __future__ import annotations

from collections.abc import Iterable

from ....graph.contract.errors import DoesNotFit
from ....graph.contract.node import Run
from ...support import device_memory
from . import offloading
from .component_loading import ComponentLoader
from .offloading import Offload

WORKING_ROOM = 0.9
"""A component whose weights take more than this share of the free memory is offloaded. The number is a guess."""

WORK_SHARE = 0.25
"""Memory for the activations of encoders, as a share of their weights. The number is a guess on the safe side: T5-XXL
has 9.5 GB of weights, and its largest tensor of 512 tokens and two prompts has 0.13 GB."""

ENCODERS = ("text_encoder", "image_encoder")
"""Starts of the names of components beside which the next component is brought to the device."""


def fits_early(loader: ComponentLoader, part: str, held: Iterable[str], run: Run) -> bool:
    """Whether a component may be on the device before its first reader: beside an encoder, with room for both.

    In a plan, no component comes to the device between an encoder and the component that is prefetched beside it. So
    the free memory decides, less that for the activations of the encoders. A component may also come while another
    process encodes for this one.

    Args:
        loader: Knows the sizes of components.
        part: Name in the repository.
        held: Names of the components in memory.
        run: Knows the free memory, and the choices of a resumed run.
    """
    sizes = {name: loader.parameters(name)[1] for name in held}
    encoders = [name for name in sizes if name.startswith(ENCODERS)]
    if part.startswith(ENCODERS) or run.choice(f"offload {part} of {loader.repository.source}"):
        return False
    if not encoders and not run.waits:
        return False
    if any(size for name, size in sizes.items() if name not in encoders):
        return False  # a VAE, whose work may take more memory than its weights
    free, size = device_memory.free(run), loader.parameters(part)[1]
    work = WORK_SHARE * sum(sizes.values())
    return free is not None and 0 < size <= WORKING_ROOM * (free - work)


def offload_if_needed(loader: ComponentLoader, part: str, run: Run, early: bool) -> Offload | None:
    """Settings of offloading for a component whose weights do not fit the free memory of a GPU; None if they do.

    A resumed run decides as before.

    Args:
        loader: Knows the component's size and source.
        part: Name in the repository.
        run: Knows the free memory, and takes the choice and a warning.
        early: The weights are on the device already.
    """
    if loader.offload != "auto" or not device_memory.target(run).startswith("cuda"):
        return None
    name = f"offload {part} of {loader.repository.source}"
    if run.choice(name) is not None:
        return offloading.Offload(part) if run.choice(name) else None
    run.chose(name, False)
    if early:
        return None
    free, (_, size) = device_memory.free(run), loader.parameters(part)
    if free is None or size <= WORKING_ROOM * free:
        return None
    library, kind = loader.repository.entry(part)
    if library not in ("diffusers", "transformers") or offloading.offload_problem(kind) is not None:
        return None
    run.chose(name, True)
    placed = offloading.Offload(part)
    most = placed.resident(loader.on_meta(part))
    run.warn(
        f"{part} takes {device_memory.size(size)}, and the device has {device_memory.size(free)} free, so {part} "
        f"is offloaded to host memory: at most {device_memory.size(most)} are on the device at once, which is "
        "slow; `model.offload` has other settings, and `offload: off` of model.load forbids offloading"
    )
    return placed


def too_large(loader: ComponentLoader, part: str, free: int | None, placed: Offload | None) -> DoesNotFit:
    """The error of a component for which memory did not suffice. `free`: bytes that were free on the device."""
    size, module = loader.parameters(part)[1], loader.on_meta(part)
    where = "on the device" if placed is None else "in the host's memory"
    lighter = ["a smaller model"]
    if loader.dtype_name(part) == "float32":
        lighter.insert(0, f"dtype bfloat16 ({size / 2e9:.1f} GB)")
    elsewhere = placed is None and loader.device != "cpu" and module is not None
    if elsewhere and offloading.offload_problem(type(module).__name__) is None:
        lighter.insert(0, f"model.offload ({offloading.Offload(part).resident(module) / 1e9:.2f} GB at a time)")
    known = "" if free is None or placed is not None else f": {free / 1e9:.1f} GB are free"
    return DoesNotFit(
        f"{part} of {loader.repository.source} needs {size / 1e9:.1f} GB and does not fit {where}{known}",
        help=f"try {' or '.join(lighter)}; other programs may hold memory of the device",
    )
