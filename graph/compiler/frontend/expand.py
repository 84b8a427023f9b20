"""expand: read every file that a workflow uses, recursively, into a tree of instances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...contract.diagnostics import Diagnostic, Related
from ...contract.errors import Problems
from ...contract.source_spans import Source
from ...contract.suggestions import did_you_mean
from ...contract.workflow_folders import workflow_folder
from ...contract.yaml_reader import Value, read
from ...language.document import Document, Entry, NodePart, document, kind_of

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
    """

    library_folder: Callable[[str], Path | None] = workflow_folder
    documents: dict[Path, Document] = field(default_factory=dict)
    failed: dict[Path, None] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)
    libraries: dict[str, str] = field(default_factory=dict)
    instances: int = 0

    def open(self, path: Path, name: str) -> Document:
        """Read and parse a file.

        Raises:
            Problems: If the file cannot be read or parsed.
        """
        return self.parse(read(path, name))

    def parse(self, source: Source) -> Document:
        """Parse a source; see `open`."""
        self.sources[source.name] = source
        result = document(source)
        self.problems += result.problems
        if result.path is not None:
            self.documents[result.path.resolve()] = result
        return result


def expand(root: Document, files: Files) -> Instance:
    """The tree of instances below a document; problems go to `files.problems`."""
    return _instance(root, files, ((root.path.resolve(), root.source.name),) if root.path is not None else (), 0)


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
    try:
        found = _locate(document, uses.data, files)
        if not isinstance(found, Diagnostic) and not found[0].resolve().is_file():
            help = _similar(uses.data, found[0])
            found = Diagnostic("composite-not-found", f"no workflow file {found[1]}", help=help)
    except (OSError, ValueError):
        found = Diagnostic("composite-not-found", f"`{uses.data}` cannot be the name of a file")
    if isinstance(found, Diagnostic):
        files.problems.append(replace(found, place=uses.span))
        return None
    path, name = found
    resolved = path.resolve()
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
        return did_you_mean(path.stem, [Path(n).stem for n in nearby], f"`{uses.partition(':')[0]}:{{}}`")
    return did_you_mean(path.name, nearby, f"`{uses.removesuffix(path.name)}{{}}`")
