"""Compare tuned gates with all others in one sweep: `python tests/benchmarks/gates_sweep.py FOLDER [WORD…]`.

It runs the command of docs/gate-table.md, "In one command", in FOLDER, with further words for `sgd sweep`. Clips are
not written, so the package that writes them is not needed. FOLDER/gates/sweep.html is the page.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.doc_commands import ROOT, Command, File, read
from sgd.graph.cli.main import main
from sgd.graph.contract.workflow_folders import bundled_workflows

PAGE = ROOT / "docs" / "gate-table.md"
NAME = "quickstart_tuned"


def without_clip() -> str:
    """The workflow, without the node that writes a clip."""
    text = (bundled_workflows() / f"{NAME}.yaml").read_text(encoding="utf-8").replace("./", "sgd:")
    lines = [line for line in text.splitlines() if not line.startswith("  video:")]
    return "\n".join(lines).replace("{video: $video, sheet: $image}", "{sheet: $image}") + "\n"


def run(folder: Path, more: list[str]) -> int:
    """Run the command of the page with further words, and return its exit code."""
    parts = list(read(PAGE.read_text(encoding="utf-8")))
    (words,) = (part.words for part in parts if isinstance(part, Command) and part.words[1:3] == ("sweep", NAME))
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    for part in parts:
        if isinstance(part, File):
            Path(part.name).write_text(part.text, encoding="utf-8")
    Path(f"{NAME}.yaml").write_text(without_clip(), encoding="utf-8")
    return main(["sweep", f"{NAME}.yaml", *words[3:], *more])


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
