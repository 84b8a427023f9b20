"""The sequence that several processes compute together, and what they cannot compute. Torch-free at import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ...graph.contract.diagnostics import Diagnostic
from ...graph.contract.errors import NodeError
from ...graph.contract.node import Run
from ...graph.contract.processes import Mesh

if TYPE_CHECKING:
    from ..families.base import Family
    from .cut_blocks import CutSequence, CutTransformer


def of(run: Run, transformer: Any) -> CutSequence | None:
    """The sequence that the processes of a run compute together; None if each process computes whole ones.

    Raises:
        NodeError: If the transformer's sequence cannot be cut so.
    """
    mesh = run.processes.mesh
    if mesh.sequence == 1:
        return None
    for found in problems(mesh, transformer.config):
        raise NodeError(found)
    from .cut_blocks import CutSequence
    from .sequence_group import sequence_group

    run.detail(sequence=f"cut over {mesh.sequence} processes")
    return CutSequence(sequence_group(run.processes))


def cut(transformer: Any, family: Family, sequence: CutSequence) -> CutTransformer:
    """The transformer that computes the part of this process."""
    from .cut_blocks import CutTransformer

    return CutTransformer(transformer, family, sequence)


def problems(mesh: Mesh, config: Mapping[str, Any]) -> Iterator[Diagnostic]:
    """Reasons why a transformer's sequence cannot be cut over a mesh.

    Args:
        mesh: The processes.
        config: Configuration of the transformer; empty if unknown.
    """
    heads = config.get("num_attention_heads", config.get("n_heads"))
    if heads is not None and mesh.ulysses > heads:
        message = f"`ulysses={mesh.ulysses}` needs as many attention heads, and this transformer has {heads}"
        help = f"write at most `ulysses={heads}`, and cut further with `ring`"
        yield Diagnostic("unsupported", message, "model", help=help)
