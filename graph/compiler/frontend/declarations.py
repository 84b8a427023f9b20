"""Declared inputs of a workflow: their types, bounds and defaults."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...contract.diagnostics import Diagnostic
from ...contract.ports import PLAIN, Port, Type, from_name, misfit, show
from ...contract.source_spans import Span
from ...contract.suggestions import did_you_mean
from ...language.document_parts import InputPart
from ...language.literals import _float, normalise, unescape
from ..ir import Const, Declared


def bounds_problem(declared: Declared, value: Any) -> str | None:
    """The problem with a value outside the declared bounds; None if it is inside."""
    for entry in value if isinstance(value, list | tuple) else [value]:
        if isinstance(entry, bool) or not isinstance(entry, int | float):
            continue
        if isinstance(entry, float) and not math.isfinite(entry):
            return f"{show(entry)} is not a finite number"
        if declared.min is not None and entry < declared.min:
            return f"{show(entry)} is below the minimum, {declared.min:g}"
        if declared.max is not None and entry > declared.max:
            return f"{show(entry)} is above the maximum, {declared.max:g}"
    return None


def input_problem(declared: Declared, value: Any) -> str | None:
    """The problem with `value` as the input's value; None if there is none."""
    if value is None:
        return None if declared.default is not None and declared.default.value is None else "null is not allowed"
    return misfit(declared.type, value) or bounds_problem(declared, value)


def declare(
    name: str,
    key: Span,
    part: InputPart,
    ports: Mapping[str, type[Port]],
    base: Path,
    report: Callable[[Diagnostic], None],
) -> Declared | None:
    """Read the declaration of an input. If its type is not valid, report this and return None."""
    if (part.type is None) == (part.enum is None):
        text = "needs a `type`, or an `enum` of choices" if part.type is None else "has both `type` and `enum`"
        code = "missing-key" if part.type is None else "bad-value"
        report(Diagnostic(code, f"input `{name}` {text}", key, help=f"types: {', '.join(PLAIN)}, list[…] of these"))
        return None
    if part.enum is not None:
        choices = part.enum.plain()
        if not all(isinstance(c, str | int | float) and not isinstance(c, bool) for c in choices):
            report(Diagnostic("bad-value", f"the choices of input `{name}` must be strings or numbers", part.enum.span))
            return None
        type = Type("enum", choices=tuple(choices))
    else:
        assert part.type is not None
        found = from_name(part.type.data, ports)
        if found is None:
            inner = part.type.data.removeprefix("list[").removesuffix("]")
            help = (
                did_you_mean(inner, [*PLAIN, *ports]) or f"types: {', '.join(PLAIN)}, list[…] of these, or a port type"
            )
            report(Diagnostic("bad-value", f"`{part.type.data}` is not a type", part.type.span, help=help))
            return None
        type = found
    low, high = (None if b is None else _float(b.data) for b in (part.min, part.max))
    numeric = type.item if type.kind == "list" and type.item else type
    for bound, value in (("min", part.min), ("max", part.max)):
        if value is not None and numeric.kind not in ("int", "float"):
            report(Diagnostic("bad-value", f"`{bound}` is for numbers, and input `{name}` is {type}", value.span))
    if low is not None and high is not None and low > high:
        assert part.min is not None
        report(Diagnostic("bad-value", f"the minimum of input `{name}` is above its maximum", part.min.span))
    about = part.about.data if part.about is not None else ""
    default = None
    if part.default is not None:
        try:
            default = Const(unescape(part.default), base)
        except ValueError as error:
            report(Diagnostic("bad-value", f"default of input `{name}`: {error}", part.default.span))
            default = Const(None, base)
        if default.value is not None:
            draft = Declared(name, type, False, None, low, high)
            problem = input_problem(draft, default.value)
            if problem is not None:
                report(Diagnostic("bad-value", f"default of input `{name}`: {problem}", part.default.span))
                default = Const(None, base)
            else:
                default = Const(normalise(type, default.value), base)
    return Declared(name, type, part.default is None, default, low, high, about, key)
