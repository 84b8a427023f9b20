"""Commands of sgd in the process of the tests: a process of their own would spend seconds on imports."""

from __future__ import annotations

import io
import subprocess
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

from sgd.graph.cli.main import main


def sgd(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder. Returns its exit code and its texts, as `subprocess.run` does."""
    out, err = io.StringIO(), io.StringIO()
    with chdir(cwd or Path.cwd()), redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(list(words))
        except SystemExit as exit:
            code = int(exit.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
