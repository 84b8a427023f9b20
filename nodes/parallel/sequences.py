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
    from ..models.model import Model
    from .cut_blocks import CutSequence, CutTransformer

WHOLE = Diagnostic(
    "unsupported",
    "the sequence cannot be cut in a transformer that is compiled as a whole",
    "model",
    help="set `region: blocks` of model.compile",
)
LIBRARY = Diagnostic(
    "unsupported",
    "cache.library calls the blocks itself, so that the sequence cannot be cut",
    "gate",
    help="choose another cache gate, or cut branches alone: `--parallel branches=2`",
)
MEASURED = Diagnostic(
    "unsupported",
    "a measurement of cache gates runs in one process, not in a cut sequence",
    help="leave `--parallel` out",
)


def of(run: Run, model: Model, transformer: Any) -> CutSequence | None:
    """The sequence that the processes of a run compute together; None if each process computes whole ones.

    Raises:
        NodeError: If the transformer's sequence cannot be cut so.
    """
    mesh = run.processes.mesh
    if mesh.sequence == 1:
        return None
    compiled = any(
        getattr(transform, "region", None) == "whole" and transform.component == model.name("transformer")
        for transform in model.transforms
    )
    for found in problems(mesh, transformer.config, compiled_whole=compiled):
        raise NodeError(found)
    if run.options.get("calibrate") or run.options.get("tune"):
        raise NodeError(MEASURED)
    from .cut_blocks import CutSequence
    from .sequence_group import sequence_group

    group = sequence_group(run.processes)
    assert group is not None, "the mesh says so"
    run.detail(sequence=f"cut over {mesh.sequence} processes ({mesh})")
    return CutSequence(group)


def cut(transformer: Any, family: Family, sequence: CutSequence) -> CutTransformer:
    """The transformer that computes the part of this process."""
    from .cut_blocks import CutTransformer

    return CutTransformer(transformer, family, sequence)


def problems(
    mesh: Mesh, config: Mapping[str, Any], *, compiled_whole: bool = False, library: bool = False
) -> Iterator[Diagnostic]:
    """Reasons why a transformer's sequence cannot be cut over a mesh.

    Args:
        mesh: The processes.
        config: Configuration of the transformer; empty if unknown.
        compiled_whole: Whether torch compiles the whole transformer.
        library: Whether the cache-dit package controls its blocks.
    """
    if mesh.sequence == 1:
        return
    heads = config.get("num_attention_heads", config.get("n_heads"))
    if heads is not None and mesh.ulysses > heads:
        yield Diagnostic(
            "unsupported",
            f"`ulysses={mesh.ulysses}` needs as many attention heads, and this transformer has {heads}",
            "model",
            help=f"write at most `ulysses={heads}`, and cut further with `ring`",
        )
    if compiled_whole:
        yield WHOLE
    if library:
        yield LIBRARY
