"""What several processes cannot compute together, known before a run. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from ....graph.contract.diagnostics import Diagnostic
from ....graph.contract.processes import Mesh


def mesh_problems(mesh: Mesh, running: int | None, batched: bool, whole: bool, library: bool) -> Iterator[Diagnostic]:
    """The reasons why a denoiser does not run on a mesh.

    Args:
        mesh: The mesh.
        running: The branches of guidance that run; None if it is not known.
        batched: Whether the workflow asks for both branches in one call.
        whole: Whether the transformer is compiled as a whole.
        library: Whether cache-dit decides.
    """
    code = "unsupported"
    if mesh.branches > 1 and running == 1:
        message = "one branch of guidance runs, so there is nothing for `branches=2` to compute at once"
        yield Diagnostic(code, message, "branches", help="raise the guidance scale, or leave `branches` out")
    if mesh.branches > 1 and batched:
        message = "`batched: true` of cfg.split puts both branches into one call, and `branches=2` divides them"
        yield Diagnostic(code, message, "branches", help="leave `batched` out, or `branches`")
    if whole:
        message = "several processes cannot compute a transformer that is compiled as a whole"
        yield Diagnostic(code, message, "model", help="compile its blocks: `mode: blocks` of model.compile")
    if library:
        message = "cache-dit decides for each process apart, so `cache.library` needs one process"
        yield Diagnostic(code, message, "gate", help="use another gate, such as cache.dbcache")
