"""expected_results: the limits of `expect`, and whether a run can be compared with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ...contract.diagnostics import Diagnostic
from ...contract.ports import Type
from ...contract.store_mark import in_store, stored_problem
from ...contract.suggestions import did_you_mean
from ...contract.yaml_reader import Value
from ...language.document import Document
from ...language.document_parts import PsnrPart
from ..ir import Graph
from ..passes.fold import locate
from ..plan import Expected, ExpectedPsnr
from ..types import Types

CARRIED = "the output is not compared with it; the path is relative to the current folder"


def expected_results(
    document: Document, graph: Graph, carried: bool = False
) -> tuple[list[Diagnostic], Expected | None]:
    """Check the `expect` of a file. The limits are None if there is none.

    Args:
        document: The file.
        graph: Its resolved graph, without cycles.
        carried: The file stands in a recipe. It was checked where it stood; a reference that is not here is a warning,
            and there is no limit for it.
    """
    part, psnr = document.expect, document.psnr
    if part is None:
        return [], None
    limits = [("seconds", part.seconds), ("peak_gib", part.peak_gib), ("min", psnr.min if psnr is not None else None)]
    problems = [d for name, value in limits if value is not None for d in _limit(name, value)]
    reference = None
    if psnr is not None:
        problems += _output(psnr, document, graph)
        reference = Path(locate(psnr.reference.data, document.folder, may_be_name=False))
        missing = list(_file(psnr.reference, reference))
        reference = None if carried and missing else reference
        problems += [replace(d, severity="warning", help=CARRIED) for d in missing] if carried else missing
    seconds, peak, least = (None if value is None else float(value.data) for _, value in limits)
    wanted = None
    if psnr is not None and reference is not None and least is not None:
        wanted = ExpectedPsnr(least, psnr.output.data, reference, psnr.reference.data)
    found = Expected(seconds, peak, wanted)
    return problems, None if found == Expected() else found


def _limit(name: str, value: Value) -> Iterator[Diagnostic]:
    if not 0 < value.data < math.inf:
        yield Diagnostic("bad-value", f"`{name}` of `expect` must be a finite number above 0", value.span)


def _output(psnr: PsnrPart, document: Document, graph: Graph) -> Iterator[Diagnostic]:
    name = psnr.output.data.removeprefix("$")
    if name != psnr.output.data or name not in document.outputs:
        known = ", ".join(f"`{each}`" for each in document.outputs) or "none"
        help = f"write `{name}`" if name in document.outputs else did_you_mean(name, document.outputs)
        message = f"this workflow has no output `{psnr.output.data}`"
        yield Diagnostic("bad-value", message, psnr.output.span, help=help or f"outputs: {known}")
        return
    arg = graph.outputs.get(name)
    if arg is None:
        return  # its problem is reported where it stands
    type = Types(graph).of(arg.source)
    if not _may_be_file(type):
        message = f"output `{name}` is {type}, not a file of a picture or a clip"
        yield Diagnostic("bad-value", message, psnr.output.span, help="name the output of a node that saves")


def _may_be_file(type: Type) -> bool:
    """Whether a value can be a file: a path, or a port with one. One file of a list is compared too."""
    if type.kind == "list" and type.item is not None:
        return _may_be_file(type.item)
    if type.kind == "port":
        return "path" in getattr(type.cls, "__dataclass_fields__", {})
    return type.kind in ("path", "unknown", "var")


def _file(value: Value, path: Path) -> Iterator[Diagnostic]:
    try:
        if in_store(path):
            yield Diagnostic("bad-value", f"reference {stored_problem(path)}", value.span)
            return
        if path.is_file():
            return
        problem = "is a folder" if path.exists() else "does not exist"
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    help = "the path is relative to this file; the reference is a picture or clip that an earlier run saved"
    yield Diagnostic("bad-value", f"reference `{value.data}` {problem}", value.span, help=help)
