"""Signals at many moments of a whole run: `python tests/benchmarks/interrupts.py`.

Each trial starts `sgd exec quickstart` in a process of its own and sends it SIGINT or SIGTERM, to the process or to its
group, at a moment between its start and its end. Printed are the counts of exit codes, of lines on stderr and of what
is left, the time from the signal to the end, and each trial that is not as it should be: exit code 3, one line, no
traceback, no file but the finished ones and the record, no child process, and at most a second. A machine that does
much else needs longer: a signal is heard when a call of another language returns.

A signal can also come before Python has reached sgd's first line, or after sgd's last one; these are counted apart.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.processes import of_session

PROMPT = "prompt=a small red circle moving left on a white background"
SCRIPT = "import sys; from sgd.entry import main; sys.exit(main())"
OUTPUTS = {"clip.mp4", "sheet.png", "run.json"}
WAYS = [
    (signal.SIGINT, False),
    (signal.SIGTERM, False),
    (signal.SIGINT, True),
    (signal.SIGTERM, True),
]


@dataclass(frozen=True)
class Trial:
    """One run and its end. `moment` and `seconds` (from the signal to the end) are in seconds."""

    moment: float
    number: signal.Signals
    group: bool
    code: int
    stderr: str
    left: tuple[str, ...]
    status: str
    seconds: float
    late: bool

    @property
    def before(self) -> bool:
        """Whether Python had not reached the first line of sgd: it died of the signal, or of itself."""
        return self.code in (-self.number, 1) and "sgd/" not in self.stderr and not self.status

    @property
    def right(self) -> bool:
        lines = self.stderr.splitlines()
        return self.code == 3 and len(lines) == 1 and "Traceback" not in self.stderr and not self.left

    def line(self) -> str:
        way = f"{self.number.name}{' to the group' if self.group else ''}"
        said = repr(self.stderr[-300:])
        return f"{self.moment:6.2f} s  {way}: exit {self.code}, {self.seconds:.2f} s, left {list(self.left)}, {said}"


def started(out: Path, more: list[str]) -> subprocess.Popen[str]:
    """The run, in a group of its own, where Ctrl-C is heard."""
    words = [sys.executable, "-c", SCRIPT, "exec", "quickstart", PROMPT, "--out", str(out), "--quiet", *more]
    return subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,  # noqa: PLW1509 - no thread here
    )


def trial(folder: Path, index: int, moment: float, more: list[str]) -> Trial:
    out = folder / f"run-{index}"
    number, group = WAYS[index % len(WAYS)]
    process = started(out, more)
    time.sleep(moment)
    late = process.poll() is not None
    if not late:
        (os.killpg if group else os.kill)(process.pid, number)
    began = time.perf_counter()
    _, stderr = process.communicate(timeout=60)
    seconds = time.perf_counter() - began
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    record = json.loads((out / "run.json").read_text()) if "run.json" in names else {}
    left = [*sorted(names - OUTPUTS), *(f"process {number}" for number in of_session(process.pid))]
    if names and "run.json" not in names:
        left.append("no record")
    listed = {str(path) for value in record.get("outputs", {}).values() for path in value}
    if record.get("status") == "done" and not listed <= names:
        left.append("outputs are missing")
    status = record.get("status", "")
    return Trial(moment, number, group, process.returncode, stderr, tuple(left), status, seconds, late)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--until", type=float, help="the last moment, seconds (default: the length of a whole run)")
    parser.add_argument("more", nargs="*", help="more arguments of `sgd exec`")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        process = started(folder / "whole", given.more)
        _, stderr = process.communicate()
        if process.returncode:
            sys.exit(stderr)
        whole = given.until or time.perf_counter() - began
        print(f"a whole run takes {whole:.1f} s")
        trials = []
        for index in range(given.moments):
            trials.append(trial(folder, index, whole * index / max(1, given.moments - 1), given.more))
            if not trials[-1].right or trials[-1].seconds > 1:
                print(trials[-1].line(), flush=True)
    late = [t for t in trials if t.late]
    before = [t for t in trials if t.before and not t.late]
    rest = [t for t in trials if not t.late and not t.before]
    print(f"\n{len(trials)} moments: {len(rest)} between sgd's first line and its end")
    print(f"{len(before)} before sgd's first line, {len(late)} after the end")
    print("\nexit code  record       lines  traceback  left  count  longest")
    rows = Counter(
        (t.code, t.status or "-", len(t.stderr.splitlines()), "Traceback" in t.stderr, len(t.left)) for t in rest
    )
    for row, count in sorted(rows.items()):
        code, status, lines, traceback, left = row
        longest = max(
            t.seconds
            for t in rest
            if (t.code, t.status or "-", len(t.stderr.splitlines()), "Traceback" in t.stderr, len(t.left)) == row
        )
        print(f"{code:9}  {status:11}  {lines:5}  {traceback!s:>9}  {left:4}  {count:5}  {longest:.2f} s")
    seconds = sorted(t.seconds for t in rest)
    slow = sum(s > 1 for s in seconds)
    print(f"\nfrom the signal to the end: median {seconds[len(seconds) // 2]:.2f} s, longest {seconds[-1]:.2f} s, ")
    print(f"over a second {slow}; as it should be {sum(t.right for t in rest)} of {len(rest)}")


if __name__ == "__main__":
    main()
