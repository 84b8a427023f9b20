"""The cache-dit package at work on one component, for one run of a loop.

The package changes the transformer that it is given: its `forward`, attributes, the order of its children, and the
class of its pipeline. So it is given a stand-in that holds the same blocks, one for each clip and guidance branch, and
only its blocks go into the transformer, for the length of a forward. Nothing is left behind, and each row of a batch
has a state of its own however often it is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from ....graph.contract.errors import NodeError
from ....graph.contract.process_state import exclusive
from ..engine.decide import Decision, KnownDecisions
from ..engine.engine import exchanged
from ..engine.gated_component import Call, GatedComponent, expected
from ..gate import Gate, Mask
from .engine_options import MASK, POLICY

if TYPE_CHECKING:
    from ...families.base import DenoiserInput


@dataclass
class Taken:
    """The decisions about one list of blocks for one guidance branch, by step."""

    taken: dict[int, Decision] = field(default_factory=dict)


class LibraryEngine:
    """Lets cache-dit compute or reuse, for each clip in each guidance branch.

    The package makes one decision for a batch. So the rows of a batch are computed one by one, each with a stand-in of
    its own.

    Args:
        gate: A resolved gate of the kind `library`.
        component: The component that the gate controls. In a trial, all blocks are computed, without the package.
        take_turns: Several branches run at a step, one call after the other.

    Raises:
        NodeError: If branches run one after the other and the options make them share one state.
    """

    def __init__(self, gate: Gate, component: GatedComponent, take_turns: bool = False) -> None:
        if take_turns and gate.options.get("enable_separate_cfg") is False:
            message = f"gate {gate.name}: guidance branches are evaluated one by one, and each needs its own state"
            raise NodeError(f"{message}, and `enable_separate_cfg` is false", help="leave `enable_separate_cfg` out")
        self.gate, self.component = gate, component
        self.transformer, self.steps, self.trial = component.transformer, component.steps, component.trial
        self.caches: dict[tuple[str, int], Cache] = {}
        self.branch_caches: dict[str, list[list[Taken]]] = {}
        self.indices: dict[str, Sequence[int]] = {}

    def evaluate(self, names: Sequence[str], index: int, given: DenoiserInput, call: Call) -> torch.Tensor:
        """The predictions of guidance branches at a step; the parameters are those of `Engine.evaluate`."""
        for name in names:
            if name not in self.indices:
                self.indices[name] = expected(self.component.active(name), index, self.steps)
        if self.trial:
            return call(self.transformer, given)
        clips = len(given.latents) // len(names)
        rows = [(name, clip) for name in names for clip in range(clips)]
        made = [self._row(key, index, given.of_rows([row]), call) for row, key in enumerate(rows)]
        return made[0] if len(made) == 1 else torch.cat(made)

    def _row(self, key: tuple[str, int], index: int, given: DenoiserInput, call: Call) -> torch.Tensor:
        """The prediction of one clip in one branch."""
        name, clip = key
        taken = self.branch_caches.setdefault(name, [])
        if key not in self.caches:
            self.caches[key] = Cache(self.transformer, self._options(name))
            taken.append([Taken() for _ in self.caches[key].contexts])
        made = call(self.caches[key], given)
        for record, decision in zip(taken[clip], self.caches[key].decisions(), strict=True):
            record.taken[index] = decision
        return made

    def close(self) -> None:
        """Release all tensors and modules that the engine keeps."""
        for cache in self.caches.values():
            cache.close()

    def _options(self, branch: str) -> dict[str, Any]:
        """Make cache-dit's options for the steps at which a branch runs."""
        options = {name: value for name, value in self.gate.options.items() if name not in (MASK, POLICY)}
        steps = self.indices[branch]
        digits = self._digits(steps)
        if digits is not None:
            options[MASK] = [int(digit) for digit in digits.ljust(self.steps, "1")]
        # Each branch has a stand-in of its own, so that no call belongs to another. No branch has more calls than the
        # component has steps, so that cache-dit never takes one for the first of another run.
        return {**options, "num_inference_steps": self.steps, "enable_separate_cfg": False}

    def _digits(self, steps: Sequence[int]) -> str | None:
        """The mask's digits for some steps; None without a mask. The first step is always computed."""
        mask = self.gate.mask
        if mask is None or mask.digits is None:
            return None
        return "1" + "".join(mask.digits[step] for step in steps[1:])

    def digits(self, branch: str) -> str:
        """One digit for each step of a branch: 1 for computed, 0 for reused, ? for decided in the run."""
        steps = self.indices[branch]
        gate, component = self.gate, replace(self.component, steps=len(steps))
        if gate.mask is not None:
            gate = replace(gate, mask=Mask(digits=self._digits(steps), policy=gate.mask.policy))
        known = KnownDecisions(gate, component, branch, range(len(steps))).digits
        refresh = gate.options.get("force_refresh_step_hint", len(steps))
        return known[:refresh] + "?" * (len(steps) - refresh)


class StandIn(torch.nn.Module):
    """Holds lists of blocks of a transformer under the same names. A call passes on the lists that cache-dit made."""

    def __init__(self, lists: Mapping[str, torch.nn.ModuleList]) -> None:
        super().__init__()
        for name, blocks in lists.items():
            self.add_module(name, torch.nn.ModuleList(list(blocks)))  # cache-dit writes attributes to a list
        self.names = list(lists)

    def forward(self, call: Callable[[Mapping[str, Any]], Any]) -> Any:
        return call({name: self._modules[name] for name in self.names})


class Cache:
    """A transformer with cache-dit's blocks in place of its own during a call; the state is that of one row."""

    def __init__(self, transformer: Any, options: Mapping[str, Any]) -> None:
        self.transformer = transformer
        with exclusive(), quiet():  # cache-dit keeps registries, and a logger that an environment variable sets
            self._enable(transformer, options)

    def _enable(self, transformer: Any, options: Mapping[str, Any]) -> None:
        import cache_dit
        from cache_dit.caching.block_adapters import FakeDiffusionPipeline

        # cache-dit itself knows the lists of blocks of this transformer, and the form of their calls.
        known = cache_dit.BlockAdapterRegister.get_adapter(transformer, skip_post_init=True)
        if known is None:
            raise NodeError(f"cache-dit does not know {type(transformer).__name__}")
        lists, names, dummies = _layout(transformer, known)
        self.stand_in = StandIn(
            dict(zip(names, lists, strict=True)) | {name: torch.nn.ModuleList() for name in dummies}
        )
        configs = cache_dit.load_configs({"cache_config": dict(options)})
        cache = configs["cache_config"]
        cache.cache_type = cache_dit.cache_type(cache.cache_type)  # load_configs leaves text, which it cannot use
        # A new class for each pipeline, because cache-dit sets attributes of the class.
        pipeline = type("Pipeline", (FakeDiffusionPipeline,), {})(self.stand_in)
        adapter = cache_dit.BlockAdapter(
            pipe=pipeline,
            transformer=self.stand_in,
            blocks=[getattr(self.stand_in, name) for name in names],
            blocks_name=names,
            dummy_blocks_names=dummies,
            forward_pattern=known.forward_pattern,
            check_forward_pattern=False,
            has_separate_cfg=False,
        )
        cache_dit.enable_cache(adapter, cache_config=cache, calibrator_config=configs["calibrator_config"])
        self.manager = pipeline._context_manager
        self.contexts: list[str] = list(vars(self.stand_in)["_context_names"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transformer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.stand_in(lambda blocks: exchanged(self.transformer, blocks, *args, **kwargs))

    def decisions(self) -> Iterator[Decision]:
        """The decisions of the last call, one for each context, with cache-dit's reason if it gives one."""
        for name in self.contexts:
            yield _decision(self.manager.get_context(name))

    def close(self) -> None:
        """Release tensors and blocks now: the stand-in and cache-dit's objects refer to each other."""
        self.manager.clear_contexts()
        self.manager._current_context = None
        vars(self.stand_in).clear()


def _layout(transformer: Any, known: Any) -> tuple[list[Any], list[str], list[str]]:
    """Find the transformer's lists of blocks in the adapter `known` of cache-dit.

    Returns:
        The lists; for each list, the name of the transformer's attribute that holds it; and the names of attributes
        that are empty lists while the package is at work.
    """
    lists = known.blocks if isinstance(known.blocks, list) else [known.blocks]
    if known.blocks_name is not None:
        names = known.blocks_name if isinstance(known.blocks_name, list) else [known.blocks_name]
        return lists, names, list(known.dummy_blocks_names)
    attributes = {id(module): name for name, module in transformer.named_children()}
    return lists, [attributes[id(blocks)] for blocks in lists], []


def _decision(context: Any) -> Decision:
    step, config = context.get_current_step(), context.cache_config
    cached, diffs = context.cached_steps, context.residual_diffs.get(str(step))
    if hasattr(context, "pruned_blocks"):
        pruned, blocks = context.pruned_blocks[-1], context.actual_blocks[-1]
        measured = [diff for diff in diffs or [] if diff > 0]
        nearest = min(measured, default=None)
        return Decision(not pruned, f"{pruned} of {blocks} blocks reused" if pruned else "rule", nearest, nearest)
    computed = not (cached and cached[-1] == step)
    # A negative number means that nothing was compared: -1 for a threshold of 1 or more, -2 for unequal shapes.
    distance = None if diffs is None or diffs < 0 else float(diffs)
    static = config.steps_computation_mask is not None and config.steps_computation_policy == "static"
    if context.is_in_warmup():
        reason = "warm-up"
    elif context.is_in_full_compute_steps() or (static and not computed):
        reason = "mask"
    elif diffs is not None or config.residual_diff_threshold <= 0:
        reason = "rule"
    else:
        reason = "first" if step == 0 else "limit"
    return Decision(computed, reason, distance, distance)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep cache-dit from printing: it logs to stdout unless an environment variable is set before its import."""
    name = "CACHE_DIT_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "ERROR"
    try:
        yield
    finally:
        del os.environ[name]
