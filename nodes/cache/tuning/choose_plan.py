"""Choose the plan with the fewest computed steps that keeps a PSNR. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .step_plan import StepPlan


def choose_plan(plans: Mapping[int, StepPlan], psnr: float, kept: Callable[[StepPlan], float]) -> StepPlan | None:
    """Find the cheapest plan by halving: more computed steps keep more, apart from noise.

    Args:
        plans: A plan for each number of computed steps.
        psnr: The PSNR in dB.
        kept: Runs clips with a plan, and gives the PSNR that it keeps. This is slow, so it is called for few plans.

    Returns:
        The plan; None if no plan that was tried keeps the PSNR, but the one that computes every step.
    """
    counts = sorted(count for count, plan in plans.items() if "0" in plan.mask)
    low, high, best = 0, len(counts), None
    while low < high:
        middle = (low + high) // 2
        plan = plans[counts[middle]]
        if kept(plan) >= psnr:
            best, high = plan, middle
        else:
            low = middle + 1
    return best


def most_tried(steps: int) -> int:
    """The most plans that `choose_plan` tries for a schedule of `steps` steps."""
    return (steps - 1).bit_length()
