"""fold: known values become constants, paths become absolute, and null becomes the parameter's default."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...contract.node import Input as Parameter
from ...contract.ports import misfit
from ...contract.workflow_folders import bundled_path
from ...language.literals import normalise
from ..ir import BROKEN, Arg, Call, Const, Declared, Format, Graph, Input, Item, Items, Loop, Source, Var, rewrite

NAME = re.compile(r"(?P<owned>[\w-][\w.-]*/[\w-][\w.-]*)((?:/(?!\.\.?/)[^/\\]+)+\.[A-Za-z]\w*)?")
"""`owner/name`, or the name of a file in it."""


class PathText(str):
    """Text from a `path` input, relative to the folder of the file or command line that set the input."""


def fold(graph: Graph, values: Mapping[str, Const]) -> Graph:
    """Replace inputs by `values` (by input name), and compute every source that is then constant.

    Inputs without a value stay. A constant that does not fit its parameter stays unchanged, for the check.
    """

    def change(source: Source) -> Source:
        if isinstance(source, Input):
            return _path(values[source.name], graph.inputs[source.name]) if source.name in values else source
        if isinstance(source, Format):
            first = source.parts[0]
            from_input = isinstance(first, Const) and isinstance(first.value, PathText)
            if from_input:
                source = replace(source, base=first.base)  # type: ignore[union-attr]
            if all(isinstance(p, str | Const) for p in source.parts):
                text = format_text(source, [p.value if isinstance(p, Const) else p for p in source.parts])
                return Const(PathText(text) if from_input else text, source.base)
        if isinstance(source, Items) and all(isinstance(i, Const) for i in source.items):
            return _list([i for i in source.items if isinstance(i, Const)])
        return source

    return _parameters(rewrite(graph, change), {})


def _path(value: Const, declared: Declared) -> Const:
    if declared.type.kind != "path" or value.value is None:
        return value
    return replace(value, value=PathText(value.value))


def _list(items: list[Const]) -> Const:
    """Join constants to a list with one folder. A path from an input with another folder becomes absolute."""
    if any(i is BROKEN for i in items):
        return BROKEN
    bases = [i.base for i in items if i.base is not None and not isinstance(i.value, PathText)]
    base = bases[0] if bases else next((i.base for i in items), None)
    absolute = [
        str(locate(i.value, i.base, False)) if isinstance(i.value, PathText) and i.base != base else i.value
        for i in items
    ]
    return Const(absolute, base)


def _parameters(graph: Graph, bases: Mapping[Source, Path | None]) -> Graph:
    """Fold the arguments of calls. `bases` holds the folder of paths in each loop variable over literals."""
    items: dict[str, Item] = {}
    for id, item in graph.items.items():
        if isinstance(item, Loop):
            own: dict[Source, Path | None] = {
                Var(id, n): a.source.base for n, a in item.over.items() if isinstance(a.source, Const)
            }
            items[id] = replace(item, body=_parameters(item.body, {**bases, **own}))
            continue
        args = {n: _argument(item, item.type.inputs[n], _based(item, n, a, bases)) for n, a in item.args.items()}
        items[id] = replace(item, args={n: a for n, a in args.items() if a is not None})
    return replace(graph, items=items)


def _based(call: Call, name: str, arg: Arg, bases: Mapping[Source, Path | None]) -> Arg:
    """The argument. A loop variable that is read as a path gets the folder that it is relative to."""
    parameter = call.type.inputs[name]
    reads_path = parameter.path in ("read", "source") and parameter.type.kind != "list"
    if not reads_path or not isinstance(arg.source, Var) or bases.get(arg.source) is None:
        return arg
    return replace(arg, source=Format((arg.source,), base=bases[arg.source]))


def _argument(call: Call, parameter: Parameter, arg: Arg) -> Arg | None:
    if not isinstance(arg.source, Const) or arg.source is BROKEN:
        return arg
    value = arg.source.value
    if value is None:
        return arg if parameter.required else None
    if misfit(parameter.type, value) is not None:
        return arg
    value = normalise(parameter.type, value)
    if parameter.path in ("read", "source"):
        value = _each(value, lambda v: locate(v, arg.source.base, parameter.path == "source"))  # type: ignore[union-attr]
    return replace(arg, source=replace(arg.source, value=value))


def _each(value: Any, change: Any) -> Any:
    return [change(v) for v in value] if isinstance(value, list) else change(value)


def locate(text: str | Path, base: Path | None, may_be_name: bool) -> str | Path:
    """Make a path relative to `base` absolute. With `may_be_name`, the name of a repository is unchanged.

    `owner/name` is a name unless a file or folder of that name exists in `base`. `owner/name/path/file.suffix` is the
    name of a file unless it exists in `base`, or a folder `owner/name` does.
    `sgd:images/boat.png` is a file of an installed library.
    """
    bundled = bundled_path(str(text))
    if bundled is not None:
        return str(bundled.resolve()) if may_be_name else bundled
    path = Path(text)
    if str(text).startswith("~"):
        with suppress(RuntimeError):  # there is no such user
            path = path.expanduser()
    absolute = Path.cwd() / (base or "") / path
    if not may_be_name:
        return absolute
    exists, named = _exists(absolute), NAME.fullmatch(str(text))
    if named is not None and not exists and not _exists(Path.cwd() / (base or "") / named["owned"]):
        return str(text)
    return str(absolute.resolve()) if exists else os.path.abspath(absolute)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def format_text(source: Format, values: list[Any]) -> str:
    """Join literal parts and values; values in file names are made safe."""
    return "".join(
        literal if isinstance(literal, str) else (safe_name(as_text(value)) if source.safe else as_text(value))
        for literal, value in zip(source.parts, values, strict=True)
    )


def as_text(value: Any) -> str:
    """The text of a plain value inside a longer string."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "true", False: "false"}[value]
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def safe_name(text: str) -> str:
    """Text as part of a file name. Separators and characters that are special to shells or systems become hyphens.

    The result has at most 80 bytes, because file systems allow 255 bytes for a whole name. Long text is cut and ends
    in a hash, so that two long texts have two names.
    """
    safe = re.sub(r"[^\w.-]+", "-", text).strip("-.")
    if len(safe.encode()) > 80:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        safe = f"{safe.encode()[:71].decode(errors='ignore')}-{digest}"
    return safe or "_"
