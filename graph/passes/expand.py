"""expand: read every file that a workflow uses, recursively, into a tree of instances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..document import Document, Entry, NodePart, document, kind_of
from ..library import workflow_folder
from ..source import Diagnostic, Problems, Related, Source, Value, did_you_mean, read

# Files that use files that use files twice grow as powers of two; no honest workflow comes near this.
MAX_INSTANCES = 1000


@dataclass
class Instance:
    """One use of a file: its document, and the instances of the composites in it by path inside the file."""

    document: Document
    children: dict[str, Instance] = field(default_factory=dict)


@dataclass
class Files:
    """Documents read so far, by absolute path: each file is parsed, and its problems reported, once."""

    library_folder: Callable[[str], Path | None] = workflow_folder
    documents: dict[Path, Document] = field(default_factory=dict)
    failed: dict[Path, None] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)
    instances: int = 0

    def open(self, path: Path, name: str) -> Document:
        """Read and parse a file.

        Raises:
            Problems: If it cannot be read or parsed.
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
    """The tree of instances below a document; what is wrong goes to `files.problems`."""
    return _instance(root, files, ((root.path.resolve(), root.source.name),) if root.path is not None else ())


def _instance(document: Document, files: Files, chain: tuple[tuple[Path, str], ...]) -> Instance:
    result = Instance(document)
    files.instances += 1

    def entries(found: dict[str, Entry], prefix: str) -> None:
        for name, entry in found.items():
            if isinstance(entry.part, NodePart):
                if kind_of(entry.part.uses.data) != "node":
                    child = _composite(document, entry.part.uses, files, chain)
                    if child is not None:
                        result.children[prefix + name] = child
            else:
                entries(entry.body, f"{prefix}{name}.")

    entries(document.entries, "")
    return result


def _locate(document: Document, uses: str, files: Files) -> tuple[Path, str] | Diagnostic:
    """The file that `uses` names and how to show it, or why there is none."""
    if kind_of(uses) == "library":
        library, _, name = uses.partition(":")
        folder = files.library_folder(library)
        if folder is None:
            return Diagnostic("composite-not-found", f"no installed library `{library}` offers workflows")
        path = folder / (name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
        if not path.resolve().is_relative_to(folder.resolve()):
            return Diagnostic("composite-not-found", f"`{uses}` lies outside library `{library}`")
        return path, uses
    folder = document.folder
    path = folder / uses
    shown = Path(document.source.name).parent / uses
    return path, shown.as_posix()


def _composite(document: Document, uses: Value, files: Files, chain: tuple[tuple[Path, str], ...]) -> Instance | None:
    found = _locate(document, uses.data, files)
    if isinstance(found, Diagnostic):
        files.problems.append(replace(found, span=uses.span))
        return None
    path, name = found
    try:
        resolved = path.resolve()
        is_file = resolved.is_file()
    except (OSError, ValueError):
        is_file = False
    if not is_file:
        nearby = [f"./{p.relative_to(path.parent).as_posix()}" for p in sorted(path.parent.glob("*.y*ml"))[:200]]
        text = did_you_mean(Path(uses.data).name, [n[2:] for n in nearby]) if nearby else None
        message = f"no workflow file {name}"
        files.problems.append(Diagnostic("composite-not-found", message, uses.span, help=text))
        return None
    if any(resolved == before for before, _ in chain):
        names = [shown for _, shown in chain] + [name]
        message = "a file uses itself: " + " -> ".join(names)
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
    if files.instances > MAX_INSTANCES:
        message = f"more than {MAX_INSTANCES} files in one workflow"
        if all(d.message != message for d in files.problems):
            files.problems.append(Diagnostic("composite-recursion", message, uses.span))
        return None
    return _instance(inner, files, (*chain, (resolved, name)))
