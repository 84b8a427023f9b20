"""Output: control characters never reach the terminal, closed streams end quietly, every encoding works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sgd.graph.cli.main import main

EVIL = "\x1b]0;title\x07\x1b[31mred\x9b5mblink\r\x08\u202ereversed"
"""Sets the title, colours, goes back, turns the direction of text."""
MARKS = ["\x1b]0;", "\x1b[31mred", "\x9b", "\x08", "\u202e", "\x07"]

NODES = f"""
import logging, sys, warnings
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.node import OutPath, Run, node

EVIL = {EVIL!r}

@node("evil.say", effect=True)
def say(run: Run, text: str, path: OutPath = "a.txt", fail: bool = False) -> str:
    "Says everything everywhere."
    print("printed " + text)
    sys.stderr.write("written " + text + "\\n")
    warnings.warn("warned " + text)
    logging.getLogger("evil").error("logged " + text)
    run.warn("told " + text)
    run.detail(note="noted " + text)
    run.progress(1, 2, "label " + text)
    if fail:
        raise NodeError("failed " + text, help="try " + text)
    run.output(path).write_text("x")
    return text
"""
FLOW = """
sgd: 1
name: "evil"
inputs: {text: {type: str}, fail: {type: bool, default: false}}
nodes: {a: {uses: evil.say, with: {text: $text, fail: $fail}}}
outputs: {a: $a}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nodes.py").write_text(NODES)
    (tmp_path / "w.yaml").write_text(FLOW)
    text = EVIL.replace("\\", "").encode("unicode_escape").decode().replace("\\u", "\\u")
    (tmp_path / "e.yaml").write_text(FLOW.replace("{type: str}", f'{{type: str, default: "{text}"}}'))
    return tmp_path


def on_a_terminal(words: list[str], folder: Path) -> str:
    """Everything that a command writes to a terminal."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(words, cwd=folder, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not part:
            break
        found += part
    os.close(ours)
    process.wait()
    return found.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("fail", ["true", "false"])
def test_text_of_users_cannot_control_a_terminal(folder: Path, fail: str) -> None:
    words = [sys.executable, "-m", "sgd", "exec", "e.yaml", "--library", "nodes.py", "--out", "o", f"fail={fail}"]
    shown = on_a_terminal(words, folder)
    for start in ("printed", "written", "warned", "logged", "told", "failed" if fail == "true" else "noted"):
        assert f"{start} " in shown
    assert [mark for mark in MARKS if mark in shown] == []
    assert "\x1b[" in shown, "the progress display still works"
    # Those are sequences of colours and of the cursor, which the display needs, and no others.
    assert set(re.findall("\x1b.[0-9;?]*.", shown)) == {
        sequence for sequence in re.findall("\x1b.[0-9;?]*.", shown) if re.fullmatch(r"\x1b\[[0-9;?]*[mKAlh]", sequence)
    }


@pytest.mark.parametrize(
    "words",
    [
        ["check", f"{EVIL}.yaml"],
        ["exec", "w.yaml", f"{EVIL}=1"],
        ["exec", "w.yaml", "text=1", "--set", f"{EVIL}=1"],
        ["exec", "quickstart", "prompt=a", "--out", f"/proc/self/{EVIL}"],
        ["nodes", EVIL],
        ["init", EVIL],
        ["diff", EVIL, "w.yaml"],
        ["graph", "quickstart", "--profile", EVIL],
        ["plan", "quickstart", "--after", EVIL],
        ["calibrate", "quickstart", "--prompts", EVIL],
        [EVIL],
    ],
)
def test_messages_show_no_control_characters(folder: Path, words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "sgd", *words], cwd=folder, capture_output=True)
    assert done.returncode == 2
    text = (done.stdout + done.stderr).decode()
    assert "Traceback" not in text
    assert [mark for mark in [*MARKS, "\r"] if mark in text] == []


def test_messages_of_a_program_that_calls_main_show_none_either(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes", EVIL]) == 2
    assert [mark for mark in [*MARKS, "\r"] if mark in capsys.readouterr().err] == []


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    words = ["bash", "-c", line.replace("SGD", f"{sys.executable} -m sgd")]
    return subprocess.run(words, cwd=folder, capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("SGD nodes | head -1; exit ${PIPESTATUS[0]}", 0),
        ("SGD nodes --json | true; exit ${PIPESTATUS[0]}", 0),
        ("SGD nodes >&-", 0),
        ("SGD nodes >/dev/null 2>&-", 0),
        ("SGD --help >&-", 0),
        ("SGD --version >&- 2>&- <&-", 0),
        ("SGD check missing 2>&-", 2),
        ("SGD check missing >&- 2>&- <&-", 2),
        ("SGD check missing 2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}", 2),
        ("SGD check missing 2>/dev/full", 2),
        ("SGD exec w.yaml text=a --library nodes.py --out o >&- 2>&-", 0),
        ("SGD exec w.yaml text=a --library nodes.py --out o 2>&1 | true; exit ${PIPESTATUS[0]}", 0),
        ("SGD exec w.yaml text=a fail=true --library nodes.py --out o 2>&1 | true; exit ${PIPESTATUS[0]}", 1),
    ],
)
def test_a_closed_stream_ends_quietly_with_the_exit_code_of_the_command(folder: Path, line: str, code: int) -> None:
    done = shell(line, folder)
    assert (done.returncode, done.stderr) == (code, b"")
    if "--out o" in line:
        assert (folder / "o/run.json").exists()
        assert ("fail=true" in line) != ((folder / "o/a.txt").exists() and (folder / "o/a.txt").read_text() == "x")


def test_output_that_a_full_disk_refuses_is_an_error(folder: Path) -> None:
    done = shell("SGD nodes >/dev/full", folder)
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
    ],
    ids=str,
)
def test_every_encoding_can_show_every_text(folder: Path, environment: dict[str, str]) -> None:
    lines = [
        "SGD exec w.yaml text='ä … 雪 🐈' --library nodes.py --out 'ö 🐈'",
        "SGD exec w.yaml text='ä … 雪 🐈' fail=true --library nodes.py --out 'ü 🐈'",
        "SGD check 'ä 🐈.yaml'",
        "SGD nodes 'ä 🐈'",
    ]
    for line, code in zip(lines, [0, 1, 2, 2], strict=True):
        done = shell(line, folder, **environment)
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr
        assert b"UnicodeEncodeError" not in done.stderr
