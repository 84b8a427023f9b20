"""Times attention backends on the shapes of the model's own calls, and chooses the fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ....graph.contract.node import Run
from ....graph.contract.process_state import exclusive
from ...support.work_meter import uncounted
from ..memory.component_views import entrance
from . import kernels
from .processors import choose

if TYPE_CHECKING:
    import torch

REPEATS = 3
CALLS = 4
"""Calls in one timing. As in a run, the CPU prepares the next call while the GPU still works."""
TOLERANCE = 2.0**-5
"""Largest allowed difference from SDPA, relative to SDPA's largest value. Two bfloat16 roundings are 2^-7. A backend
with a larger difference computes another function."""


@dataclass(frozen=True)
class Shapes:
    """The largest attention call of a forward pass: shapes of queries and keys, [B, tokens, heads, width].

    `masked` is true if any attention call of the pass had a mask.
    """

    query: tuple[int, ...]
    key: tuple[int, ...]
    masked: bool
    dtype: torch.dtype
    device: torch.device


Timings = dict[str, float]
_REMEMBERED: dict[tuple[Any, ...], tuple[str, Timings]] = {}


class Tuner:
    """Observes the first call of a view for each shape, and sets the fastest backend for later calls.

    Args:
        view: The module; its attention uses the first candidate.
        candidates: Names of backends in diffusers or `kernels`; the first is the reference.
        run: Receives the choice and the timings, as details of the node that calls the view.
    """

    def __init__(self, view: Any, candidates: Sequence[str], run: Run) -> None:
        self.view, self.candidates, self.run = view, tuple(candidates), run
        self.chosen: dict[tuple[Any, ...], str] = {}
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
                self.chosen[key] = earlier
                self.run.chose(name, earlier)
                self.run.detail(attention=_workflow_name(earlier))
        if key in self.chosen:
            self.use(self.chosen[key])
            return call(*args, **kwargs)
        self.use(self.candidates[0])
        # The stance is one for all threads.
        with exclusive(), watching() as seen, torch.compiler.set_stance("force_eager"):
            result = call(*args, **kwargs)
        largest = seen()
        if largest is None:
            self.chosen[key] = self.candidates[0]
            self.run.chose(name, self.chosen[key])
            return result
        with uncounted():
            self.chosen[key], timings = fastest(self.candidates, largest)
        self.use(self.chosen[key])
        self.run.chose(name, self.chosen[key])
        self.run.detail(
            attention=_workflow_name(self.chosen[key]),
            attention_milliseconds={_workflow_name(n): round(1e3 * s, 4) for n, s in timings.items()},
        )
        return result

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

    found: list[Shapes] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is torch.nn.functional.scaled_dot_product_attention:
                given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
                query, key = (given[name].transpose(1, 2) for name in ("query", "key"))
                masked = given.get("attn_mask") is not None
                found.append(Shapes(tuple(query.shape), tuple(key.shape), masked, query.dtype, query.device))
            return func(*args, **kwargs)

    def largest() -> Shapes | None:
        if not found:
            return None
        most = max(found, key=lambda s: s.query[0] * s.query[1] * s.key[1] * s.query[2])
        return Shapes(most.query, most.key, any(s.masked for s in found), most.dtype, most.device)

    with Watch():
        yield largest


def fastest(candidates: Sequence[str], shapes: Shapes) -> tuple[str, Timings]:
    """Find the fastest backend that agrees with the first. Also returns seconds per call of all backends that agree.

    If a call had a mask, backends that refuse masks are left out. The process remembers the result.
    """
    import torch

    name = torch.cuda.get_device_name(shapes.device) if shapes.device.type == "cuda" else shapes.device.type
    key = (name, shapes, tuple(candidates))
    if key not in _REMEMBERED:
        generator = torch.Generator(shapes.device).manual_seed(0)

        def normal(size: tuple[int, ...]) -> torch.Tensor:
            return torch.randn(size, generator=generator, dtype=shapes.dtype, device=shapes.device)

        query, keys, values = normal(shapes.query), normal(shapes.key), normal(shapes.key)
        reference = attend(candidates[0], query, keys, values)
        timings = {}
        for backend in candidates:
            if backend != candidates[0] and shapes.masked and not takes_masks(backend):
                continue
            try:
                result = attend(backend, query, keys, values)
                agrees = bool((result - reference).abs().max() <= TOLERANCE * reference.abs().max())
                if agrees:
                    timings[backend] = measure(lambda b=backend: attend(b, query, keys, values), shapes.device)  # type: ignore[misc]
            except Exception:
                continue  # `auto` chooses among the backends that work; the reported timings list them
        _REMEMBERED[key] = (min(timings, key=lambda b: timings[b]), timings)
    return _REMEMBERED[key]


def attend(backend: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Call one backend through diffusers' dispatch. All tensors are [B, tokens, heads, width]."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    result = dispatch_attention_fn(query, key, value, backend=kernels.name(backend))
    return result[0] if isinstance(result, tuple) else result


def measure(call: Callable[[], Any], device: torch.device) -> float:
    """Measure the seconds for one call.

    After one warm-up call, each of `REPEATS` measurements averages `CALLS` calls. The result is the smallest average.
    """
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    call()
    seconds = []
    for _ in range(REPEATS):
        wait()
        began = perf_counter()
        for _ in range(CALLS):
            call()
        wait()
        seconds.append((perf_counter() - began) / CALLS)
    return min(seconds)


def takes_masks(backend: str) -> bool:
    from .backends import named

    found = named(backend)
    return found is None or found.masks == "applied"


def _workflow_name(backend: str) -> str:
    """The name in workflow files of a diffusers backend."""
    from .backends import named

    found = named(backend)
    return backend if found is None else found.name
