"""`model.quantize`: linear layers of a transformer in 8 bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.node import Reads, Run, Shares, node
from ...value_facts import ModelFacts
from ..model import Model
from ..transforms import quantize_choice, transform_checks
from ..transforms.quantize_transform import Quantize
from ..transforms.sensitive_layers import LAYERS
from ..transforms.transform_checks import Denoiser


@dataclass(frozen=True, kw_only=True)
class ModelQuantizeFacts(transform_checks.TransformFacts):
    """Facts of `model.quantize`."""

    format: str | None = None


def _check(facts: ModelQuantizeFacts) -> Iterator[Diagnostic]:
    yield from transform_checks.problems("quantize", facts)
    kind = facts.model.class_name(facts.component) if facts.component is not None else ""
    if kind and kind not in LAYERS:
        yield quantize_choice.no_table(kind)


def _describe(facts: ModelQuantizeFacts) -> ModelFacts:
    return facts.model.transformed("quantize", facts.component)


def _own(facts: ModelQuantizeFacts) -> tuple[str, ...]:
    """The transformer, whose weights the output does not share."""
    return () if facts.component is None else (facts.component,)


@node("model.quantize", describe=_describe, check=_check, own=_own)
def quantize(
    run: Run,
    model: Annotated[Model, Reads(), Shares()],
    *,
    format: Literal["fp8", "int8"] = "fp8",
    component: Denoiser = "transformer",
) -> Model:
    """Keep weights of the transformer in 8 bits, and multiply in 8 bits.

    Each row of a weight has a scale of its own. Each row of a layer's input gets a scale at the call. This halves the
    memory of these weights in bfloat16, and changes the results: docs/speed.md says by how much.

    Only linear layers of the repeated blocks are quantised. Embeddings, norms, modulation and final layers keep the
    dtype of the model, and so do the layers that published work found sensitive. The details of this node name them,
    the layers that have no fitting width, and how products are computed: on a card of compute capability 8.9 or higher
    `torch._scaled_mm` multiplies fp8, and `torch._int_mm` multiplies int8. Elsewhere the same numbers are multiplied as
    floats, which saves memory and no time.

    Args:
        model: The model. Adapters come before this node.
        format: `fp8` has four bits of exponent and three of mantissa (e4m3). `int8` has whole numbers up to 127.
        component: The transformer. `transformer_2` is the second expert of Wan 2.2, which needs a node of its own.

    Returns:
        The model with the quantised transformer; the input model keeps its weights.

    Raises:
        NodeError: If the model has no such component, it is already quantised, its class has no table of layers, or it
            went through a transform that must come later.
    """
    name, _ = transform_checks.target(model, component)
    run.detail(**quantize_choice.details(model, name, format, run))
    return model.transformed(Quantize(name, format), run)
