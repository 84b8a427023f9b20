"""`model.compile`: the transformer through torch.compile."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any, ClassVar, Literal

from ...graph.node import NodeError, Problem, Reads, Run, Shares, node
from . import transforms
from .backends import gpu
from .model import Model
from .transforms import Denoiser
from .views import entrance


@dataclass(frozen=True)
class Compile:
    """The transform: torch.compile on the repeated blocks of a component, or on its whole forward."""

    kind: ClassVar[str] = "compile"

    component: str
    region: str
    mode: str
    dynamic: bool | None

    def apply(self, module: Any, run: Run) -> None:
        import torch

        options: dict[str, Any] = {"mode": self.mode, "dynamic": self.dynamic}
        door = entrance(module)
        if self.region == "blocks":
            try:
                module.compile_repeated_blocks(**options)
            except (ValueError, AttributeError) as error:
                raise NodeError(
                    f"{type(module).__name__} does not say which of its blocks repeat", help="set region: whole"
                ) from error
        else:
            door.inner = torch.compile(door.inner, **options)
        door.layers.append(_Watch(run).around)


class _Watch:
    """Tells what of the calls of a view was compiling."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seconds = 0.0

    def around(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with compiling() as seconds, _all_compiled():
            result = call(*args, **kwargs)
        if seconds():
            self.seconds += seconds()
            self.run.detail(compile_seconds=round(self.seconds, 3))
        return result


@contextmanager
def compiling() -> Iterator[Callable[[], float]]:
    """Measure how long torch compiles inside; what is yielded tells the seconds so far."""
    from torch._dynamo.callback import callback_handler

    spent = [0.0]
    began: list[float] = []

    def start(_: Any) -> None:
        began.append(perf_counter())

    def end(_: Any) -> None:
        if began:
            spent[0] += perf_counter() - began.pop()

    callback_handler.register_start_callback(start)
    callback_handler.register_end_callback(end)
    try:
        with warnings.catch_warnings():
            # A hint for float32 on tensor cores, which would change the result.
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            yield lambda: spent[0]
    finally:
        callback_handler.remove_start_callback(start)
        callback_handler.remove_end_callback(end)


@contextmanager
def _all_compiled() -> Iterator[None]:
    """Compile whatever is called inside, for however many sizes.

    Left to itself, torch compiles one function for 8 sizes (`recompile_limit`; all values of a model's class share
    them) and runs every further one uncompiled. Its limit on what it keeps in a process (256) stays, as an error.
    The settings are set by hand since `config.patch` takes a third of a millisecond, at each call.
    """
    from torch._dynamo import config
    from torch._dynamo.exc import FailOnRecompileLimitHit

    before = config.recompile_limit, config.fail_on_recompile_limit_hit
    config.recompile_limit, config.fail_on_recompile_limit_hit = config.accumulated_recompile_limit, True
    try:
        yield
    except FailOnRecompileLimitHit as error:
        raise NodeError(
            f"torch has compiled this for {config.accumulated_recompile_limit} sizes, the most in one process",
            help="set `dynamic: true` of model.compile: one for all sizes",
        ) from error
    finally:
        config.recompile_limit, config.fail_on_recompile_limit_hit = before


def _check(**known: Any) -> Iterator[Problem]:
    yield from transforms.problems("compile", **known)
    lacking = _lacking(gpu() is not None)
    if lacking is not None and "model" in known:
        yield Problem("unavailable", "model", *lacking)


def _lacking(on_gpu: bool) -> tuple[str, str] | None:
    """What torch.compile lacks on this machine, and how to get it."""
    if on_gpu:
        if importlib.util.find_spec("triton") is None:
            return "compiling for a GPU needs the package triton, which is not installed", "pip install triton"
        return None
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    if any(shutil.which(name) for name in compilers if name):
        return None
    return "compiling for a CPU needs a C++ compiler, and there is none", "install g++ or clang++, or name one in CXX"


def _describe(**known: Any) -> dict[str, Any]:
    made = transforms.described("compile", **known)
    if not made or "component" not in known or known.get("region") != "whole":
        return made
    return {**made, "whole": [*made.get("whole", []), transforms.repository_name(made, known["component"])]}


@node("model.compile", describe=_describe, check=_check)
def compile(
    run: Run,
    model: Annotated[Model, Reads(), Shares()],
    *,
    region: Literal["blocks", "whole"] = "blocks",
    mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default",
    dynamic: bool | None = False,
    component: Denoiser = "transformer",
) -> Model:
    """Compile the transformer with torch.compile, when it is first called.

    Only this value of the model is compiled. Results differ from the ordinary ones by rounding. Compiling takes half
    a minute and more; what of the calls through this value was compiling so far stands in the details of the node
    that called the transformer, as `compile_seconds`. It needs a C++ compiler on a CPU, and Triton on a GPU.

    Sizes are those of all that goes into a block: width, height and frames, the batch, and the length of the text,
    which may be another one for each prompt. Where batched guidance ends before the last step (`start`, `stop` of
    cfg.split), the batch changes, and the rest of the steps has another size.

    Args:
        model: The model; adapters and the choice of attention come before.
        region: `blocks` compiles the block that repeats once (`compile_repeated_blocks` of diffusers); `whole` the
            whole transformer at once, which takes longer.
        mode: Mode of torch.compile. `reduce-overhead` and `max-autotune` record CUDA graphs.
        dynamic: Compile for any size (torch takes a batch of 1 apart in any case): false compiles anew for each, null
            lets torch decide when a size changes.
        component: The transformer to compile; `transformer_2` is the second expert of Wan 2.2.

    Returns:
        The model with that transformer compiled.

    Raises:
        NodeError: If it is compiled already, its class does not name its repeated blocks, or there is no compiler.
    """
    lacking = _lacking(run.device.startswith("cuda"))
    if lacking is not None and not run.planning:
        raise NodeError(lacking[0], help=lacking[1])
    name, _ = transforms.target(model, component)
    run.detail(compile=f"{region}, {mode}")
    return model.transformed(Compile(name, region, mode, dynamic))
