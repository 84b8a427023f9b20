"""`denoiser.predict`: one evaluation of the transformer, for each guidance branch that runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import NodeFacts, require
from ..graph.contract.node import Reads, Run, node
from ..graph.contract.processes import Mesh
from .batched_guidance import batched
from .cache.calibration.table import are_put_aside
from .cache.first_turn import COMPILED_WHOLE
from .cache.gate import Gate, GateFacts
from .cache.gate_place import Place
from .cache.gate_tables import table_problem
from .cache.loop_turn import Turn
from .cache.resolved_gate import resolve
from .cache.state import GateState
from .cache.table_use import of_facts
from .cache.tuning.linear_guidance import is_tuning, known_problems
from .cache.tuning.tuned_table import KIND
from .families.base import DenoiserInput, Family
from .models.model import Model
from .models.ranks.branch_exchange import exchanged, own_branches
from .models.ranks.supported import mesh_problems
from .models.rebuilt.forward_launch import launched
from .models.rebuilt.loop_values import BranchCall, LoopSteps, LoopValues, Values, is_rebuilt, telling
from .parallel import sequences
from .size_limits import require_size, size_problems
from .support.block_ranges import block_ranges
from .support.lazy import lazy
from .value_facts import BranchesFacts, ImageConditionFacts, LatentsFacts, ModelFacts, ScheduleFacts
from .values import Branches, Conditioning, ImageCondition, Latents, Predictions, Step

if TYPE_CHECKING:
    import torch

else:
    torch = lazy("torch")

Tensors = Mapping[str, "torch.Tensor"]
NEEDS_IMAGE = Diagnostic(
    "missing-parameter",
    "this model makes clips from an image",
    "image",
    help="wire the output of image.encode: `image: $first`",
)


@dataclass(frozen=True, kw_only=True)
class DenoiserPredictFacts(NodeFacts):
    """Facts of `denoiser.predict`."""

    model: ModelFacts = ModelFacts()
    latents: LatentsFacts = LatentsFacts()
    step: ScheduleFacts = ScheduleFacts()
    branches: BranchesFacts = BranchesFacts()
    image: ImageConditionFacts | None = ImageConditionFacts()
    gate: GateFacts | None = GateFacts()


def _check(facts: DenoiserPredictFacts) -> Iterator[Diagnostic]:
    model, image, clip = facts.model, facts.image, facts.latents.size
    made = {"latents": facts.latents.family, "branches": facts.branches.family}
    for name, family in {**made, "image": image.family if image is not None else None}.items():
        if model.family and family and family != model.family:
            message = f"{name} made for {family} cannot be used with a model of {model.family}"
            yield Diagnostic("unsupported", message, name)
    known_family = model.known_family
    if known_family is not None and image is None and known_family.needs_image(model.configs):
        yield NEEDS_IMAGE
    if image is not None and image.size is not None and clip is not None and image.size != clip:
        message = f"the image was encoded for a clip of {image.size}, but this clip is {clip}"
        help = "give image.encode and latents.noise the same width, height and frames"
        yield Diagnostic("bad-value", message, "image", help=help)
    if known_family is not None and clip is not None:
        yield from size_problems(known_family, clip, model.configs, "latents")
    prompts, batch = facts.branches.prompts, facts.latents.batch
    if prompts and batch and batch % prompts:
        yield _uneven(prompts, batch, "prompt")
    yield from _check_gate(facts)


def _check_gate(facts: DenoiserPredictFacts) -> Iterator[Diagnostic]:
    """Problems of the gate with this model and number of steps, as far as both are known."""
    model, gates = facts.model, facts.gate.gates if facts.gate is not None else ()
    family, size = model.known_family, facts.latents.size
    if is_tuning():
        yield from known_problems(model, facts.step, facts.branches)
    if family is None or facts.gate is None or not gates or are_put_aside():
        return
    named = model.repository_name("transformer")
    place = Place(
        family,
        model.configs,
        model.source,
        # Two models or gates divide the steps by noise level; their numbers of steps are known in the run only.
        None if model.chosen or facts.gate.chosen else facts.step.steps,
        named,
        (size.width, size.height) if size is not None else None,
        facts.image is not None,
        group=model.groups.get(named) or 1,
    )
    if any(gate.table for gate in gates):
        place = replace(place, use=of_facts(model, facts.step))
    for gate in gates:
        if table_problem(gate.kind, gate.table) is not None:
            continue  # the gate's own node reports it
        if gate.kind == KIND and (problems := list(known_problems(model, facts.step, facts.branches))):
            yield from problems
            continue
        try:
            resolve(gate, place)
        except NodeError as found:
            yield replace(found.diagnostic, place="gate")
    if model.compiled_whole and any(gate.active for gate in gates):
        yield COMPILED_WHOLE


def _check_mesh(facts: DenoiserPredictFacts, mesh: Mesh) -> Iterator[Diagnostic]:
    gates = facts.gate.gates if facts.gate is not None else ()
    library = any(gate.kind == "library" for gate in gates)
    branches, whole = facts.branches, bool(facts.model.compiled_whole)
    yield from mesh_problems(mesh, branches.running, branches.batched, whole, library)
    model = facts.model
    yield from sequences.problems(mesh, model.configs.get(model.repository_name("transformer"), {}))


@node("denoiser.predict", check=_check, check_mesh=_check_mesh, processes="split", version=2)
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

    Rebuilt blocks (`model.optimize`) compute some values once in a loop: those that depend on the prompts alone, such
    as keys and values of text, and those of all timesteps. They compute once a step the values that branches share.

    Args:
        model: A loaded model; its transformer is used.
        latents: Latents at the noise level of the step.
        step: The step.
        branches: The guidance branches: their conditioning, and the steps at which each runs.
        image: The condition on a first frame, for models that take one.
        gate: Reuses blocks of earlier steps; without a gate, every step computes all blocks.

    Returns:
        A prediction per branch, in the layout of the latents and the dtype of the transformer.

    Raises:
        NodeError: If the values belong to different families, the number of clips is not a multiple of the number
            of prompts, or the gate cannot work with this model or schedule.
    """
    conditioning = branches.conditioning
    _require_fit(model, latents, conditioning, image)
    batch, running = latents.tensor.shape[0], branches.active(step)
    texts = {name: _text(getattr(conditioning, name), name, batch) for name in running}  # B rows each
    pictures = None if image is None else {name: repeat_rows(t, batch, "image") for name, t in image.tensors.items()}
    given = DenoiserInput(latents.tensor, latents.size, step, texts[running[0]], pictures, branches.embedded)
    transformer = model.component("transformer")
    divided = run.processes.mesh.branches > 1
    rebuilt = is_rebuilt(transformer)
    together, why = batched(branches, model.family, gate, rebuilt=rebuilt, rows=batch, divided=divided)
    branches = replace(branches, batched=together)
    together = together and len(running) > 1
    own = own_branches(run, running)
    if len(running) > 1:
        way = "batched" if together else "each branch in its process" if divided else "one branch after the other"
        run.detail(guidance=way + (f": {why}" if why else ""))
    sequence = sequences.of(run, transformer)
    turn = Turn(model, transformer, step, branches, latents.size, image is not None, run, sequence)
    cut = transformer if sequence is None else sequences.cut(transformer, model.family, sequence)
    opened = state.at_work(gate, turn)

    sources = (conditioning.positive, conditioning.negative, image, step.schedule)
    keeps = rebuilt and model.offload("transformer") is None  # offloading saves memory, which kept values take
    times = _steps(model.family, step, latents.tensor, state.values, transformer, run) if keeps else None
    shared = Values(uses=len(own)) if len(own) > 1 and not together else None

    def call(transformer: Any, given: DenoiserInput) -> torch.Tensor:
        return model.family.predict(model, cut if transformer is turn.transformer else transformer, given)

    def evaluate(names: Sequence[str], given: DenoiserInput) -> torch.Tensor:
        rows = len(given.latents)
        shape = rows, latents.size, branches.embedded, latents.tensor.dtype
        prompt = state.values.of(transformer, names, sources, shape) if keeps else None
        with (
            run.range("branch", "+".join(names)),
            block_ranges(run, transformer, model.family.blocks.lists),
            telling(transformer, BranchCall(rows, len(names), prompt, shared, times)),
        ):
            if opened is None:
                once = launched(cut, transformer, prompt, run, lambda: turn.steps_left(names))
                return model.family.predict(model, once, given)
            made = opened.engine.evaluate(names, opened.index, given, call)
        opened.report(names)
        return made

    if together:
        both = _joined(model.family, given, list(texts.values()))  # [2 B, ...]
        made = evaluate(running, both).chunk(len(running))  # [B, ...] for each branch
    else:
        made = tuple(evaluate((name,), replace(given, text=texts[name])) for name in own)
    made = exchanged(run, running, made)
    return Predictions(dict(zip(running, made, strict=True)), step)


def _require_fit(model: Model, latents: Latents, conditioning: Conditioning, image: ImageCondition | None) -> None:
    """Raise a NodeError if the values belong to different families, or to clips of different sizes."""
    facts = DenoiserPredictFacts(
        model=ModelFacts(model.family.name),
        latents=LatentsFacts(latents.family, latents.size),
        branches=BranchesFacts(conditioning.family),
        image=ImageConditionFacts(image.family, image.size) if image is not None else None,
        gate=None,
    )
    require(_check, facts)
    require_size(model.family, latents.size, {part: model.config(part) for part in ("vae", "transformer")})


def _steps(
    family: Family, step: Step, latents: torch.Tensor, values: LoopValues, transformer: Any, run: Run
) -> LoopSteps | None:
    """The steps of the schedule, for values that the transformer computes for all of them at once.

    None for a step that does not belong to its schedule.
    """
    schedule = step.schedule
    if schedule[step.index : step.index + 1] != (step.timestep,):
        return None

    def timesteps() -> torch.Tensor:
        return family.timesteps(torch.tensor(schedule, device=latents.device, dtype=step.value.dtype), latents.dtype)

    def left_out(reason: str) -> None:
        run.detail(modulation=f"at each step: {reason}")

    alone = values.of(transformer, (), (schedule,), latents.dtype)
    return LoopSteps(step.index, len(schedule), timesteps, alone, left_out)


def _joined(family: Family, given: DenoiserInput, texts: Sequence[Tensors]) -> DenoiserInput:
    """The input of all branches in one batch, one branch after the other."""
    image, count = given.image, len(texts)
    return replace(
        given,
        latents=torch.cat([given.latents] * count),
        text=family.join(texts),
        image=None if image is None else {name: torch.cat([tensor] * count) for name, tensor in image.items()},
    )


def _text(tensors: Tensors | None, branch: str, batch: int) -> Tensors:
    if tensors is None:
        raise NodeError(f"the {branch} prompt was not encoded", help="encode it with `text.encode`")
    return {key: repeat_rows(tensor, batch, "prompt") for key, tensor in tensors.items()}


def repeat_rows(tensor: torch.Tensor, batch: int, noun: str) -> torch.Tensor:
    """Repeat each row until there is one for each clip, in the order of diffusers' `num_videos_per_prompt`.

    Args:
        tensor: One row for each prompt or image.
        batch: Number of clips.
        noun: `prompt` or `image`, for the error.

    Raises:
        NodeError: If the number of clips is not a multiple of the number of rows.
    """
    rows = tensor.shape[0]
    if rows == batch:
        return tensor
    if batch % rows:
        raise NodeError(_uneven(rows, batch, noun))
    return tensor.repeat_interleave(batch // rows, dim=0)


def _uneven(rows: int, batch: int, noun: str) -> Diagnostic:
    message = f"{rows} {noun}{'s' * (rows != 1)} cannot be divided evenly among {batch} clip{'s' * (batch != 1)}"
    place = "branches" if noun == "prompt" else noun
    return Diagnostic("bad-value", message, place, help=f"give latents.noise `batch: {rows}`")
