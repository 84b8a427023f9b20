"""`denoiser.predict`: one evaluation of the transformer, for each guidance branch that runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from ..graph.contract.node import NodeError, Problem, Reads, Run, node
from .cache.calibration.table import are_put_aside, problem
from .cache.gate import Gate
from .cache.place import GateProblem, Place
from .cache.resolved_gate import resolve
from .cache.state import GateState
from .cache.table_use import of_descriptions
from .families import by_name
from .models.model import Model
from .models.transforms.transform_checks import compiled_whole, repository_name
from .support.lazy import lazy
from .values import Branches, ImageCondition, Latents, Predictions, Size, Step

if TYPE_CHECKING:
    import torch

    from .cache.calibration.measure import Metered
    from .cache.state import Opened
else:
    torch = lazy("torch")

Tensors = Mapping[str, "torch.Tensor"]
NEEDS_IMAGE, IMAGE_HELP = "this model makes clips from an image", "give it one: `image: $first`, from image.encode"
SIZE_HELP = "give image.encode and latents.noise the same width, height and frames"


def _check(**known: Any) -> Iterator[Problem]:
    wanted = known.get("model", {}).get("family")
    for name in ("latents", "branches", "image"):
        family = (known.get(name) or {}).get("family")
        if wanted and family and family != wanted:
            yield Problem("unsupported", name, f"{name} made for {family} cannot be used with a model of {wanted}")
    family, configs = by_name(wanted), known.get("model", {}).get("configs", {})
    if family is not None and known.get("image", "wired") is None and family.needs_image(configs):
        yield Problem("missing-parameter", "image", NEEDS_IMAGE, IMAGE_HELP)
    made, clip = ((known.get(name) or {}).get("size") for name in ("image", "latents"))
    if made and clip and list(made) != list(clip):
        yield Problem("bad-value", "image", _other_size(Size(*made), Size(*clip)), SIZE_HELP)
    prompts, batch = known.get("branches", {}).get("prompts"), known.get("latents", {}).get("batch")
    if prompts and batch and batch % prompts:
        yield Problem("bad-value", "branches", _uneven(prompts, batch), f"give latents.noise `batch: {prompts}`")
    yield from _check_gate(known)


def _check_gate(known: Mapping[str, Any]) -> Iterator[Problem]:
    """Whether the gate can work with this model and number of steps, as far as they are known."""
    described, model = known.get("gate") or {}, known.get("model") or {}
    gates: list[Gate] = described.get("gates") or ([described["gate"]] if "gate" in described else [])
    family = by_name(model.get("family"))
    if family is None or not gates or are_put_aside():
        return
    # How many steps each of two chosen models or gates gets is known when the schedule is.
    steps = None if model.get("chosen") or described.get("chosen") else known.get("step", {}).get("steps")
    size, named = known.get("latents", {}).get("size"), repository_name(model, "transformer")
    given = known.get("image", "wired") is not None
    place = Place(
        family,
        model.get("configs", {}),
        model.get("source"),
        steps,
        named,
        tuple(size[:2]) if size else None,
        given,
        group=model.get("groups", {}).get(named) or 1,
    )
    if any(gate.table for gate in gates):
        place = replace(place, use=of_descriptions(known))
    for gate in gates:
        if problem(gate.table) is not None:
            continue  # the gate says so itself
        try:
            resolve(gate, place)
        except GateProblem as found:
            yield Problem(found.code, "gate", str(found), found.help)
    if compiled_whole(model) and any(gate.active for gate in gates):
        message = "a gate cannot reach the blocks of a transformer that is compiled whole"
        yield Problem("unsupported", "gate", message, "set `region: blocks` of model.compile")


@node("denoiser.predict", check=_check, version=2)
def predict(
    model: Annotated[Model, Reads("transformer")],
    latents: Latents,
    step: Step,
    branches: Branches,
    state: GateState,
    run: Run,
    *,
    image: ImageCondition | None = None,
    gate: Gate | None = None,
) -> Predictions:
    """Evaluate the transformer at one step, for each guidance branch that runs there.

    Args:
        model: A loaded model; its transformer is used.
        latents: Latents at the noise level of the step.
        step: The step.
        branches: What the branches are conditioned on, and which of them run.
        image: What the model needs of a first frame, where it takes one.
        gate: Whether blocks may be reused from earlier steps; without one, everything is computed.

    Returns:
        A prediction per branch, in the layout of the latents and the dtype of the transformer.

    Raises:
        NodeError: If the values are made for different families, or the latents' batch is no multiple of the
            number of prompts, or the gate cannot work with this model or schedule.
    """
    conditioning = branches.conditioning
    families = {"latents": latents.family, "branches": conditioning.family}
    if image is not None:
        families["image"] = image.family
    for name, family in families.items():
        if family != model.family.name:
            raise NodeError(f"{name} made for {family} cannot be used with a model of {model.family.name}")
    if image is not None and image.size not in (None, latents.size):
        raise NodeError(_other_size(image.size, latents.size), help=SIZE_HELP)
    batch = latents.tensor.shape[0]
    texts = {name: _text(getattr(conditioning, name), name, batch) for name in branches.active(step)}
    pictures = None if image is None else {name: spread(t, batch, "image") for name, t in image.tensors.items()}
    transformer = model.component("transformer")
    opened: Opened | Metered | None = None
    if run.options.get("calibrate") and not run.planning:
        opened = state.measure(model, transformer, step, latents.size, run)
    elif gate is not None and gate.active:
        opened = state.open(gate, model, transformer, step, branches, latents.size, image is not None, run)

    def evaluate(names: Sequence[str], noisy: torch.Tensor, text: Tensors, picture: Tensors | None) -> torch.Tensor:
        def call(gated: Any) -> torch.Tensor:
            return model.family.predict(model, gated, noisy, latents.size, step, text, picture, branches.embedded)

        return call(transformer) if opened is None else opened.evaluate(names, noisy, call)

    if branches.batched and len(texts) > 1:
        noisy = torch.cat([latents.tensor] * len(texts))
        joined = model.family.join(list(texts.values()))
        doubled = None if pictures is None else {key: torch.cat([t] * len(texts)) for key, t in pictures.items()}
        parts = evaluate(tuple(texts), noisy, joined, doubled).chunk(len(texts))
        return Predictions(dict(zip(texts, parts, strict=True)), step)
    made = {name: evaluate((name,), latents.tensor, text, pictures) for name, text in texts.items()}
    return Predictions(made, step)


def _text(tensors: Tensors | None, branch: str, batch: int) -> Tensors:
    if tensors is None:
        raise NodeError(f"the {branch} prompt was not encoded", help="encode it with `text.encode`")
    return {key: spread(tensor, batch, "prompt") for key, tensor in tensors.items()}


def spread(tensor: torch.Tensor, batch: int, what: str) -> torch.Tensor:
    """Repeat each row for the clips made of it, in the order of diffusers' `num_videos_per_prompt`."""
    rows = tensor.shape[0]
    if rows == batch:
        return tensor
    if batch % rows:
        raise NodeError(_uneven(rows, batch, what), help=f"give latents.noise `batch: {rows}`")
    return tensor.repeat_interleave(batch // rows, dim=0)


def _other_size(image: Size | None, latents: Size) -> str:
    return f"the image was encoded for a clip of {image}, and this one is of {latents}"


def _uneven(rows: int, batch: int, what: str = "prompt") -> str:
    return f"{rows} {what}{'s' * (rows != 1)} cannot be shared out evenly to {batch} clip{'s' * (batch != 1)}"
