"""files: check that each effect writes its own file inside the run's folder, if the name is known."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Any

from ...contract.diagnostics import Diagnostic, Related
from ..ir import BROKEN, Arg, Call, Const, Format, Graph, Index, Loop, Ref, Source, Var, leaves
from ..passes.fold import format_text


def files(graph: Graph) -> Iterator[Diagnostic]:
    """Report paths outside the run's folder, and paths that two effects or two iterations of a loop have in common."""
    written: dict[str, tuple[Call, Arg]] = {}
    for item, around in graph.walk():
        if not isinstance(item, Call) or not item.type.effect:
            continue
        for name, parameter in item.type.inputs.items():
            if parameter.path != "write":
                continue
            arg = item.args.get(name) or Arg(Const(parameter.default), item.span)
            if arg.source is BROKEN or (isinstance(arg.source, Const) and not isinstance(arg.source.value, str)):
                arg = arg if arg.source is BROKEN else Arg(Const(_text(arg.source)), arg.span)
            if arg.source in (BROKEN, Const(None)):
                continue
            subject = f"`{name}` of {item.type.name}"
            if (reason := _impossible(arg.source)) is not None:
                yield Diagnostic("bad-value", f"{subject}: {reason}", arg.span)
            elif _outside(arg.source):
                help = "the path is relative to the run's folder; --out chooses that folder"
                yield Diagnostic("bad-value", f"{subject} lies outside the run's folder", arg.span, help=help)
            elif around:
                yield from _turns(subject, arg, around)
            elif isinstance(arg.source, Const):
                path = posixpath.normpath(str(arg.source.value))
                first, before = written.setdefault(path, (item, arg))
                if first is not item:
                    related = (Related(f"`{first.id}` writes it here", before.span),) if before.span else ()
                    message = f"`{first.id}` and `{item.id}` would both write {path}"
                    yield Diagnostic("bad-value", message, arg.span, related=related, help="give each its own path")


def _text(source: Source) -> Any:
    return str(source.value) if isinstance(source, Const) and source.value is not None else None


def _impossible(source: Source) -> str | None:
    """The problem with a name of a file; None if there is none."""
    text = str(source.value) if isinstance(source, Const) else ""
    if "\0" in text:
        return "a file name has no NUL character"
    longest = max((len(part.encode(errors="replace")) for part in text.split("/")), default=0)
    return f"a file name has at most 255 bytes, and this file name has {longest}" if longest > 255 else None


def _outside(source: Source) -> bool:
    """Whether a path lies outside the run's folder.

    Interpolated values cannot change the answer: they contain no separators.
    """
    if isinstance(source, Const):
        path = str(source.value)
    elif isinstance(source, Format):
        path = "".join(part if isinstance(part, str) else "x" for part in source.parts)
    else:
        return False
    path = posixpath.normpath(path)
    return path in (".", "..") or path.startswith(("/", "../"))


def _turns(subject: str, arg: Arg, around: tuple[Loop, ...]) -> Iterator[Diagnostic]:
    help = "put ${index} or a loop variable into the path"
    unchanged = _unchanged(arg.source, around)
    if unchanged is not None:
        yield Diagnostic("bad-value", f"{subject} is the same in every turn of loop `{unchanged}`", arg.span, help=help)
        return
    names: dict[str, int] = {}
    for turn, name in enumerate(_names(arg.source, around)):
        if name in names:
            message = f"{subject} is {name} in turn {names[name]} and again in turn {turn} of loop `{around[-1].id}`"
            yield Diagnostic("bad-value", message, arg.span, help="put ${index} into the path")
            return
        names[name] = turn


def _unchanged(source: Source, around: tuple[Loop, ...]) -> str | None:
    """The innermost loop whose iterations all have one path; None if there is none, or the path is not known."""
    found = list(leaves(source))
    if any(isinstance(leaf, Ref) and any(leaf.node.startswith(f"{loop.id}.") for loop in around) for leaf in found):
        return None
    # The path must change with every loop around it; otherwise an iteration overwrites the files of an earlier one.
    varied = {leaf.loop for leaf in found if isinstance(leaf, Var | Index)}
    return next((loop.id for loop in reversed(around) if loop.id not in varied), None)


def _names(source: Source, around: tuple[Loop, ...]) -> list[str]:
    """The paths of all iterations of a loop over lists in the file; empty if the paths are not known."""
    loop = around[-1]
    consts = {n: a.source.value for n, a in loop.over.items() if isinstance(a.source, Const)}
    lists = {n: value for n, value in consts.items() if isinstance(value, list)}
    read = [leaf for leaf in leaves(source) if not isinstance(leaf, Const)]
    known = all(isinstance(x, Index) or (isinstance(x, Var) and x.name in lists) for x in read)
    if len(around) > 1 or not known or not lists:
        return []

    def value(leaf: Source, turn: int) -> Any:
        if isinstance(leaf, Var):
            return lists[leaf.name][turn]
        return leaf.value if isinstance(leaf, Const) else turn

    turns = range(min(map(len, lists.values())))
    if isinstance(source, Format):
        texts = [[p if isinstance(p, str) else value(p, turn) for p in source.parts] for turn in turns]
        return [posixpath.normpath(format_text(source, text)) for text in texts]
    return [posixpath.normpath(str(value(source, turn))) for turn in turns] if isinstance(source, Var) else []
