"""A gate at work on one component: from the prediction of a branch down to its blocks.

Read it top to bottom: `Engine.evaluate` makes the prediction of a branch, `Gated` calls the transformer with a `Stack`
in place of its blocks, `Stack.forward` computes the blocks or reuses what they added, `BlockCall` calls each block.

The blocks stay the library's own modules and are called as its forward calls them, so that adapters, attention and
compilation work behind the gate too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...families.base import Blocks, Family
from ...models.memory.block_groups import brought_in, put_back
from ..gate import Gate, Signal
from .branch_cache import BranchCache
from .decide import Decider, Decision, KnownDecisions
from .gated_component import GatedComponent, expected
from .predictors import Taylor
from .signals import Drift, relative_change

Streams = tuple[torch.Tensor, torch.Tensor | None]
"""Hidden states [B, tokens, width], and the stream of text [B, length, width] where blocks have one."""


class Engine:
    """Computes or reuses, for each guidance branch.

    Args:
        gate: A resolved gate.
        component: The component behind it.
    """

    def __init__(self, gate: Gate, component: GatedComponent) -> None:
        self.gate, self.component, self.transformer = gate, component, component.transformer
        self.gated = Gated(self.transformer, component.family, gate) if gate.signal != "model" else None
        self.branch_caches: dict[str, list[BranchCache]] = {}
        self.indices: dict[str, Sequence[int]] = {}
        self.known: dict[str, KnownDecisions] = {}
        self.drifts: dict[str, Drift] = {}

    def evaluate(self, branch: str, index: int, given: torch.Tensor, call: Callable[[Any], torch.Tensor]) -> Any:
        """The prediction of a branch at a step.

        Args:
            branch: Its name, or names joined by +.
            index: The step, counted over those of the component.
            given: The latents that go into the transformer, batch first.
            call: Calls a transformer; it gets this one, or one with a gate before its blocks.
        """
        caches = self.branch_caches.get(branch)
        if caches is None:
            caches = self._begin(branch, index)
        if self.gated is not None:
            self.gated.use(caches, index)
            return call(self.gated)
        return self._whole(branch, index, given, call)

    def _whole(self, branch: str, index: int, given: torch.Tensor, call: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        """The whole transformer computed, or the difference between its output and input added again."""
        cache, drift, sign = (
            self.branch_caches[branch][0],
            self.drifts.setdefault(branch, Drift()),
            self.component.family.sign,
        )
        decision = cache.forced(index)
        change = drift.measure(given) if cache.known is None else None
        if decision is None and change is None:
            decision = Decision(True, "first")
        if decision is None:
            assert change is not None, "measured above"
            decision = cache.decider.judge(index, change.item())
        drift.passed(given)
        cache.take(index, decision)
        if not decision.computed:
            assert cache.compared is not None, "a step was computed before"
            return (sign * given + cache.hidden.predict(index)).to(cache.compared.dtype)
        made = call(self.transformer)
        cache.compared = made
        if cache.known is None:
            drift.learned(given, made)
        cache.hidden.update(index, made - sign * given)
        return made

    def _begin(self, branch: str, index: int) -> list[BranchCache]:
        """The caches of a branch that runs for the first time: one for each stack."""
        component, order = self.component, self.gate.order
        self.indices[branch] = expected(component.active(branch), index, component.steps)
        self.known[branch] = KnownDecisions(self.gate, component, branch, self.indices[branch])
        known = self.known[branch].by_step()
        count = len(self.gated.stacks) if self.gated is not None else 1
        self.branch_caches[branch] = [
            BranchCache(Decider(self.gate, component.steps, branch), known, Taylor(order), Taylor(order))
            for _ in range(count)
        ]
        return self.branch_caches[branch]

    def digits(self, branch: str) -> str:
        """One digit for each step of a branch: 1 for computed, 0 for reused, ? for decided then."""
        return self.known[branch].digits

    def close(self) -> None:
        """Return blocks that were brought to the device ahead of a call that the gate left out."""
        put_back(self.transformer)


class Gated:
    """A transformer behind a gate: the same attributes, and a call during which stacks stand in for its blocks."""

    def __init__(self, transformer: Any, family: Family, gate: Gate) -> None:
        self.transformer = transformer
        names = list(family.blocks.lists)
        lists = [getattr(transformer, name) for name in names]
        if gate.stacks == "separate":
            self.stacks = [
                Stack([blocks], family, gate, last=number == len(lists) - 1) for number, blocks in enumerate(lists)
            ]
            stand_ins = [[stack] for stack in self.stacks]
        else:
            self.stacks = [Stack(lists, family, gate, last=True)]
            stand_ins = [[self.stacks[0]], *([] for _ in lists[1:])]
        self.stand_ins = {name: torch.nn.ModuleList(made) for name, made in zip(names, stand_ins, strict=True)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transformer, name)

    def use(self, caches: Sequence[BranchCache], index: int) -> None:
        """Choose whose turn it is at the next call."""
        for stack, cache in zip(self.stacks, caches, strict=True):
            stack.cache, stack.index = cache, index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return exchanged(self.transformer, self.stand_ins, *args, **kwargs)


def exchanged(transformer: Any, stand_ins: Mapping[str, torch.nn.Module], *args: Any, **kwargs: Any) -> Any:
    """Call a transformer while some of its children are others, of the same names."""
    modules = transformer._modules
    own = {name: modules[name] for name in stand_ins}
    modules.update(stand_ins)
    try:
        return transformer(*args, **kwargs)
    finally:
        modules.update(own)


class Stack(torch.nn.Module):
    """One module in place of one list of blocks, or several in a row: computes them, or adds their residual again.

    Args:
        lists: The lists of blocks, in the order in which they run.
        family: The calls of its blocks, and their modulated input.
        gate: A resolved gate.
        last: Nothing reads the stream of text after the last block.
    """

    def __init__(self, lists: Sequence[torch.nn.ModuleList], family: Family, gate: Gate, last: bool) -> None:
        super().__init__()
        self.lists = torch.nn.ModuleList(lists)  # a walk over the transformer's modules still finds the blocks
        blocks = [block for blocks in lists for block in blocks]
        self.family, self.gate = family, gate
        front = gate.front or 0
        end = len(blocks) - gate.back
        self.front, self.middle, self.back = blocks[:front], blocks[front:end], blocks[end:]
        self.first = blocks[0]
        self.keeps_text = "text" in family.blocks.returns and (bool(self.back) or not last)
        self.cache: BranchCache | None = None
        self.index = -1

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        cache = self.cache
        assert cache is not None, "a branch is chosen before each call"
        call = BlockCall(self.family.blocks, args, kwargs)
        modulated = self._modulated(call) if self._measures("modulated", cache) else None
        streams = call.through(self.front, call.given)  # hidden [B, tokens, width], text [B, length, width] or None
        added = streams[0] - call.given[0] if self._measures("front", cache) else None  # [B, tokens, width]
        if self._decide(cache, modulated if added is None else added).computed:
            made = call.through(self.middle, streams)
            self._remember(cache, streams, made)
        else:
            made = self._predicted(cache, streams)
        return call.returned(call.through(self.back, made))

    def _measures(self, signal: Signal, cache: BranchCache) -> bool:
        """Whether the gate compares this signal, and the decisions do not follow from the schedule alone."""
        return self.gate.signal == signal and cache.known is None

    def _modulated(self, call: BlockCall) -> torch.Tensor:
        """The modulated input of the first block [B, tokens, width]."""
        with brought_in(self.first):
            return self.family.modulated(self.first, call.given[0], call.named(self.first))

    def _decide(self, cache: BranchCache, signal: torch.Tensor | None) -> Decision:
        """The decision of this step; one number is read from the device if the rule decides."""
        decision = cache.forced(self.index)
        if decision is None:
            assert signal is not None, "the gate measures the signal of its rule"
            assert cache.compared is not None, "the first step is computed"
            decision = cache.decider.judge(self.index, relative_change(cache.compared, signal).item())
        # An input is compared with the last step; a residual with the last computed step.
        if signal is not None and (decision.computed or self.gate.signal == "modulated"):
            cache.compared = signal
        cache.take(self.index, decision)
        return decision

    def _remember(self, cache: BranchCache, before: Streams, after: Streams) -> None:
        """Keep the residual of the middle blocks, if a later step may need it."""
        if not cache.remembers(self.index):
            return
        cache.hidden.update(self.index, after[0] - before[0])
        if self.keeps_text:
            cache.text.update(self.index, after[1] - before[1])  # type: ignore[operator]

    def _predicted(self, cache: BranchCache, streams: Streams) -> Streams:
        """The streams after the middle blocks: their predicted residual is added, and no block runs."""
        hidden, text = streams
        if self.keeps_text:
            text = cache.text.predict(self.index) + text  # type: ignore[operator]
        return cache.hidden.predict(self.index) + hidden, text


class BlockCall:
    """One call of a block by the transformer's forward, to be made of each block in turn."""

    def __init__(self, layout: Blocks, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.layout, self.named_streams = layout, "hidden_states" in kwargs
        if self.named_streams:
            text = kwargs["encoder_hidden_states"] if layout.takes_text else None
            self.given: Streams = (kwargs["hidden_states"], text)
            self.args, self.kwargs = args, kwargs
        else:
            self.given = (args[0], args[1] if layout.takes_text else None)
            self.args, self.kwargs = args[2:] if layout.takes_text else args[1:], kwargs

    def through(self, blocks: Sequence[torch.nn.Module], streams: Streams) -> Streams:
        """The streams after some blocks."""
        hidden, text = streams
        for block in blocks:
            if self.named_streams:
                kwargs = {**self.kwargs, "hidden_states": hidden}
                if self.layout.takes_text:
                    kwargs["encoder_hidden_states"] = text
                made = block(*self.args, **kwargs)
            elif self.layout.takes_text:
                made = block(hidden, text, *self.args, **self.kwargs)
            else:
                made = block(hidden, *self.args, **self.kwargs)
            if len(self.layout.returns) == 1:
                hidden = made
            else:
                found = dict(zip(self.layout.returns, made, strict=True))
                hidden, text = found["hidden"], found["text"]
        return hidden, text

    def returned(self, streams: Streams) -> Any:
        """The streams as a block returns them."""
        found = {"hidden": streams[0], "text": streams[1]}
        made = tuple(found[name] for name in self.layout.returns)
        return made if len(made) > 1 else made[0]

    def named(self, block: torch.nn.Module) -> Mapping[str, Any]:
        """All arguments by name."""
        streams = (self.given if self.layout.takes_text else self.given[:1]) if not self.named_streams else ()
        return inspect.signature(block.forward).bind(*streams, *self.args, **self.kwargs).arguments
