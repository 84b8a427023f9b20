"""expand: read every file that a workflow uses, recursively, into a tree of instances."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...contract.diagnostics import Diagnostic, Related
from ...contract.errors import Problems
from ...contract.source_spans import Source
from ...contract.store_mark import stored_problem
from ...contract.suggestions import did_you_mean
from ...contract.workflow_folders import bundled_name, workflow_folder
from ...contract.yaml_reader import Value, read
from ...language.document import Document, Entry, document, kind_of
from ...language.document_parts import NodePart

# Files that use other files twice, over many levels, grow as powers of two. Real workflows stay far below this limit.
MAX_INSTANCES = 1000

# The nesting of files and loops together.
MAX_NESTING = 40


@dataclass
class Instance:
    """One use of a file: its document, and the instances of the composites in it by path inside the file."""

    document: Document
    children: dict[str, Instance] = field(default_factory=dict)


@dataclass
class Files:
    """Documents by absolute path. Each file is parsed, and its problems are reported, once.

    `libraries` maps the name of a file from an installed library, as diagnostics show it, to the library.
    `held` has the texts of a recipe's files by path: then no file is read from this disk but those of libraries.
    `routes` maps the path at which each used file was looked for to the file.
    """

    library_folder: Callable[[str], Path | None] = workflow_folder
    documents: dict[Path, Document] = field(default_factory=dict)
    failed: dict[Path, None] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)
    libraries: dict[str, str] = field(default_factory=dict)
    held: Mapping[Path, str] | None = None
    routes: dict[Path, Path] = field(default_factory=dict)
    instances: int = 0

    def find(self, path: Path) -> Path | None:
        """The absolute path of a workflow file that may be read; None if there is no such file."""
        route = Path(os.path.abspath(path))
        if self.held is not None and route in self.held:
            found = route
        else:
            found = path.resolve()
            if not found.is_file() or (self.held is not None and bundled_name(found) is None):
                return None
        self.routes.setdefault(route, found)
        return found

    def open(self, path: Path, name: str) -> Document:
        """Read and parse a file.

        Raises:
            Problems: If the file cannot be read or parsed.
        """
        held = None if self.held is None else self.held.get(path)
        return self.parse(read(path, name) if held is None else Source(name, path, held))

    def parse(self, source: Source) -> Document:
        """Parse a source; see `open`."""
        self.sources[source.name] = source
        result = document(source)
        self.problems += result.problems
        if result.path is not None:
            self.documents[self.key(result.path)] = result
        return result

    def key(self, path: Path) -> Path:
        """The path under which a document is kept: without links, except for a text of a recipe."""
        return path if self.held is not None and path in self.held else path.resolve()


def expand(root: Document, files: Files) -> Instance:
    """The tree of instances below a document; problems go to `files.problems`."""
    return _instance(root, files, ((files.key(root.path), root.source.name),) if root.path is not None else (), 0)


def _instance(document: Document, files: Files, chain: tuple[tuple[Path, str], ...], depth: int) -> Instance:
    result = Instance(document)
    files.instances += 1

    def entries(found: dict[str, Entry], prefix: str, depth: int) -> None:
        for name, entry in found.items():
            if isinstance(entry.part, NodePart):
                if kind_of(entry.part.uses.data) != "node":
                    child = _composite(document, entry.part.uses, files, chain, depth + 1)
                    if child is not None:
                        result.children[prefix + name] = child
            else:
                entries(entry.body, f"{prefix}{name}.", depth + 1)

    entries(document.entries, "", depth)
    return result


def _locate(document: Document, uses: str, files: Files) -> tuple[Path, str] | Diagnostic:
    """Find the file that `uses` names, and the path that diagnostics show. Return a diagnostic if there is no file."""
    if kind_of(uses) == "library":
        library, _, name = uses.partition(":")
        folder = files.library_folder(library)
        if folder is None:
            help = "a package offers workflows under the entry point group `sgd.workflows`"
            return Diagnostic("composite-not-found", f"no installed library `{library}` offers workflows", help=help)
        path = folder / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
        if not path.resolve().is_relative_to(folder.resolve()):
            return Diagnostic("composite-not-found", f"`{uses}` lies outside library `{library}`")
        files.libraries[uses] = f"{library}:"
        return path, uses
    prefix = files.libraries.get(document.source.name, "")
    shown = prefix + (Path(document.source.name.removeprefix(prefix)).parent / uses).as_posix()
    if prefix:
        files.libraries[shown] = prefix
    return document.folder / uses, shown


def _composite(
    document: Document, uses: Value, files: Files, chain: tuple[tuple[Path, str], ...], depth: int
) -> Instance | None:
    resolved = None
    try:
        found = _locate(document, uses.data, files)
        if not isinstance(found, Diagnostic) and (resolved := files.find(found[0])) is None:
            help = _similar(uses.data, found[0]) if files.held is None else "the recipe has no file of this name"
            found = Diagnostic("composite-not-found", f"no workflow file {found[1]}", help=help)
        elif resolved is not None and (problem := stored_problem(resolved)) is not None:
            found = Diagnostic("composite-not-found", problem)
    except (OSError, ValueError):
        found = Diagnostic("composite-not-found", f"`{uses.data}` cannot be the name of a file")
    if isinstance(found, Diagnostic):
        files.problems.append(replace(found, place=uses.span))
        return None
    name = found[1]
    assert resolved is not None
    if any(resolved == before for before, _ in chain):
        message = "a file uses itself: " + " -> ".join([*(n for _, n in chain), name])
        files.problems.append(Diagnostic("composite-recursion", message, uses.span))
        return None
    inner = files.documents.get(resolved)
    if inner is None:
        if resolved in files.failed:
            return None
        try:
            inner = files.open(resolved, name)
        except Problems as problems:
            files.failed[resolved] = None
            used_here = Related("used here", uses.span)
            files.problems += [replace(d, related=(*d.related, used_here)) for d in problems.diagnostics]
            return None
    limits = (
        (files.instances > MAX_INSTANCES, f"more than {MAX_INSTANCES} files in one workflow"),
        (depth > MAX_NESTING, f"files and loops nested more than {MAX_NESTING} deep"),
    )
    for reached, message in limits:
        if reached:
            if all(d.message != message for d in files.problems):
                files.problems.append(Diagnostic("composite-recursion", message, uses.span))
            return None
    return _instance(inner, files, (*chain, (resolved, name)), depth)


def _similar(uses: str, path: Path) -> str | None:
    """A help line with a similar file name of the folder, as a workflow writes it."""
    nearby = [p.name for p in sorted(path.parent.glob("*.y*ml"))[:200]]
    if kind_of(uses) == "library":
        written = uses.removesuffix(path.suffix)
        return did_you_mean(path.stem, [Path(n).stem for n in nearby], f"`{written.removesuffix(path.stem)}{{}}`")
    return did_you_mean(path.name, nearby, f"`{uses.removesuffix(path.name)}{{}}`")
