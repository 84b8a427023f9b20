"""A transformer whose blocks stand behind a gate: its lists of blocks are exchanged for one stack during a forward.

The blocks stay the library's own modules and are called as its forward calls them, so that what was done to them
(adapters, attention, compilation) holds behind the gate too.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...families.base import Blocks, Family
from ...models.memory.block_groups import brought_in
from ..gate import Gate
from .decide import Decider, Decision
from .predictors import Taylor
from .signals import relative_change

Streams = tuple[torch.Tensor, torch.Tensor | None]


@dataclass
class Track:
    """What one guidance branch keeps from step to step, for one stack.

    Attributes:
        decider: Rules and limits.
        known: Decisions by step, where they are known ahead.
        hidden: Stands in for what the reused blocks add to the hidden states.
        text: The same for the stream of text, where something after them reads it.
        compared: The signal that the next one is compared with.
        taken: Decisions of the run, by step.
        latest: The last computed step, -1 before there is one.
    """

    decider: Decider
    known: Mapping[int, Decision] | None
    hidden: Taylor
    text: Taylor
    compared: torch.Tensor | None = None
    taken: dict[int, Decision] = field(default_factory=dict)
    latest: int = -1

    def forced(self, index: int) -> Decision | None:
        """What is decided without looking at the signal; None if the rule decides."""
        if self.known is None:
            return self.decider.forced(index)
        decision = self.known.get(index)
        # Who changes which branches run within the loop lets steps pass that were to be computed; what was kept of
        # the last computed one is then nothing, or older.
        kept = self.latest >= 0 and self.hidden.step == self.latest
        if decision is None or not (decision.computed or kept):
            return Decision(True, "unforeseen")
        return decision

    def take(self, index: int, decision: Decision) -> None:
        """Take note of what happens at a step."""
        self.decider.follow(index, decision)
        self.taken[index] = decision
        if decision.computed:
            self.latest = index

    def remembers(self, index: int) -> bool:
        """Whether what is computed at a step may be needed at a later one."""
        if self.known is None:
            return True
        later = [decision.computed for i, decision in self.known.items() if i > index]
        # A residual that is used as it is serves the very next step or none; an expansion builds on earlier ones.
        return not all(later[:1] if self.hidden.order == 0 else later)


class Stack(torch.nn.Module):
    """Stands in for one list of blocks, or several in a row: computes them, or reuses what they added.

    Args:
        lists: The lists of blocks, in the order in which they run.
        family: How its blocks are called, and what their modulated input is.
        gate: A resolved gate.
        last: Nothing reads the stream of text after the last block.
    """

    def __init__(self, lists: Sequence[torch.nn.ModuleList], family: Family, gate: Gate, last: bool) -> None:
        super().__init__()
        self.lists = torch.nn.ModuleList(lists)  # who walks the transformer's modules still finds the blocks
        blocks = [block for blocks in lists for block in blocks]
        self.family, self.gate = family, gate
        front = gate.front or 0
        end = len(blocks) - gate.back
        self.front, self.middle, self.back = blocks[:front], blocks[front:end], blocks[end:]
        self.first = blocks[0]
        self.keeps_text = "text" in family.blocks.returns and (bool(self.back) or not last)
        self.track: Track | None = None
        self.index = -1

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        track, index = self.track, self.index
        assert track is not None, "a branch is chosen before each call"
        call = _Call(self.family.blocks, args, kwargs)
        given = call.given
        decision = track.forced(index)
        signal = None
        if self.gate.signal == "modulated" and track.known is None:
            with brought_in(self.first):
                signal = self.family.modulated(self.first, given[0], call.named(self.first))
        streams = call.through(self.front, given)
        if self.gate.signal == "front" and track.known is None:
            signal = streams[0] - given[0]
        if decision is None:
            assert signal is not None, "what the rule needs is measured"
            assert track.compared is not None, "there is something to reuse"
            decision = track.decider.judge(index, relative_change(track.compared, signal).item())
        if signal is not None and (decision.computed or self.gate.signal == "modulated"):
            track.compared = signal  # a residual is compared with the last computed one, an input with the last one
        track.take(index, decision)
        if decision.computed:
            made = call.through(self.middle, streams)
            if track.remembers(index):
                track.hidden.update(index, made[0] - streams[0])
                if self.keeps_text:
                    track.text.update(index, made[1] - streams[1])  # type: ignore[operator]
        else:
            text = track.text.predict(index) + streams[1] if self.keeps_text else streams[1]  # type: ignore[operator]
            made = (track.hidden.predict(index) + streams[0], text)
        return call.returned(call.through(self.back, made))


class _Call:
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

    def use(self, tracks: Sequence[Track], index: int) -> None:
        """Choose whose turn it is at the next call."""
        for stack, track in zip(self.stacks, tracks, strict=True):
            stack.track, stack.index = track, index

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
