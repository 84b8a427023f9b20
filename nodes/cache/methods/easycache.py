"""`cache.easycache`: reuse while the model's input hardly changes."""

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
    """Reuse the model's whole output while its input hardly changes (EasyCache, 2507.02860).

    The output is assumed to change in proportion to the input. The factor comes from the last computed steps. While the
    sum of the estimated changes is below `threshold`, the model's last residual is added to its input, and the
    transformer does not run. The first and the last step are computed. The gate works with every model and needs no
    table.

    Each guidance branch decides for itself. In EasyCache's own code, the positive branch decides for both.

    Args:
        threshold: Largest sum of the estimated relative changes (thresh; EasyCache's own code uses 0.05 for Wan 2.1 and
            0.025 for HunyuanVideo).
        warmup_steps: Number of first steps that are computed (ret_steps; EasyCache's own code uses 10 of 50 for Wan 2.1
            and 5 for HunyuanVideo).
        max_consecutive: Largest number of reused steps in a row.
        max_reused: Largest number of reused steps.
        order: Order of the Taylor expansion that replaces the model's residual; 0 is no expansion.

    Returns:
        The description of the gate.

    Raises:
        NodeError: If the parameters conflict.
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
