"""`cache.easycache`: reuse while the model's input hardly moves."""

from __future__ import annotations

from ..gate import Gate, Limits
from .gate_node import gate_node
from .parameters import Count, Order, Threshold


@gate_node("cache.easycache")
def easycache(
    *,
    threshold: Threshold = 0.05,
    warmup_steps: Count = 10,
    max_consecutive: Count | None = None,
    max_reused: Count | None = None,
    order: Order = 0,
) -> Gate:
    """Reuse the model's whole answer while its input hardly moves (EasyCache, 2507.02860).

    The output is taken to change in proportion to the input, in the proportion seen at the last computed steps. While
    the estimated changes add up to less than `threshold`, the model's last residual is added to its input again and
    the transformer does not run at all. First and last steps are computed. Works with every model, without a table.

    Each guidance branch decides for itself; in the origin the positive one decides for both.

    Args:
        threshold: Largest sum of the estimated relative changes (thresh; the origin takes 0.05 for Wan 2.1 and
            0.025 for HunyuanVideo).
        warmup_steps: First steps that are computed (ret_steps; the origin takes 10 of 50 for Wan 2.1 and 5 for
            HunyuanVideo).
        max_consecutive: Longest run of reused steps.
        max_reused: Most reused steps.
        order: Order of the Taylor expansion in place of the model's residual; 0 is none.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters do not go together.
    """
    return Gate(
        "easycache",
        signal="model",
        rule="polynomial",
        threshold=threshold,
        coefficients=(1.0, 0.0),
        order=order,
        limits=Limits(warmup_steps=warmup_steps, max_consecutive=max_consecutive, max_reused=max_reused, last=True),
    )
