"""The standard node library: everything that sgd knows about diffusion.

It imports `graph/contract/` and nothing else of `graph/`. Workflow files, the compiler and the command line belong to
`graph/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..graph.contract.diagnostics import Diagnostic
from ..graph.contract.errors import NodeError
from ..graph.contract.facts import UNKNOWN, Facts, NodeFacts, Unknown, require
from ..graph.contract.node import Passes, Reads, Run, Shares, State, node
from .support import planning_meter as planning

if TYPE_CHECKING:
    from ..graph.contract.calibration_protocol import Calibration

NODE_MODULES = (
    "models.nodes.model_load",
    "models.nodes.model_lora",
    "models.nodes.model_attention",
    "models.nodes.model_offload",
    "models.nodes.model_compile",
    "models.nodes.model_expert",
    "text",
    "latents",
    "schedule",
    "cfg",
    "denoiser",
    "vae",
    "video",
    "image",
    "image_condition",
    "metrics",
    "cache.methods.no_gate",
    "cache.methods.fora",
    "cache.methods.dbcache",
    "cache.methods.taylorseer",
    "cache.methods.scm",
    "cache.methods.teacache",
    "cache.methods.magcache",
    "cache.methods.easycache",
    "cache.methods.custom_gate",
    "cache.methods.cache_dit_options",
)


@contextmanager
def runtime(run: Run) -> Iterator[None]:
    """What surrounds a run that uses these nodes: gradients are off; while planning, attention is one operation.

    The libraries that every model needs are imported here, so that no node is charged for them.
    """
    import diffusers.utils.torch_utils  # noqa: F401
    import transformers  # noqa: F401

    with planning.runtime(run):
        yield


def doctor() -> dict[str, dict[str, str]]:
    """Facts about this machine, for `sgd doctor`."""
    from .library.machine_facts import doctor

    return doctor()


def report(record: Mapping[str, Any]) -> str:
    """What the table of a run says beside its nodes, for `sgd exec`: the decisions of cache gates."""
    from .cache.decisions_table import report

    return report(record)


def lighter(estimate: Mapping[str, Any]) -> list[str]:
    """What would make a plan fit the device that does not, for `sgd plan` and runs that failed for want of memory."""
    from .library.memory_advice import advice_for

    return advice_for(estimate)


def starter(source: str) -> tuple[str, str]:
    """Name and text of a first workflow for a model, for `sgd init`."""
    from .library.starter_workflow import starter

    return starter(source)


def calibrate(order: int) -> Calibration:
    """What `sgd calibrate` measures: the tables of cache gates, with polynomials of this order."""
    from .cache.calibration.measurements import Measurements

    return Measurements(order)


__all__ = [
    "NODE_MODULES",
    "UNKNOWN",
    "Diagnostic",
    "Facts",
    "NodeError",
    "NodeFacts",
    "Passes",
    "Reads",
    "Run",
    "Shares",
    "State",
    "Unknown",
    "calibrate",
    "doctor",
    "lighter",
    "node",
    "planning",
    "report",
    "require",
    "runtime",
    "starter",
]
