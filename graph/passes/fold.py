"""fold: values that are known become constants, paths become absolute, null becomes the parameter's default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..ir import Arg, Call, Const, Format, Graph, Input, Item, Items, Loop, Source, rewrite
from ..literals import normalise
from ..node import Input as Parameter
from ..ports import misfit


def fold(graph: Graph, values: Mapping[str, Const]) -> Graph:
    """Put `values` (by input name) in place of inputs, and compute what is then constant.

    Inputs without a value stay. A constant that does not fit its parameter is left as it is, for the check.
    """

    def change(source: Source) -> Source:
        if isinstance(source, Input):
            return values.get(source.name, source)
        if isinstance(source, Format) and all(isinstance(p, str | Const) for p in source.parts):
            return Const(
                format_text(source, [p.value if isinstance(p, Const) else p for p in source.parts]), source.base
            )
        if isinstance(source, Items) and all(isinstance(i, Const) for i in source.items):
            return Const([i.value for i in source.items if isinstance(i, Const)], _base(source))
        return source

    return _parameters(rewrite(graph, change))


def _base(source: Items) -> Path | None:
    return next((i.base for i in source.items if isinstance(i, Const) and i.base), None)


def _parameters(graph: Graph) -> Graph:
    items: dict[str, Item] = {}
    for id, item in graph.items.items():
        if isinstance(item, Loop):
            items[id] = replace(item, body=_parameters(item.body))
            continue
        args = {n: _argument(item, item.type.inputs[n], a) for n, a in item.args.items()}
        items[id] = replace(item, args={n: a for n, a in args.items() if a is not None})
    return replace(graph, items=items)


def _argument(call: Call, parameter: Parameter, arg: Arg) -> Arg | None:
    if not isinstance(arg.source, Const):
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
    """A path written relative to `base`, absolute; a name of something elsewhere stays a name.

    `org/model` is a name unless there is a folder of that name beside the file that says so.
    """
    path = Path(text).expanduser()
    absolute = path if path.is_absolute() else (base or Path.cwd()) / path
    if not may_be_name:
        return absolute
    try:
        exists = absolute.exists()
    except OSError:
        exists = False
    looks_like_path = str(text).startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(text))
    return str(absolute.resolve()) if exists or looks_like_path else str(text)


def format_text(source: Format, values: list[Any]) -> str:
    """Join literal parts and values; values in file names are made safe."""
    return "".join(
        literal if isinstance(literal, str) else (safe_name(as_text(value)) if source.safe else as_text(value))
        for literal, value in zip(source.parts, values, strict=True)
    )


def as_text(value: Any) -> str:
    """A plain value as it is interpolated."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def safe_name(text: str) -> str:
    """Text as part of a file name: separators and what shells or systems treat specially become hyphens."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:80] or "_"
