"""A gate at work on one component: from the prediction of a branch down to its blocks.

Read it top to bottom: `Engine.evaluate` makes the prediction of a branch, `Gated` calls the transformer with a `Stack`
in place of its blocks, `Stack.forward` computes the blocks or reuses what they added, `BlockCall` calls each block.

A row of a batch is one clip in one guidance branch. Each row decides for itself, as it does alone, and only the rows
that are computed go through the blocks.

The blocks stay the library's own modules and are called as its forward calls them, so that adapters, attention and
compilation work behind the gate too.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch

from ...families.base import Blocks, DenoiserInput, Family
from ...models.memory.block_groups import brought_in, put_back
from ...support import batch_rows
from ..gate import Gate
from ..tuning.step_plan import StepPlan
from ..tuning.tuned_table import KIND
from .decide import Decider, KnownDecisions
from .gated_component import Call, GatedComponent, Parts, expected
from .predictors import Taylor
from .row_cache import RowCache
from .stack_memory import StackMemory, Streams, some_of
from .tuned_model import TunedModel
from .whole_model import WholeModel


class Engine:
    """Computes or reuses, for each row of a batch.

    Args:
        gate: A resolved gate.
        component: The component behind it.

    Attributes:
        branch_caches: The memory of each guidance branch: for each clip, one for each stack.
    """

    def __init__(self, gate: Gate, component: GatedComponent) -> None:
        self.gate, self.component, self.transformer = gate, component, component.transformer
        measured = gate.signal != "model"
        self.gated = Gated(self.transformer, component.family, gate, component.parts) if measured else None
        self.whole: WholeModel | TunedModel = (
            TunedModel(self.transformer, gate.plan or StepPlan(""))
            if gate.kind == KIND
            else WholeModel(self.transformer, component.family.sign, component.parts)
        )
        self.branch_caches: dict[str, list[list[RowCache]]] = {}
        self.indices: dict[str, Sequence[int]] = {}
        self.known: dict[str, KnownDecisions] = {}

    def evaluate(self, names: Sequence[str], index: int, given: DenoiserInput, call: Call) -> torch.Tensor:
        """The predictions of guidance branches at a step.

        Args:
            names: The branches of the batch, each with as many rows, one after the other.
            index: The step, counted over those of the component.
            given: The input of the batch.
            call: Calls a transformer.
        """
        clips = len(given.latents) // len(names)
        rows = [row for name in names for row in self._caches(name, index, clips)]
        if self.gated is not None:
            self.gated.use(rows, index, self.component.family.row_tokens(given))
            return call(self.gated, given)
        return self.whole.evaluate([row[0] for row in rows], index, given, call)

    def _caches(self, name: str, index: int, clips: int) -> list[list[RowCache]]:
        """The memory of a branch, which is new if the branch runs for the first time."""
        component, order = self.component, self.gate.order
        if name not in self.indices:
            self.indices[name] = expected(component.active(name), index, component.steps)
        caches = self.branch_caches.setdefault(name, [])
        if len(caches) < clips:
            known = self.ahead(name).by_step()
            count = len(self.gated.stacks) if self.gated is not None else 1
        while len(caches) < clips:
            deciders = [Decider(self.gate, component.steps, name) for _ in range(count)]
            caches.append([RowCache(decider, known, Taylor(order), Taylor(order)) for decider in deciders])
        return caches[:clips]

    def ahead(self, name: str) -> KnownDecisions:
        """The decisions about a branch that are known before the run."""
        if name not in self.known:
            indices = self.indices[name]
            alike = self.gate.ratios is None and self.gate.signal not in ("time", "time_projection")
            same = (each for each in self.known.values() if alike and each.indices == indices)
            self.known[name] = next(same, None) or KnownDecisions(self.gate, self.component, name, indices)
        return self.known[name]

    def digits(self, name: str) -> str:
        """One digit for each step of a branch: 1 for computed, 0 for reused, ? for decided then."""
        return self.ahead(name).digits

    def close(self) -> None:
        """Return blocks that were brought to the device ahead of a call that the gate left out."""
        put_back(self.transformer)


class Gated:
    """A transformer behind a gate: the same attributes, and a call during which stacks stand in for its blocks."""

    def __init__(self, transformer: Any, family: Family, gate: Gate, parts: Parts | None = None) -> None:
        self.transformer = transformer
        names = list(family.blocks.lists)
        lists = [getattr(transformer, name) for name in names]
        if gate.stacks == "separate":
            groups = [[blocks] for blocks in lists]
        else:
            groups = [lists]
        self.stacks, made = [], []
        for number, group in enumerate(groups):
            last = number == len(groups) - 1
            stack = Stack(group, family, gate, last, parts)
            self.stacks.append(stack)
            made.append(stack if parts is None else parts.around(transformer, family, stack, group, last))
        modules = [torch.nn.ModuleList([module]) for module in made]
        modules += [torch.nn.ModuleList() for _ in lists[len(made) :]]
        self.stand_ins = dict(zip(names, modules, strict=True))
        if parts is not None:
            self.stand_ins.update(parts.others(transformer, family))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transformer, name)

    def use(self, rows: Sequence[Sequence[RowCache]], index: int, lengths: Sequence[int] | None) -> None:
        """Choose whose turn it is at the next call.

        Args:
            rows: The memory of each row of the batch, one for each stack.
            index: The step.
            lengths: The rows' numbers of tokens without padding; None if there is no padding.
        """
        for stack, caches in zip(self.stacks, zip(*rows, strict=True), strict=True):
            stack.memory.use(caches, index, lengths)

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
        parts: The parts of the sequence; None if one process computes it.
    """

    def __init__(
        self,
        lists: Sequence[torch.nn.ModuleList],
        family: Family,
        gate: Gate,
        last: bool,
        parts: Parts | None = None,
    ) -> None:
        super().__init__()
        self.lists = torch.nn.ModuleList(lists)  # a walk over the transformer's modules still finds the blocks
        blocks = [block for blocks in lists for block in blocks]
        self.family, self.gate = family, gate
        front = gate.front or 0
        end = len(blocks) - gate.back
        self.front, self.middle, self.back = blocks[:front], blocks[front:end], blocks[end:]
        self.first = blocks[0]
        keeps_text = "text" in family.blocks.returns and (bool(self.back) or not last)
        self.memory = StackMemory(gate.signal, keeps_text, parts)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = BlockCall(self.family.blocks, args, kwargs)
        modulated = self._modulated(call) if self.memory.measures("modulated") else None
        streams = call.through(self.front, call.given)  # hidden [B, tokens, width], text [B, length, width] or None
        added = streams[0] - call.given[0] if self.memory.measures("front") else None  # [B, tokens, width]
        computed = self.memory.decide(modulated if added is None else added, streams[0].shape[1])
        return call.returned(call.through(self.back, self.between(call, streams, computed)))

    def between(self, call: BlockCall, streams: Streams, computed: Sequence[int]) -> Streams:
        """The streams after the middle blocks: computed for some rows, predicted for the others."""
        parts = []
        if computed:
            given = some_of(streams, computed, batch_rows.gather)
            made = call.of_rows(self.first, computed).through(self.middle, given)
            self.memory.remember(computed, given, made)
            parts.append((computed, made))
        if reused := batch_rows.others(computed, len(self.memory.caches)):
            parts.append((reused, self.memory.predicted(reused, some_of(streams, reused))))
        hidden = batch_rows.put_together([(rows, made[0]) for rows, made in parts])
        if "text" not in self.family.blocks.returns:
            return hidden, streams[1]
        return hidden, batch_rows.put_together([(rows, made[1]) for rows, made in parts])  # type: ignore[misc]

    def _modulated(self, call: BlockCall) -> torch.Tensor:
        """The modulated input of the first block [B, tokens, width]."""
        with brought_in(self.first):
            return self.family.modulated(self.first, call.given[0], call.named(self.first))


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

    def of_rows(self, block: torch.nn.Module, rows: Sequence[int]) -> BlockCall:
        """The call for some rows of the batch; for all rows it is this call."""
        count = len(self.given[0])
        if len(rows) == count:
            return self
        per_row = {*self.layout.per_row, "hidden_states", "encoder_hidden_states"}

        def chosen(name: str | None, value: Any) -> Any:
            if name not in per_row or value is None or len(value) == 1:
                return value
            # Some models have all rows several times, one after the other (`zero_cond_t` of Qwen-Image).
            parts = [batch_rows.gather(part, rows) for part in value.split(count)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        streams = () if self.named_streams else some_of(self.given, rows)[: 1 + self.layout.takes_text]
        names = list(inspect.signature(block.forward).parameters)[len(streams) :][: len(self.args)]
        args = [chosen(name, value) for name, value in zip_longest(names, self.args)]
        return BlockCall(self.layout, (*streams, *args), {name: chosen(name, v) for name, v in self.kwargs.items()})

    def returned(self, streams: Streams) -> Any:
        """The streams as a block returns them."""
        found = {"hidden": streams[0], "text": streams[1]}
        made = tuple(found[name] for name in self.layout.returns)
        return made if len(made) > 1 else made[0]

    def named(self, block: torch.nn.Module) -> Mapping[str, Any]:
        """All arguments by name."""
        streams = (self.given if self.layout.takes_text else self.given[:1]) if not self.named_streams else ()
        return inspect.signature(block.forward).bind(*streams, *self.args, **self.kwargs).arguments
