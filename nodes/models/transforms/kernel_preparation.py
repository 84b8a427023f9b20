"""Builds the Triton kernels of rebuilt blocks and decoders, in the thread that reads components in advance.

A small twin of the component on the meta device does the work of the component. The twin of a transformer has one block
of each list. The twin takes the same transforms and runs the same code, up to the launches of kernels. The thread
gathers these launches, and then builds their kernels. The twin needs no memory and no device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ....graph.contract.node import Run
from ....graph.contract.process_state import shared
from ...support import cost_meter, kernel_launch
from ...support.lazy import lazy
from ...values import Size, Step
from ..attention import kernels, processors
from ..attention.backend_table import FLASH_3_FP8
from ..memory.transform_order import Transform
from ..model import Model
from ..rebuilt.loop_values import BranchCall, Values, telling
from ..row_kernels import kernel_trial
from ..row_kernels.rows import has_triton
from . import built_kernels
from .transform_checks import class_name

if TYPE_CHECKING:
    import torch

    from ...families.base import DenoiserInput
else:
    torch = lazy("torch")

CLIP = 832, 480, 9
"""Width, height and frames of the clip. The kernels of a transformer do not depend on them."""

WIDTHS = 256, 1280
"""Other widths of clips that a VAE decodes. A kernel of HunyuanVideo's decoder depends on the width of the latents,
rounded up to a power of two. 256 is the width of a tile."""

SETTINGS = ("quantize", "optimize")
"""Kinds of transforms that a twin takes from the model."""


_prepared: set[tuple[Any, ...]] = set()
"""The components whose kernels this process has built, with their transforms and devices."""


def prepare(model: Model, part: str, run: Run, work: Callable[[Model, Any], None]) -> None:
    """Build the kernels of a component. Nothing happens without a GPU, without Triton, or in a plan.

    Args:
        model: The model; the component need not be in memory.
        part: The role of the component.
        run: The run that will use it.
        work: Does the component's work with a twin of the model and the twin's component.
    """
    if run.planning or not run.device.startswith("cuda") or not has_triton() or run.ending():
        return
    device, name = torch.device(run.device), model.name(part)
    kept = tuple(each for each in model.recipe(part) if each.kind in SETTINGS)
    choices = tuple(each for each in model.recipe(part) if each.kind in (*SETTINGS, "attention"))
    key = model.weights.repository.source, name, model.dtype(part), choices, device
    if key in _prepared:
        return
    note = built_kernels.note_of(class_name(model, name), model.config(part), str(model.dtype(part)), choices, device)
    if note is not None and note.exists():
        _prepared.add(key)
        return
    # Imports take a while, so they come before `shared`: a thread that needs `exclusive` waits for its end.
    import triton  # noqa: F401

    model.weights.class_of(name, Run())
    with shared(), kernel_launch.gathering(device) as launches:
        planned = Run()
        planned.device, planned.planning = "meta", True
        twin = _twin(model, part, kept)
        with cost_meter.runtime(planned):
            twin.acquire(part, planned)
            with suppress(Exception):  # the launches before an error still name their kernels
                work(twin, twin.component(part))
    kernel_launch.build(launches, device, run.ending)
    if not run.ending():
        _prepared.add(key)
        if note is not None:
            built_kernels.write(note)


def _twin(model: Model, part: str, transforms: tuple[Transform, ...]) -> Model:
    """The model on the meta device, with one block in each list of blocks of a component."""
    name = model.name(part)
    weights = replace(model.weights, device="meta", kind="meta", offload="off")
    depth = {key: 1 for key in model.family.blocks.lists.values() if key in model.config(part)}
    weights.reconfigure(name, {**model.config(part), **depth})
    return replace(model, weights=weights, transforms=transforms)


def denoised(attention: Collection[str], width: int) -> Callable[[Model, Any], None]:
    """The work of a transformer: a step of two branches of guidance, one after the other, and in one batch.

    Args:
        attention: The attention backends that may be used.
        width: Width of the rows.
    """

    def work(model: Model, transformer: Any) -> None:
        kernel_trial.gathered(transformer.dtype, width)
        given, both = (_input(model, transformer.config, rows) for rows in (1, 2))
        if given is None or both is None:
            return
        shares = Values(uses=2)  # the second branch takes the values of the first, and needs another kernel
        for _ in range(2):
            with telling(transformer, BranchCall(1, step=shares)):
                model.family.predict(model, transformer, given)
        with telling(transformer, BranchCall(2, branches=2)):
            model.family.predict(model, transformer, both)
        if FLASH_3_FP8.library in attention:
            for processor in processors.processors(transformer):
                processor._attention_backend = kernels.name(FLASH_3_FP8.library)
            model.family.predict(model, transformer, given)

    return work


def decoded(model: Model, vae: Any) -> None:
    """The work of a VAE: a clip of a few frames."""
    from ..decoders import decoder_trial

    decoder_trial.gathered(vae)
    for clip in (CLIP, *((width, CLIP[1], 1) for width in WIDTHS)):
        size, latents = _latents(model, clip)
        model.family.decode(model, model.family.unpack(latents, size, _configs(model)))


def _configs(model: Model) -> dict[str, Mapping[str, Any]]:
    return {part: model.config(part) for part in ("vae", "transformer")}


def _latents(model: Model, clip: tuple[int, int, int], rows: int = 1) -> tuple[Size, torch.Tensor]:
    """A size, and latents of clips in the layout of the loop."""
    configs = _configs(model)
    size = model.family.size(*clip, configs)
    shape = model.family.latent_shape(size, rows, configs)
    return size, model.family.pack(torch.empty(shape, dtype=torch.float32, device="meta"))


def _input(model: Model, config: Mapping[str, Any], rows: int) -> DenoiserInput | None:
    """The input of a transformer; None if the family does not know its prompts."""
    from ...families.base import DenoiserInput

    prompts = model.family.prompts_on_meta(config, rows)
    if prompts is None:
        return None
    size, latents = _latents(model, CLIP, rows)
    step = Step(0, 1, 1.0, 1000.0, torch.empty((), dtype=torch.float32, device="meta"))
    image = model.family.image_on_meta(config, latents)
    embedded = 3.5 if config.get("guidance_embeds") else None
    return DenoiserInput(latents, size, step, prompts, image, embedded)
