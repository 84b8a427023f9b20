"""EasyCache on the outputs of a pipeline's transformer, from the paper (2507.02860) and its code's behaviour.

x is the transformer's input and y its output, both raw; x_c and y_c belong to the last computed step. Every computed
step but the first sets k = mean|y - y_c| / mean|x - x_c|, the change of the output per change of the input. Every later
step adds k * mean|x_t - x_(t-1)| / mean|y_c|, the estimated relative change of the output, to a sum. While the sum is
below the threshold, y = x + (y_c - x_c). Otherwise the step is computed and the sum starts at 0 again. Forced steps at
both ends also set the sum to 0 and set k.

In the authors' code, the positive branch decides for both branches; `together` does that. By default, every branch
decides for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from helpers.gate_pipelines import STEPS, Decisions, Outcome, named, sample, untouched


class Branch:
    """The state of one guidance branch."""

    def __init__(self) -> None:
        self.sum = 0.0
        self.rate: float | None = None
        self.before: torch.Tensor | None = None  # the input of the step before, computed or not
        self.input: torch.Tensor | None = None  # of the last computed step
        self.output: torch.Tensor | None = None
        self.computed: list[bool] = []
        self.distances: list[float | None] = []


class Rule:
    """EasyCache, with the state of every branch by its name."""

    def __init__(self, threshold: float, steps: int, first: int, last: int, together: bool = False) -> None:
        self.threshold, self.together = threshold, together
        self.forced = {*range(first), *range(steps - last, steps)}
        self.branches: dict[str, Branch] = {}

    def __call__(self, name: str, x: torch.Tensor, model: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The output for input `x` at the next step of a branch: the output of `model`, or its estimate."""
        state = self.branches.setdefault(name, Branch())
        leader = self.branches["positive"] if self.together else state
        if leader is state:
            computes, distance = self._decide(state, x)
        else:
            computes, distance = leader.computed[len(state.computed)], None
        state.computed.append(computes)
        state.distances.append(distance)
        state.before = x.clone()
        if not computes:
            assert state.output is not None
            assert state.input is not None
            return x + (state.output - state.input)
        y = model()
        if state.output is not None and state.input is not None:
            state.rate = ((y - state.output).abs().mean() / (x - state.input).abs().mean()).item()
        state.input, state.output = x.clone(), y.clone()
        return y

    def _decide(self, state: Branch, x: torch.Tensor) -> tuple[bool, float | None]:
        if len(state.computed) in self.forced:
            state.sum = 0.0
            return True, None
        if state.rate is None:  # two computed steps are needed
            return True, None
        assert state.before is not None
        assert state.output is not None
        change = (x - state.before).abs().mean() / state.output.abs().mean()
        state.sum += state.rate * change.item()
        distance = state.sum
        if distance < self.threshold:
            return False, distance
        state.sum = 0.0
        return True, distance


def run(
    pipeline: Any,
    threshold: float,
    *,
    first: int = 2,
    last: int = 1,
    together: bool = False,
    steps: int = STEPS,
    scale: float | None = 5.0,
    **options: Any,
) -> Outcome:
    """Sample with EasyCache.

    Args:
        pipeline: A pipeline of `gate_pipelines.build`.
        threshold: Threshold of the accumulated relative change. The authors use 0.05 for Wan, 0.025 for HunyuanVideo.
        first: Steps computed at the start. The authors use 10 for Wan, 5 for HunyuanVideo.
        last: Steps computed at the end. The authors use 1.
        together: Whether the positive branch decides for the negative one.
        steps: Number of steps.
        scale: Guidance scale; None switches guidance off.
        options: Further arguments of `gate_pipelines.sample`.

    Returns:
        Latents and decisions; a decision's distance is the sum that the step compared with the threshold.
    """
    assert getattr(pipeline, "transformer_2", None) is None, "one transformer only"
    transformer, rule = pipeline.transformer, Rule(threshold, steps, first, last, together)
    original = transformer.forward

    with untouched(pipeline), named(pipeline, scale) as branch:

        def forward(*arguments: Any, **given: Any) -> Any:
            x, listed = given["hidden_states"] if "hidden_states" in given else arguments[0], False
            if isinstance(x, list):  # Z-Image takes and gives lists of images
                x, listed = torch.stack(x), True

            def model() -> torch.Tensor:
                made = original(*arguments, **given)[0]
                return torch.stack(made) if listed else made

            y = rule(branch(), x, model)
            return (list(y) if listed else y,)

        transformer.forward = forward
        latents = sample(pipeline, steps=steps, scale=scale, **options)
    return Outcome(
        latents, {name: Decisions(tuple(b.computed), tuple(b.distances)) for name, b in rule.branches.items()}
    )
