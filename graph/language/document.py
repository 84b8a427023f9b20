"""The structure of a workflow file: its parts (`document_parts.py`) by name, and its problems.

A file with problems still gives a document of its correct parts, so that one check reports all problems.
"""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from ..contract.diagnostics import Diagnostic
from ..contract.errors import Problems
from ..contract.source_spans import Source, Span
from ..contract.suggestions import did_you_mean, plain_letters, suggest
from ..contract.wide_characters import WIDE, wide_colon, wide_colon_problem
from ..contract.yaml_reader import Value, parse
from .document_parts import ExpectPart, FilePart, InputPart, LoopPart, NodePart, Part, PsnrPart, RunPart
from .misplaced_with import gathered_file, gathered_nodes

VERSION = 1
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED = {"name": "the workflow's name", "index": "the number of the turn"}
USES = "uses"
"""No name of an input: `--set node.uses=…` exchanges a node's type."""


class Entry:
    """A node or loop of the document. `part` is None if the entry is too broken to use."""

    def __init__(
        self, name: str, key: Span, part: NodePart | LoopPart | None, body: dict[str, Entry] | None = None
    ) -> None:
        self.name, self.key, self.part, self.body = name, key, part, body or {}


class Document:
    """A parsed workflow file.

    Attributes:
        source: Its text.
        name: The workflow's name: the one in the file, else the file's stem.
        has_version: Whether the file has the key `sgd`, as every workflow does.
        inputs: Declared inputs by name, with the place of the name; None where the declaration is broken.
        entries: Nodes and loops by name.
        outputs: The entries of `outputs` by name.
        expect: The entry `expect`; None if there is none, or it is broken.
        psnr: The entry `psnr` of `expect`, in the same way.
        parallel: The entry `parallel` of `run`, in the same way.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.path: Path | None = source.path
        self.name = Path(source.name).stem
        self.about = ""
        self.has_version = False
        self.inputs: dict[str, tuple[Span, InputPart | None]] = {}
        self.entries: dict[str, Entry] = {}
        self.outputs: dict[str, Value] = {}
        self.output_keys: dict[str, Span] = {}
        self.expect: ExpectPart | None = None
        self.psnr: PsnrPart | None = None
        self.parallel: Value | None = None
        self.problems: list[Diagnostic] = []

    @property
    def folder(self) -> Path:
        return self.path.parent if self.path is not None else Path.cwd()


def document(source: Source) -> Document:
    """Parse a source into a document. Parts with problems are left out, and `problems` lists the problems.

    Raises:
        Problems: If the source is not YAML, is not a mapping, or is of another version of the language.
    """
    result = Document(source)
    root, result.problems = parse(source)
    start = Span(source.name, 1, 1, 1, 2)
    if root is None or not root.is_map:
        message = "the file is empty" if root is None or root.data is None else "a workflow file is a mapping"
        raise Problems(
            [*result.problems, Diagnostic("missing-key", message, start, help="begin with `sgd: 1` and `nodes:`")]
        )
    version = root.data.get("sgd")
    result.has_version = version is not None
    if version is not None and (version.data != VERSION or isinstance(version.data, bool)):
        message = f"language version {_shown(version)} is not known to this sgd, which reads version {VERSION}"
        help = "write `sgd: 1`, or install the sgd that the file was written for"
        raise Problems([*result.problems, Diagnostic("version", message, version.span, help=help)])
    root = gathered_file(root, result.problems)
    file = _part(FilePart, root, "the file", result.problems)
    if isinstance(file, FilePart) and file.name is not None:
        result.name = file.name.data
    if isinstance(file, FilePart) and file.about is not None:
        result.about = file.about.data
    for name, value in _entries(root.data.get("inputs")).items():
        key = root.data["inputs"].keys[name]
        if name == USES:
            help = f"`--set node.{USES}=…` exchanges the type of a node; choose another name"
            result.problems.append(
                Diagnostic("shadowed-name", f"`{USES}` cannot be the name of an input", key, help=help)
            )
        elif _is_free_name(name, key, "an input", result.problems):
            part = _part(InputPart, value, f"input `{name}`", result.problems)
            result.inputs[name] = (key, part if isinstance(part, InputPart) else None)
    result.entries = _body(root.data.get("nodes"), result.problems)
    outputs = root.data.get("outputs")
    for name, value in _entries(outputs).items():
        assert outputs is not None
        if _is_name(name, outputs.keys[name], "an output", result.problems):
            result.outputs[name], result.output_keys[name] = value, outputs.keys[name]
    _expect(result, root.data.get("expect"))
    run = root.data.get("run")
    part = _part(RunPart, run, "`run`", result.problems) if run is not None and run.is_map else None
    result.parallel = part.parallel if isinstance(part, RunPart) else None
    return result


def _expect(result: Document, value: Value | None) -> None:
    if value is None or not value.is_map:
        return
    if not value.data:
        help = "give `seconds`, `peak_gib` or `psnr`, or leave `expect` out"
        result.problems.append(Diagnostic("bad-value", "`expect` has no limit", value.span, help=help))
    part = _part(ExpectPart, value, "`expect`", result.problems)
    if isinstance(part, ExpectPart):
        result.expect = part
        psnr = _part(PsnrPart, part.psnr, "`psnr`", result.problems) if part.psnr is not None else None
        result.psnr = psnr if isinstance(psnr, PsnrPart) else None


def _shown(value: Value) -> str:
    return f'"{value.data}"' if isinstance(value.data, str) else str(value.plain())


def _entries(value: Value | None) -> dict[str, Value]:
    return value.data if value is not None and value.is_map else {}


def _is_name(name: str, span: Span, kind: str, problems: list[Diagnostic]) -> bool:
    if not NAME.fullmatch(name):
        ascii = plain_letters(name)
        help = "a name is letters from a to z, digits and underscores, and does not begin with a digit"
        help = f"write `{ascii}`, in ASCII letters: {help}" if NAME.fullmatch(ascii) else help
        wide = next((character for character in name if character in WIDE), None)
        help = help if wide is None else f"write `{WIDE[wide]}` for `{wide}`"
        problems.append(Diagnostic("bad-value", f"`{name}` cannot be the name of {kind}", span, help=help))
        return False
    return True


def _is_free_name(name: str, span: Span, kind: str, problems: list[Diagnostic]) -> bool:
    if not _is_name(name, span, kind, problems):
        return False
    if name in RESERVED:
        problems.append(Diagnostic("shadowed-name", f"`{name}` is taken: ${{{name}}} is {RESERVED[name]}", span))
        return False
    return True


def _body(value: Value | None, problems: list[Diagnostic]) -> dict[str, Entry]:
    result: dict[str, Entry] = {}
    value = gathered_nodes(value, problems) if value is not None and value.is_map else None
    for name, entry in _entries(value).items():
        assert value is not None
        key = value.keys[name]
        if not _is_free_name(name, key, "a node", problems):
            continue
        is_loop = entry.is_map and bool({"for", "body", "carry", "yield"} & set(entry.data))
        subject = f"loop `{name}`" if is_loop else f"node `{name}`"
        part = _part(LoopPart if is_loop else NodePart, entry, subject, problems)
        if isinstance(part, LoopPart):
            for kind, names in (("a loop variable", part.for_), ("carried state", part.carry)):
                for variable, span in names.keys.items() if names is not None else ():
                    _is_free_name(variable, span, kind, problems)
            for variable, span in part.yield_.keys.items() if part.yield_ is not None else ():
                if part.carry is None or variable not in part.carry.data:
                    _is_name(variable, span, "a loop's output", problems)
            if not part.for_.data:
                problems.append(Diagnostic("bad-value", "`for` names no loop variable", part.for_.span))
            result[name] = Entry(name, key, part, _body(part.body, problems))
        else:
            result[name] = Entry(name, key, part if isinstance(part, NodePart) else None)
    return result


def _part(model: type[Part], value: Value, subject: str, problems: list[Diagnostic]) -> Part | None:
    """Validate one mapping; None if it is too broken to use. Unknown keys are reported and left out."""
    if not value.is_map:
        problems.append(_joined(value) or Diagnostic("bad-value", f"{subject} must be a mapping", value.span))
        return None
    known = {f.alias or n for n, f in model.model_fields.items() if n != "span"}
    if model is NodePart and (stray := _stray(value, known)):
        problems.append(_beside_uses(value, stray, subject))
        return None
    for key in value.data:
        if key not in known:
            help = did_you_mean(key, known) or "known keys: " + ", ".join(f"`{k}`" for k in sorted(known))
            problems.append(Diagnostic("unknown-key", f"{subject} has no key `{key}`", value.keys[key], help=help))
    try:
        return model.model_validate({**{k: v for k, v in value.data.items() if k in known}, "span": value.span})
    except ValidationError as error:
        for issue in error.errors():
            key = str(issue["loc"][0])
            if issue["type"] == "missing":
                message = f"{subject} needs a key `{key}`"
                problems.append(Diagnostic("missing-key", message, value.span, help=NEEDED.get(key)))
            else:
                entry = value.data[key]
                message = f"`{key}` of {subject} {issue['msg']}"
                empty = "the key has no value: write one, or leave the key out" if entry.data is None else None
                problems.append(_joined(entry) or Diagnostic("bad-value", message, entry.span, help=empty))
        return None


def _joined(value: Value) -> Diagnostic | None:
    """The problem of the text `name： value` where something else is due; None for any other value."""
    found = wide_colon(value.data) if isinstance(value.data, str) else None
    return wide_colon_problem(found[0], value.span) if found is not None else None


PSNR = "`psnr` is `{min: 40, output: name, reference: ./file.mp4}`, with the least PSNR in dB"


def _stray(node: Value, known: Set[str]) -> list[str]:
    """The keys of a node that are probably parameters: not similar to a key of nodes, or with a value that is no
    mapping, as `width: 832`. All unknown keys if `with` is there and empty.
    """
    unknown = [key for key in node.data if key not in known]
    given = node.data.get("with")
    if "uses" not in node.data or (given is not None and given.data is None):
        return unknown if "uses" in node.data else []
    return [key for key in unknown if suggest(key, known) is None or (key == "width" and not node.data[key].is_map)]


def _beside_uses(node: Value, stray: list[str], subject: str) -> Diagnostic:
    """The problem of parameters that stand beside `uses`."""
    names = ", ".join(f"`{name}`" for name in stray)
    given = node.data.get("with")
    if given is not None and given.data is None:
        help = f"`with:` has nothing below it: indent {names} further than `with`"
    else:
        values = "write `with: {" + ", ".join(f"{name}: …" for name in stray) + "}`"
        help = f"parameters stand below `with`: {values}"
    message = f"{subject} has no key{'s' * (len(stray) > 1)} {names}"
    return Diagnostic("unknown-key", message, node.keys[stray[0]], help=help)


NEEDED = {
    "sgd": f"begin the file with `sgd: {VERSION}`, the version of the language",
    "nodes": "`nodes:` lists the nodes, each with its `uses:`",
    "uses": "`uses:` names a node type or another file; a loop has `for` and `body` instead",
    "for": "a loop has `for: {name: $list}` and `body`",
    "body": "a loop has `for: {name: $list}` and `body`",
    "min": PSNR,
    "output": PSNR,
    "reference": PSNR,
}


def kind_of(uses: str) -> Literal["composite", "library", "node"]:
    """Whether `uses` names a file, a workflow of an installed library, or a node type."""
    if re.match(r"[A-Za-z][\w-]+:", uses):
        return "library"
    if uses.startswith(("./", "../", "/")) or uses.endswith((".yaml", ".yml")):
        return "composite"
    return "node"
