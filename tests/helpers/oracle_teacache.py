"""TeaCache on diffusers' pipelines, written directly from its formula (2411.19108).

Each branch computes rel = mean|m_t - m_(t-1)| / mean|m_(t-1)| of a signal m, where m_(t-1) belongs to the step before,
computed or not; then acc += P(rel). While acc < threshold, the last residual replaces the whole stack of blocks.
Otherwise the stack is computed and acc = 0. The `first` and `last` steps are computed and set acc to 0 too.

The signal m for Wan is the time embedding, or its six-fold projection (retention steps in the authors' code). For
HunyuanVideo and FLUX it is the image tokens after the modulation by the first block's norm1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from helpers.gate_pipelines import PIPELINES, STEPS, Decisions, Outcome, named, sample, untouched

IDENTITY = (1.0, 0.0)  # the polynomial P(x) = x


class Branch:
    """The state of one guidance branch."""

    def __init__(self) -> None:
        self.step = 0
        self.accumulated = 0.0
        self.signal: torch.Tensor | None = None
        self.residual: torch.Tensor | None = None
        self.computed: list[bool] = []
        self.relative: list[float | None] = []
        self.distances: list[float | None] = []


class Rule:
    """TeaCache's decision, with the state of every branch by its name."""

    def __init__(self, coefficients: Sequence[float], threshold: float, steps: int, first: int, last: int) -> None:
        self.coefficients, self.threshold = tuple(coefficients), threshold
        self.forced = {*range(first), *range(steps - last, steps)}
        self.branches: dict[str, Branch] = {}

    def computes(self, name: str, signal: torch.Tensor) -> bool:
        branch = self.branches.setdefault(name, Branch())
        relative = None
        if branch.signal is not None:
            change = (signal - branch.signal).abs().mean() / branch.signal.abs().mean()
            relative = change.item()
        branch.signal = signal.clone()
        branch.relative.append(relative)
        if branch.step in self.forced or relative is None:
            branch.distances.append(None)
            computes = True
        else:
            branch.accumulated += sum(c * relative**power for power, c in enumerate(reversed(self.coefficients)))
            branch.distances.append(branch.accumulated)
            computes = not branch.accumulated < self.threshold
        if computes:
            branch.accumulated = 0.0
        branch.computed.append(computes)
        branch.step += 1
        return computes


def run(
    pipeline: Any,
    coefficients: Sequence[float] = IDENTITY,
    threshold: float = 0.1,
    *,
    signal: str = "auto",
    first: int = 1,
    last: int = 1,
    steps: int = STEPS,
    scale: float | None = 5.0,
    **options: Any,
) -> Outcome:
    """Sample with TeaCache.

    Args:
        pipeline: A pipeline of Wan, HunyuanVideo or FLUX.
        coefficients: Coefficients of P, highest order first.
        threshold: Threshold of the accumulated P(rel).
        signal: For Wan `time` (also `auto`) or `time_projection`.
        first: Steps computed at the start. The authors use 1, and 5 for Wan's projection.
        last: Steps computed at the end. The authors use 1, and 0 for Wan's projection.
        steps: Number of steps.
        scale: Guidance scale; None switches guidance off.
        options: Further arguments of `gate_pipelines.sample`.

    Returns:
        Latents and decisions; a decision's distance is the accumulated value that the step compared.
    """
    assert getattr(pipeline, "transformer_2", None) is None, "one transformer only"
    rule = Rule(coefficients, threshold, steps, first, last)
    with named(pipeline, scale) as branch, replaced(pipeline, rule, branch, signal):
        latents = sample(pipeline, steps=steps, scale=scale, **options)
    return Outcome(
        latents, {name: Decisions(tuple(b.computed), tuple(b.distances)) for name, b in rule.branches.items()}
    )


def changes(pipeline: Any, *, signal: str = "auto", **options: Any) -> dict[str, list[float | None]]:
    """The relative change of the signal at every step of each branch, in a run that computes every step."""
    rule = Rule(IDENTITY, 0.0, options.get("steps", STEPS), 1, 1)
    with named(pipeline, options.get("scale", 5.0)) as branch, replaced(pipeline, rule, branch, signal):
        sample(pipeline, **options)
    return {name: b.relative for name, b in rule.branches.items()}


@contextmanager
def replaced(pipeline: Any, rule: Rule, branch: Callable[[], str], signal: str) -> Iterator[None]:
    """Put the rule in front of the blocks of the pipeline's transformer."""
    patch = {"wan": _wan, "hunyuan-video": _hunyuan_video, "flux": _flux}[PIPELINES[type(pipeline).__name__]]

    def decide(value: torch.Tensor) -> tuple[bool, Branch]:
        computes = rule.computes(branch(), value)
        return computes, rule.branches[branch()]

    with untouched(pipeline):
        patch(pipeline.transformer, decide, signal)
        yield


class One(torch.nn.Module):
    """A module in place of a block, which calls a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*arguments, **options)


Decide = Callable[[torch.Tensor], tuple[bool, Branch]]


def _wan(transformer: Any, decide: Decide, signal: str) -> None:
    embedding: list[Any] = []
    blocks, embed = list(transformer.blocks), transformer.condition_embedder

    def embedder(*arguments: Any, **options: Any) -> Any:
        made = embed(*arguments, **options)
        embedding[:] = made[:1]
        return made

    transformer.condition_embedder = One(embedder)

    def stack(hidden: Any, text: Any, projection: Any, rotary: Any) -> Any:
        computes, branch = decide(projection if signal == "time_projection" else embedding[0])
        if not computes:
            return hidden + branch.residual
        start = hidden
        for block in blocks:
            hidden = block(hidden, text, projection, rotary)
        branch.residual = hidden - start
        return hidden

    transformer.blocks = torch.nn.ModuleList([One(stack)])


def _hunyuan_video(transformer: Any, decide: Decide, signal: str) -> None:
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]

    def stack(hidden: Any, text: Any, time: Any, *rest: Any) -> Any:
        computes, branch = decide(blocks[0].norm1(hidden, emb=time)[0])
        if not computes:
            return hidden + branch.residual, text
        start = hidden
        for block in blocks:
            hidden, text = block(hidden, text, time, *rest)
        branch.residual = hidden - start
        return hidden, text

    transformer.transformer_blocks = torch.nn.ModuleList([One(stack)])
    transformer.single_transformer_blocks = torch.nn.ModuleList()


def _flux(transformer: Any, decide: Decide, signal: str) -> None:
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]

    def stack(hidden_states: Any, encoder_hidden_states: Any, temb: Any, **rest: Any) -> Any:
        computes, branch = decide(blocks[0].norm1(hidden_states, emb=temb)[0])
        if not computes:
            return encoder_hidden_states, hidden_states + branch.residual
        image, text = hidden_states, encoder_hidden_states
        for block in blocks:
            text, image = block(hidden_states=image, encoder_hidden_states=text, temb=temb, **rest)
        branch.residual = image - hidden_states
        return text, image

    transformer.transformer_blocks = torch.nn.ModuleList([One(stack)])
    transformer.single_transformer_blocks = torch.nn.ModuleList()
