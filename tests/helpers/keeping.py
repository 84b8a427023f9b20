"""A node library without torch whose node writes its recipe into the file that it saves.

Give the file to `sgd --library`. `keep.save` writes `value`, then the recipe, into a file `.keep`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.library_command import RunOption
from sgd.graph.contract.likeness import Likeness
from sgd.graph.contract.node import OutPath, Run, node
from sgd.graph.contract.node_library import NodeLibrary

MAGIC = b"KEEP\n"


@node("keep.save", effect=True)
def save(
    run: Run,
    *,
    value: float = 0.0,
    words: str = "",
    source: Path | None = None,
    path: OutPath = Path("value.keep"),
) -> Path:
    """Save a number.

    Args:
        value: The number.
        words: Any text.
        source: A file whose hash is saved too.
        path: The file.
    """
    target = run.output(path)
    digest = hashlib.sha256(source.read_bytes()).hexdigest() if source is not None else "-"
    loud = "!" if run.options.get("loud") else ""
    recipe = run.recipe()
    lines = [f"{value:g}{loud} {digest} {words}".encode(), *([recipe.encode()] if recipe is not None else [])]
    target.write_bytes(MAGIC + b"\n".join(lines))
    return target


@node("keep.fail")
def fail(value: float = 0.0) -> float:
    """Fail.

    Args:
        value: Any number.
    """
    raise NodeError("it had to fail")


class KeepLibrary(NodeLibrary):
    """A library whose files carry recipes."""

    packages = ("pillow",)
    options = (
        RunOption("loud", "save with a mark", commands=("exec",), decides=True),
        RunOption("allow", "a permission", commands=("exec",)),
    )

    def recipe_text(self, path: Path) -> str | None:
        data = path.read_bytes()
        if not data.startswith(MAGIC):
            return None
        if data.count(b"\n") < 1:
            raise NodeError(f"{path} is damaged")
        return data.split(b"\n", 2)[2].decode() if data.count(b"\n") > 1 else ""

    def likeness(self, before, after, progress, network=None):
        if before.suffix != ".keep":
            return None
        one, two = (float(path.read_bytes().split(b"\n")[1].split(b" ")[0].rstrip(b"!")) for path in (before, after))
        return Likeness((1, 1), ((1, 1), (1, 1)), float("inf") if one == two else 30.0, None, 30.0, 0)


keep = KeepLibrary()
