"""Times attention backends on the shapes of the model's own calls, and chooses the fastest."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ....graph.contract.errors import UnreadableFile
from ....graph.contract.node import Run
from ....graph.contract.process_state import exclusive
from ...support.work_meter import uncounted
from ..memory.component_views import entrance
from ..memory.latest_run import present
from ..rebuilt.loop_values import forget
from . import choice_files, kernels
from .backend_timing import Shapes, in_fp8, measure_all, takes_masks
from .choice_files import Case
from .processors import choose

if TYPE_CHECKING:
    pass

BUDGET = 1.0
"""Seconds that a run spends on timing attention, for all models and shapes."""


@dataclass(frozen=True)
class Choice:
    """The backend that is used for a shape, and how it was found.

    Attributes:
        backend: Name in diffusers or in `kernels`.
        timings: Seconds of a call of all backends that agree with the first.
        seconds: Seconds that measuring took; 0 for a choice that was remembered.
        left: Backends for which there was no time. The next run measures them.
    """

    backend: str
    timings: dict[str, float]
    seconds: float
    left: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """How the choice was found, in words."""
        if not self.seconds:
            return "remembered"
        names = ", ".join(map(_workflow_name, self.left))
        later = f"; the next run measures {names}" if names else ""
        return f"measured in {self.seconds:.2f} s{later}"


_spent: weakref.WeakKeyDictionary[Run, float] = weakref.WeakKeyDictionary()
"""Seconds of each run's budget that are spent."""


class Tuner:
    """Observes the first call of a view for each shape, and sets the fastest backend for later calls.

    Args:
        view: The module; its attention uses the first candidate.
        candidates: Names of backends in diffusers or `kernels`; the first is the reference.
        run: Receives the choice and the timings, as details of the node that calls the view.
    """

    def __init__(self, view: Any, candidates: Sequence[str], run: Run) -> None:
        self.view, self.candidates, self.run = view, tuple(candidates), run
        self.chosen: dict[tuple[Any, ...], Choice] = {}
        self.told: weakref.ref[Run] = weakref.ref(present(run))
        self.now = candidates[0]
        self.attentions = [module for module in view.modules() if hasattr(module, "processor")]
        entrance(view).layers.append(self.around)

    def around(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        import torch
        from torch.utils._pytree import tree_leaves

        inputs = tree_leaves((args, kwargs))  # Z-Image takes lists of tensors
        # A family may replace processors for one call. HunyuanVideo does so if no token is masked.
        processors = frozenset(type(module.processor) for module in self.attentions)
        key = (processors, *((tuple(t.shape), t.dtype) for t in inputs if isinstance(t, torch.Tensor)))
        if key not in self.chosen:
            name = _choice_name(key, self.candidates)
            earlier = self.run.choice(name)  # a resumed run measures nothing again
            if earlier in self.candidates:
                self.chosen[key] = Choice(earlier, {}, 0.0)
                self.run.chose(name, earlier)
                self.tell(self.chosen[key], "kept by the resumed run")
        if key in self.chosen:
            self.use(self.chosen[key].backend)
            if self.told() is not present(self.run):
                self.run.chose(_choice_name(key, self.candidates), self.chosen[key].backend)
                self.tell(self.chosen[key], "kept by the session")
            return call(*args, **kwargs)
        self.use(self.candidates[0])
        # The stance is one for all threads.
        with exclusive(), watching() as seen, torch.compiler.set_stance("force_eager"):
            result = call(*args, **kwargs)
        largest = seen()
        if largest is None:
            self.chosen[key] = Choice(self.candidates[0], {}, 0.0)
            self.run.chose(name, self.candidates[0])
            return result
        with uncounted():
            found = self._agreed(fastest(self.candidates, largest, self.run))
        self.chosen[key] = found
        self.use(found.backend)
        if found.backend != self.candidates[0]:
            forget(self.view)  # a run that knows the choice, such as a resumed one, makes them with this backend
        self.run.chose(name, found.backend)
        self.tell(found, found.origin, found.seconds)
        return result

    def _agreed(self, found: Choice) -> Choice:
        """The choice of the first process of a sequence that several compute: times differ, and results must not."""
        processes = self.run.processes
        if processes.mesh.sequence == 1:
            return found
        from ..ranks.collectives import first_number

        number = first_number(processes, "sequence", self.candidates.index(found.backend))
        return replace(found, backend=self.candidates[number])

    def tell(self, found: Choice, origin: str, seconds: float = 0.0) -> None:
        """Report a choice to the run that holds the view."""
        self.told = weakref.ref(present(self.run))
        self.run.detail(
            attention=_workflow_name(found.backend),
            attention_choice=origin,
            attention_seconds=round(seconds, 3),
            attention_milliseconds={_workflow_name(n): round(1e3 * s, 4) for n, s in found.timings.items()},
        )

    def use(self, backend: str) -> None:
        if backend != self.now:
            choose(self.view, backend)
            self.now = backend


def _choice_name(key: tuple[Any, ...], candidates: Sequence[str]) -> str:
    """A name for the choice for a key of `around`, equal in every process."""
    processors, *shapes = key
    names = sorted(processor.__name__ for processor in processors)
    return f"attention of {names} for {shapes} among {list(candidates)}"


@contextmanager
def watching() -> Iterator[Callable[[], Shapes | None]]:
    """Record the calls of torch's attention inside `with`. Yields a function for the largest call, or None."""
    import torch
    from torch.overrides import TorchFunctionMode

    from ..row_kernels import head_norms

    found: list[Shapes] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is torch.nn.functional.scaled_dot_product_attention:
                given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
                query, key = (given[name].transpose(1, 2) for name in ("query", "key"))
                masked = given.get("attn_mask") is not None
                shapes = tuple(query.shape), tuple(key.shape)
                found.append(Shapes(*shapes, masked, query.dtype, query.device, head_norms.known()))
            return func(*args, **kwargs)

    def largest() -> Shapes | None:
        if not found:
            return None
        most = max(found, key=lambda s: s.query[0] * s.query[1] * s.key[1] * s.query[2])
        return replace(most, masked=any(s.masked for s in found))

    with Watch():
        yield largest


def case_of(candidates: Sequence[str], shapes: Shapes) -> Case:
    """The facts on which the choice for a shape depends."""
    import torch

    card = torch.cuda.get_device_name(shapes.device) if shapes.device.type == "cuda" else shapes.device.type
    dtype = str(shapes.dtype).removeprefix("torch.")
    known, normed = tuple(candidates), shapes.norms is not None
    return Case(card, dtype, shapes.query, shapes.key, shapes.masked, normed, known, choice_files.versions(known))


def fastest(candidates: Sequence[str], shapes: Shapes, run: Run) -> Choice:
    """Find the fastest backend that agrees with the first.

    If a call had a mask, backends that refuse masks are left out. The cache folder keeps the timings of all runs. What
    is not in it is measured, until the run has spent `BUDGET`. Where calls are so long that the rest of the budget does
    not suffice, fewer heads are measured: the work of attention is proportional to them. The first call of a backend
    may compile its kernels, which no budget can stop.

    Args:
        candidates: Names of backends in diffusers or `kernels`; the first is the reference.
        shapes: The call.
        run: Pays with its budget, and receives a warning if the file of the timings is damaged.
    """
    import torch

    if not any(map(in_fp8, candidates)):
        shapes = replace(shapes, norms=None)  # the others do not use them
    kernels.name(candidates[0])  # imports what calls the backends, before time is measured
    payer = present(run)
    tried = [b for b in candidates if b == candidates[0] or not shapes.masked or takes_masks(b)]
    case = case_of(tried, shapes)
    try:
        timings = dict(choice_files.read(case))
    except UnreadableFile as error:
        run.warn(f"{error}; the attention backends are measured again")
        timings = {}
    if timings.keys() >= set(tried):
        return _choice(timings, 0.0, ())
    if shapes.device.type == "cuda":
        torch.cuda.synchronize(shapes.device)  # the call before this may still be at work, and its time is no cost
    with exclusive():  # a thread that compiles kernels would delay what is timed
        began, budget = perf_counter(), BUDGET - _spent.get(payer, 0.0)
        if budget > 0:
            measure_all(tried, shapes, timings, began + budget)
        seconds = perf_counter() - began
    _spent[payer] = _spent.get(payer, 0.0) + seconds
    if timings:
        choice_files.write(case, timings)
    else:
        timings[tried[0]] = None
    return _choice(timings, seconds, tuple(b for b in tried if b not in timings))


def _choice(timings: dict[str, float | None], seconds: float, left: tuple[str, ...]) -> Choice:
    """The fastest of the backends that were timed; the first if none was."""
    good = {name: spent for name, spent in timings.items() if spent is not None}
    return Choice(min(good, key=lambda b: good[b]) if good else next(iter(timings)), good, seconds, left)


def _workflow_name(backend: str) -> str:
    """The name in workflow files of a diffusers backend."""
    from .backends import named

    found = named(backend)
    return backend if found is None else found.title
