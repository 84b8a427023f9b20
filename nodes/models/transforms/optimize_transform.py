"""The transforms of `model.optimize`: a transformer with rebuilt blocks and the fastest attention, and a VAE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ....graph.contract.node import Run
from ...support import cost_meter
from ..attention.backend_table import FLASH_3_FP8
from ..attention.processors import choose
from ..memory.component_views import entrance
from . import compiler_check

if TYPE_CHECKING:
    from ..memory.transform_order import Transform
    from ..model import Model

WIDE = 1024
"""Least width of a transformer whose blocks are rebuilt. Below, a step is bound by the host's calls, not by the GPU."""

REBUILT = (
    "FluxTransformer2DModel",
    "HunyuanVideoTransformer3DModel",
    "QwenImageTransformer2DModel",
    "WanTransformer3DModel",
    "ZImageTransformer2DModel",
)
"""Transformers whose blocks `nodes/models/rebuilt` has."""


COMPILED = "compiled blocks"
"""The step of a transformer whose blocks cannot be rebuilt, in the details of a node."""

DECODERS = ("AutoencoderKLHunyuanVideo", "AutoencoderKLWan")
"""VAEs whose decoders `nodes/models/decoders` has."""

ENCODERS = ("AutoencoderKLWan",)
"""Those of which it has the encoder too."""


@dataclass(frozen=True)
class Optimize:
    """The transform: the choices of one level for a component.

    Attributes:
        component: Name in the repository.
        rebuilt: Whether the blocks are rebuilt.
        candidates: Attention backends, by their names in diffusers or `kernels`; the fastest is used. Empty if another
            transform chooses.
        compiled: Whether torch compiles the blocks where they are not rebuilt. Blocks that cannot be rebuilt are
            compiled too, and those that cannot be compiled stay as they are.
    """

    kind: ClassVar[str] = "optimize"
    planned: ClassVar[bool] = True

    component: str
    rebuilt: bool
    candidates: tuple[str, ...]
    compiled: bool = False

    def before(self, other: Transform) -> Optimize:
        """The transform where another one follows it: a later choice of the same thing replaces this one."""
        if other.kind == "attention":
            return replace(self, candidates=())
        leaves = other.kind == "offload" and getattr(other, "granularity", None) == "leaf"
        if other.kind == "compile" or leaves:
            # torch compiles diffusers' own blocks. Offloaded leaves are on the device only while they are called.
            return replace(self, rebuilt=False, compiled=False)
        # Hooks of offloading would break the graphs of compiled blocks.
        return replace(self, compiled=False) if other.kind == "offload" else self

    def replaced(self, other: Transform) -> dict[str, str]:
        """The detail `step` if another transform replaces the choice (see `before`); else none."""
        changed = self.before(other)
        if self.rebuilt and not changed.rebuilt:
            ours = "rebuilt blocks"
        elif self.compiled and not self.rebuilt and other.kind == "offload":
            ours = COMPILED
        else:
            return {}
        if other.kind == "compile":
            return {"step": f"diffusers' own blocks, compiled, in place of {ours}"}
        return {"step": f"eager, in place of {ours}: {self.component} is offloaded"}

    def prepare(self, model: Model, part: str, run: Run) -> None:
        """Build the kernels of the rebuilt blocks in advance."""
        if self.rebuilt:
            from . import kernel_preparation

            backends = {name for each in model.recipe(part) for name in getattr(each, "candidates", ())}
            work = kernel_preparation.denoised(backends, _width(model.config(part)) or WIDE)
            kernel_preparation.prepare(model, part, run, work)

    def apply(self, module: Any, run: Run) -> None:
        if FLASH_3_FP8.library in self.candidates and run.planning:
            entrance(module).layers.append(_in_eight_bits)
        if self.candidates and not run.planning:
            choose(module, self.candidates[0])
        if len(self.candidates) > 1 and not run.planning:
            from ..attention.tuning import Tuner

            Tuner(module, self.candidates, run)
        if self.rebuilt:
            reason = _rebuild(module, run)
            if reason is not None:
                _step_down(module, run, reason, self.compiled)
        elif self.compiled:
            _step_down(module, run, None, True)


def _in_eight_bits(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    with cost_meter.eight_bit_attention():
        return call(*arguments, **named)


def _rebuild(module: Any, run: Run) -> str | None:
    """Rebuild the blocks of a view. Returns the reason if it keeps its own."""
    from ..rebuilt.rebuilding import rebuild
    from ..row_kernels import kernel_trial

    first = next(module.parameters())
    # The dtype of the rows. Wan's first parameter is one that stays in float32.
    reason = kernel_trial.problem(run.device, module.dtype, _width(module.config) or WIDE)
    if reason is not None:
        return reason
    # Offloaded weights stay where they are: each moves to the device alone.
    count = rebuild(module, join=first.is_cuda)
    run.detail(rebuilt_blocks=count)
    return None if count else "its blocks differ from those that can be rebuilt"


def _step_down(module: Any, run: Run, reason: str | None, compiles: bool) -> None:
    """Take the next best step: compiled blocks, or else diffusers' own. Says so, with the reasons."""
    from .compiled_blocks import compile_blocks

    lacking = compile_blocks(module, run) if compiles else None
    if compiles and lacking is None:
        if reason is not None:
            run.detail(step=f"{COMPILED}: {reason}")
    else:
        run.detail(step=f"eager: {'; '.join(each for each in (reason, lacking) if each)}")


@dataclass(frozen=True)
class FastDecoder:
    """The transform of a VAE: its decoder is rebuilt, and its encoder if there is one.

    Attributes:
        component: Name in the repository.
        rebuilt: Whether they are rebuilt. An offloaded VAE keeps its own decoder and encoder, which move its weights.
        encodes: Whether the VAE's encoder is rebuilt too.
    """

    kind: ClassVar[str] = "optimize"
    planned: ClassVar[bool] = True

    component: str
    rebuilt: bool = True
    encodes: bool = False

    def before(self, other: Transform) -> FastDecoder:
        """The transform where another one follows it."""
        return replace(self, rebuilt=False) if other.kind == "offload" else self

    def replaced(self, other: Transform) -> dict[str, str]:
        """The details `decode` and `encode` if another transform replaces the choice (see `before`); else none."""
        if not self.rebuilt or self.before(other).rebuilt:
            return {}
        return self._said("eager: the VAE is offloaded")

    def _said(self, said: str) -> dict[str, str]:
        return {"decode": said, "encode": said} if self.encodes else {"decode": said}

    def prepare(self, model: Model, part: str, run: Run) -> None:
        """Build the kernels of the rebuilt decoder in advance."""
        if self.rebuilt:
            from . import kernel_preparation

            kernel_preparation.prepare(model, part, run, kernel_preparation.decoded)

    def apply(self, module: Any, run: Run) -> None:
        if self.rebuilt:
            from ..decoders import decoder_trial
            from ..decoders.rebuilt_vae import rebuild, refused_kernels

            reason = decoder_trial.problem(module, run.device) or rebuild(module, run.warn)
            said = "rebuilt" if reason is None else f"eager: {reason}"
            if reason is None and (refused := refused_kernels(module, run.device)) is not None:
                said += f", but cuDNN computes convolutions of {refused}"
            run.detail(**self._said(said))


def no_fast_decoder(class_name: str, device: str, kernels: bool) -> str | None:
    """The reason why a VAE's decoder is not rebuilt; None if it is. See `not_rebuilt`."""
    if not device.startswith("cuda"):
        return "the run is on a CPU"
    if class_name not in DECODERS:
        return f"{class_name} has no rebuilt decoder"
    return None if kernels else "the package triton is not installed"


def not_rebuilt(class_name: str, config: Mapping[str, Any], device: str, kernels: bool) -> str | None:
    """The reason why a transformer's blocks are not rebuilt; None if they are.

    Args:
        class_name: Class of the transformer.
        config: Configuration of the transformer.
        device: Device of the run.
        kernels: Whether the package triton is installed.
    """
    if not device.startswith("cuda"):
        return "the run is on a CPU"
    if class_name not in REBUILT:
        return f"{class_name} has no rebuilt blocks"
    if not kernels:
        return "the package triton is not installed"
    width = _width(config)
    if width is not None and width < WIDE:
        return f"a width of {width} is too small to gain by it"
    return None


def not_compiled(config: Mapping[str, Any], device: str) -> str | None:
    """The reason why blocks that are not rebuilt are not compiled either; empty if the first reason is enough."""
    width = _width(config)
    if not device.startswith("cuda") or (width is not None and width < WIDE):
        return ""  # there is nothing to gain
    lacking = compiler_check.lacking(True)
    return None if lacking is None else lacking.message


def _width(config: Mapping[str, Any]) -> int | None:
    """Width of a transformer; None if its configuration does not give it."""
    if "dim" in config:  # Z-Image
        return int(config["dim"])
    if "num_attention_heads" in config and "attention_head_dim" in config:
        return int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    return None
