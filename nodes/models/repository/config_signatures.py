"""The options of a component's class: names, types and defaults, read from the library's source. Torch-free.

diffusers declares options in `__init__`, transformers as fields of a configuration class. Importing either takes
seconds, so this module parses the one file that defines the class.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

Kind = Literal["whole", "number", "text", "flag", "list", "mapping", "null"]

NO_DEFAULT = object()

_NEXT = re.compile(r"^(?:class |def |@|[A-Za-z_]\w* *[=:])", re.MULTILINE)
_INIT = re.compile(r"^    def __init__\(.*?\)(?: -> [^\n:]+)?:$", re.MULTILINE | re.DOTALL)

_NAMES: Mapping[str, tuple[Kind, ...]] = {
    "int": ("whole",),
    "float": ("number", "whole"),
    "str": ("text",),
    "bool": ("flag",),
    "None": ("null",),
    "list": ("list",),
    "tuple": ("list",),
    "dict": ("mapping",),
    "List": ("list",),
    "Tuple": ("list",),
    "Sequence": ("list",),
    "Dict": ("mapping",),
    "Mapping": ("mapping",),
}


@dataclass(frozen=True)
class ConfigOption:
    """An option of a class.

    Attributes:
        kinds: The kinds of values it takes; empty if they are not known.
        items: The kinds of the entries, if it takes a list; empty if they are not known.
        default: Its default; `NO_DEFAULT` if it has none, or if it is not a literal.
    """

    kinds: frozenset[Kind]
    items: frozenset[Kind] = frozenset()
    default: Any = NO_DEFAULT


@lru_cache(maxsize=64)
def options_of(library: str, name: str, model_type: str = "") -> Mapping[str, ConfigOption] | None:
    """The options of a class; None if its source is not found.

    Args:
        library: `diffusers` or `transformers`.
        name: The class of the component. Used for diffusers.
        model_type: `model_type` of the configuration. Used for transformers.
    """
    if library == "diffusers":
        usual = ["schedulers/*.py"] if name.endswith("Scheduler") else ["models/*/*.py"]
        text = _find(_sources("diffusers", *usual, "models/**/*.py"), f"\nclass {name}(")
        return None if text is None else _of_function(text)
    if library == "transformers" and model_type:
        guess = [f"models/{model_type}/configuration_{model_type}.py", "models/*/configuration_*.py"]
        line = f'\n    model_type = "{model_type}"\n'
        text = _find(_sources("transformers", *guess), line)
        return None if text is None else _of_fields(text)
    return None


def _sources(library: str, *patterns: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(library)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        for pattern in patterns:
            yield from Path(place).glob(pattern)


def _find(files: Iterator[Path], line: str) -> str | None:
    """The source of the class that has a line, from its first line to the end of its body."""
    wanted = line.encode()
    for file in files:
        data = file.read_bytes().replace(b"\r\n", b"\n")
        at = data.find(wanted)
        if at >= 0:
            text = data.decode("utf-8")
            start = text.rfind("\nclass ", 0, text.index(line) + 7) + 1
            end = _NEXT.search(text, start + 1)
            return text[start : end.start() if end is not None else len(text)]
    return None


def _of_function(text: str) -> Mapping[str, ConfigOption] | None:
    """The options of `__init__`. Only its head is parsed."""
    head = _INIT.search(text)
    if head is None:
        return None
    function = ast.parse(f"{textwrap.dedent(head[0])} pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    if function.args.kwarg is not None:
        return None
    plain = function.args.args[1:]
    defaults = [None] * (len(plain) - len(function.args.defaults)) + [*function.args.defaults]
    pairs = [*zip(plain, defaults, strict=True), *zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)]
    return {argument.arg: _option(argument.annotation, default) for argument, default in pairs}


def _of_fields(text: str) -> Mapping[str, ConfigOption]:
    """The options that the class declares as fields."""
    [item] = ast.parse(text).body
    assert isinstance(item, ast.ClassDef)
    return {
        line.target.id: _option(line.annotation, line.value)
        for line in item.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def _option(annotation: ast.expr | None, default: ast.expr | None) -> ConfigOption:
    value = NO_DEFAULT if default is None else _literal(default)
    if annotation is None:
        # Without an annotation, a default of None tells nothing.
        kinds = frozenset() if value is None or value is NO_DEFAULT else frozenset(_wider(kind_of(value)))
        return ConfigOption(kinds, frozenset(), value)
    known, items = _kinds(annotation)
    if known and value is None:
        known |= {"null"}
        if "flag" in known:  # diffusers annotates some optional numbers as bool
            known |= {"number", "whole"}
    return ConfigOption(frozenset(known), frozenset(items), value)


def _wider(kind: Kind) -> tuple[Kind, ...]:
    return ("number", "whole") if kind == "number" else (kind,)


def _kinds(annotation: ast.expr) -> tuple[set[Kind], set[Kind]]:
    """The kinds of values of an annotation, and of the entries of its lists; empty where they are not known."""
    if isinstance(annotation, ast.Constant):
        if annotation.value is None:
            return {"null"}, set()
        return (
            _kinds(ast.parse(annotation.value, mode="eval").body)
            if isinstance(annotation.value, str)
            else (set(), set())
        )
    if isinstance(annotation, ast.Name | ast.Attribute):
        name = annotation.id if isinstance(annotation, ast.Name) else annotation.attr
        return set(_NAMES.get(name, ())), set()
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return _union([annotation.left, annotation.right])
    if isinstance(annotation, ast.Subscript):
        outer = (
            annotation.value.attr
            if isinstance(annotation.value, ast.Attribute)
            else getattr(annotation.value, "id", "")
        )
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if outer == "Optional":
            kinds, items = _kinds(inner[0])
            return (kinds | {"null"}, items) if kinds else (set(), set())
        if outer == "Union":
            return _union(inner)
        if outer == "Literal":
            return {kind_of(_literal(each)) for each in inner}, set()
        if _NAMES.get(outer) == ("list",):
            entries = [each for each in inner if not (isinstance(each, ast.Constant) and each.value is ...)]
            return {"list"}, _union(entries)[0]
        return set(_NAMES.get(outer, ())), set()
    return set(), set()


def _union(members: list[ast.expr]) -> tuple[set[Kind], set[Kind]]:
    found = [_kinds(member) for member in members]
    if not all(kinds for kinds, _ in found):
        return set(), set()
    lists = [items for kinds, items in found if "list" in kinds]
    items = set().union(*lists) if all(lists) else set()
    return set().union(*(kinds for kinds, _ in found)), items


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return NO_DEFAULT


def kind_of(value: Any) -> Kind:
    """The kind of a value of a JSON file, or of a default."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "flag"
    for cls, kind in ((int, "whole"), (float, "number"), (str, "text"), (dict, "mapping")):
        if isinstance(value, cls):
            return kind  # type: ignore[return-value]
    return "list"
