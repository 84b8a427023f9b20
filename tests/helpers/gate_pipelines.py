"""diffusers' pipelines of five families, with enough blocks for a cache gate.

They are the pipelines of the tiny models beside this file, with random weights and more blocks. Every oracle runs them
through `sample`, so two results differ by the cache alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from helpers import tiny

STEPS = 16
PROMPT = "a red circle moves left"
NEGATIVE = "dark"
BRANCHES = {"cond": "positive", "uncond": "negative"}  # diffusers' names of the calls, and ours


class Decisions(NamedTuple):
    """The decisions of a cache in one guidance branch, one for each step.

    Attributes:
        computed: Whether the step computed all blocks.
        distances: The number that the step compared with the threshold; None without a comparison.
    """

    computed: tuple[bool, ...]
    distances: tuple[float | None, ...]

    @property
    def cached(self) -> tuple[int, ...]:
        """The steps that reused blocks."""
        return tuple(step for step, computed in enumerate(self.computed) if not computed)


class Outcome(NamedTuple):
    """Latents after every step, in the pipeline's layout, and the decisions of each branch."""

    latents: list[torch.Tensor]
    decisions: dict[str, Decisions]


@dataclass(frozen=True)
class Family:
    """The construction and the call of a family's tiny pipeline.

    Attributes:
        build: Builds the pipeline from the number of blocks in each list.
        lists: Names of the transformer's lists of blocks.
        call: Arguments of the pipeline that are equal for every run.
        scale: The pipeline's argument for the scale of classifier-free guidance, and a scale without guidance.
        together: Whether the pipeline evaluates both branches in one call.
        mixed: A threshold for each method, found by trial. With it, every branch and list reuses some of `STEPS` steps
            and computes others. It holds with guidance, six blocks in each list, and the defaults of
            `oracle_cache_dit.config`, TeaCache (P(x) = x) or EasyCache. No compared number is within 0.5% of it.
    """

    build: Callable[..., Any]
    lists: tuple[str, ...]
    scale: tuple[str, float]
    call: dict[str, Any] = field(default_factory=dict)
    together: bool = False
    mixed: dict[str, float] = field(default_factory=dict)


def deeper(transformer: Any, **config: Any) -> Any:
    """A transformer with random weights and the configuration of `transformer`, changed by `config`."""
    torch.manual_seed(0)
    made = type(transformer).from_config({**transformer.config, **config}).eval()
    with torch.no_grad():
        for name in ("x_pad_token", "cap_pad_token"):  # Z-Image's class leaves them at zero
            if hasattr(made, name):
                getattr(made, name).normal_()
    return made


def _wan(layers: int, **options: Any) -> Any:
    return tiny.wan(layers=layers, **options)


def _hunyuan_video(layers: int) -> Any:
    from helpers import tiny_hunyuan_video

    return tiny_hunyuan_video.hunyuan_video(num_layers=layers, num_single_layers=layers)


def _flux(layers: int) -> Any:
    from helpers import tiny_flux

    made = tiny_flux.build()
    made.transformer = deeper(made.transformer, num_layers=layers, num_single_layers=layers)
    return made


def _qwen_image(layers: int) -> Any:
    from helpers import tiny_qwen_image

    made = tiny_qwen_image.build(shift=3.0)
    made.transformer = deeper(made.transformer, num_layers=layers)
    return made


def _z_image(layers: int) -> Any:
    from helpers import tiny_z_image

    made = tiny_z_image.build()
    made.transformer = deeper(made.transformer, n_layers=layers)
    return made


FAMILIES = {
    "wan": Family(
        _wan,
        ("blocks",),
        ("guidance_scale", 1.0),
        {"num_frames": 9, "max_sequence_length": 16},
        mixed={"dbcache": 0.08, "time": 2.0, "time_projection": 0.55, "easycache": 0.5},
    ),
    "hunyuan-video": Family(
        _hunyuan_video,
        ("transformer_blocks", "single_transformer_blocks"),
        ("true_cfg_scale", 1.0),
        {"num_frames": 9, "max_sequence_length": 64, "guidance_scale": 6.0},
        mixed={"dbcache": 0.35, "auto": 0.12, "easycache": 0.25},
    ),
    "flux": Family(
        _flux,
        ("transformer_blocks", "single_transformer_blocks"),
        ("true_cfg_scale", 1.0),
        {"max_sequence_length": 64, "guidance_scale": 3.5},
        mixed={"dbcache": 0.315, "auto": 0.15, "easycache": 0.22},
    ),
    "qwen-image": Family(
        _qwen_image,
        ("transformer_blocks",),
        ("true_cfg_scale", 1.0),
        {"max_sequence_length": 178},
        mixed={"dbcache": 0.38, "easycache": 0.2},
    ),
    "z-image": Family(
        _z_image,
        ("layers",),
        ("guidance_scale", 0.0),
        {"max_sequence_length": 64},
        together=True,
        mixed={"dbcache": 0.6, "easycache": 1.0},
    ),
}
PIPELINES = {
    "WanPipeline": "wan",
    "HunyuanVideoPipeline": "hunyuan-video",
    "FluxPipeline": "flux",
    "QwenImagePipeline": "qwen-image",
    "ZImagePipeline": "z-image",
}


def build(family: str, layers: int = 6, **options: Any) -> Any:
    """A tiny pipeline of a family, with `layers` blocks in each of its lists.

    Wan takes the options of `tiny.wan`: `experts=2, boundary_ratio=0.9` for the layout of Wan 2.2 A14B.
    """
    made = FAMILIES[family].build(layers, **options)
    made.set_progress_bar_config(disable=True)
    return made


def family_of(pipeline: Any) -> Family:
    return FAMILIES[PIPELINES[type(pipeline).__name__]]


def branches(pipeline: Any, scale: float | None = 5.0) -> tuple[str, ...]:
    """The branches of the transformer's calls at every step, in order."""
    family = family_of(pipeline)
    if not _guides(family, scale):
        return ("positive",)
    return ("both",) if family.together else ("positive", "negative")


def sample(
    pipeline: Any,
    *,
    steps: int = STEPS,
    scale: float | None = 5.0,
    seed: int = 0,
    prompt: str = PROMPT,
    negative: str = NEGATIVE,
    width: int = 32,
    height: int = 32,
    unguided_from: int | None = None,
    **options: Any,
) -> list[torch.Tensor]:
    """Run the pipeline without decoding, and return the latents after every step.

    A scale of None, or a neutral scale, switches guidance off. From step `unguided_from` on, the negative branch does
    not run; this works with WanPipeline only, which reads the scale at every step.
    """
    family = family_of(pipeline)
    name, neutral = family.scale
    states: list[torch.Tensor] = []

    def keep(_: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        states.append(values["latents"].clone())
        if unguided_from is not None and index + 1 == unguided_from:
            pipeline._guidance_scale = neutral
        return {}

    with torch.no_grad():
        pipeline(
            prompt=[prompt],
            negative_prompt=[negative],
            width=width,
            height=height,
            num_inference_steps=steps,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="latent",
            callback_on_step_end=keep,
            **{name: neutral if scale is None else scale},
            **(family.call | options),
        )
    return states


@contextmanager
def named(pipeline: Any, scale: float | None = 5.0) -> Iterator[Callable[[], str]]:
    """Yield a function that returns the branch of the transformer's current call.

    The pipelines name each call (`transformer.cache_context`), except Z-Image, which makes one call per step.
    """
    transformer, current = pipeline.transformer, [branches(pipeline, scale)[0]]
    if not hasattr(transformer, "cache_context"):
        yield lambda: current[0]
        return
    original = transformer.cache_context

    @contextmanager
    def cache_context(name: str, **options: Any) -> Iterator[None]:
        current[0] = BRANCHES[name]
        with original(name, **options):
            yield

    transformer.cache_context = cache_context
    try:
        yield lambda: current[0]
    finally:
        del transformer.cache_context


@contextmanager
def untouched(pipeline: Any) -> Iterator[None]:
    """Restore the pipeline and its transformers at the end: attributes, modules and their order.

    Libraries leave changes: cache-dit a `forward` and another order of children, diffusers' hooks a `forward`.
    """
    names = ("transformer", "transformer_2")
    parts = [part for name in names if (part := getattr(pipeline, name, None)) is not None]
    things = [pipeline, *(module for part in parts for module in part.modules())]
    before = [(thing, state(thing)) for thing in things]
    try:
        yield
    finally:
        for thing, (attributes, children) in before:
            vars(thing).clear()
            vars(thing).update(attributes)
            if children is not None:
                thing._modules.clear()
                thing._modules.update(children)


def state(thing: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Attributes of a pipeline or a module, and a module's children in their order."""
    attributes = dict(vars(thing))
    return attributes, dict(attributes["_modules"]) if "_modules" in attributes else None


def _guides(family: Family, scale: float | None) -> bool:
    return scale is not None and scale > family.scale[1]
