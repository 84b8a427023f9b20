"""Tables that fit a terminal: every width down to 60, wide characters, whole tables where there is no terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sgd.graph.cli.fitted_tables import cut, fitted, wrapped
from sgd.graph.cli.node_help import details, listing
from sgd.graph.cli.plan_table import plan_table
from sgd.graph.cli.run_table import DROPPED, run_table
from sgd.graph.contract.text_tables import columns
from sgd.graph.language.registry import installed
from wcwidth import wcswidth

WIDE = "雪の日の猫 🐈"


def longest(text: str) -> int:
    """Cells of the widest line, counted by the package wcwidth."""
    return max(wcswidth(line) for line in text.splitlines() or [""])


def row(name: str, **other: Any) -> dict[str, Any]:
    known = {"type": "denoiser.predict", "calls": 30, "seconds": 9.8, "device_seconds": 9.7, "share": 0.8}
    outputs = [{"port": "p", "type": "P", "shape": [1, 16, 21, 60, 104], "dtype": "bfloat16"}]
    return {"name": name, **known, "peak_bytes": 2**30, "detail": {"attention": "sdpa"}, "outputs": outputs, **other}


def record(*rows: dict[str, Any]) -> dict[str, Any]:
    phases = {"import": 1.9, "compile": 0.1, "load": 1.2, "run": 8.9, "save": 0.2}
    return {"nodes": list(rows), "status": "done", "seconds": 12.3, "phases": phases, "peak_bytes": 2**30}


RECORD = record(row("model"), row("denoise"), row("denoise.loop"), row("denoise.loop.predict"), row(WIDE))


@pytest.mark.parametrize("width", [60, 61, 70, 80, 100, 120, 200])
def test_the_table_of_a_run_fits(width: int) -> None:
    text = run_table(RECORD, width)
    assert longest(text) <= width
    head = text.splitlines()[0].split()
    assert head[0] == "node"
    assert "seconds" in head
    assert len(text.splitlines()) >= 7


def test_columns_go_in_the_stated_order() -> None:
    gone = []
    for width in range(200, 20, -1):
        head = run_table(RECORD, width).splitlines()[0]
        # "device s" holds no other name, and "seconds" stays.
        gone += [name for name in DROPPED if name not in head and name not in gone]
    assert gone == ["ceiling", *(name for name in DROPPED if name != "ceiling")]


def test_the_first_edit_states_the_order() -> None:
    text = (Path(__file__).parents[2] / "docs" / "first-edit.md").read_text(encoding="utf-8")
    assert ", ".join(f"`{name}`" for name in DROPPED) in text


def test_a_table_without_a_width_is_whole() -> None:
    assert run_table(RECORD) == run_table(RECORD, 500)
    assert "…" not in run_table(RECORD)


def test_right_columns_stay_right_when_columns_are_dropped() -> None:
    rows = [["node", "type", "calls"], ["a", "x" * 20, "7"], ["bb", "y", "123"]]
    assert fitted(rows, 12, flexible="node", drop=["type"], right=[2]) == ["node  calls", "a         7", "bb      123"]


def test_wide_characters_take_two_cells() -> None:
    lines = columns([["雪", "1"], ["abcd", "22"]], right=[1])
    assert [wcswidth(line) for line in lines] == [8, 8]
    assert lines[0].startswith("雪    1") is False
    assert lines == ["雪     1", "abcd  22"]
    assert cut("日本語テキスト", 6) == "日本…"
    assert wcswidth(cut("日本語テキスト", 6)) <= 6


def test_control_characters_of_a_cell_are_counted_as_they_are_shown() -> None:
    assert columns([["a\x1b[31mb", "x"], ["c", "y"]]) == ["a\ufffd[31mb  x", "c        y"]


cells_of_tables = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cf", "Mn", "Me", "Mc", "Cn", "Co"])
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(*[cells_of_tables.map(lambda t: t.replace("\u00ad", ""))] * 4), min_size=1, max_size=6),
    st.integers(60, 200),
    st.booleans(),
)
def test_every_table_fits(rows: list[tuple[str, ...]], width: int, wrap: bool) -> None:
    lines = fitted([("node", "type", "n", "output"), *rows], width, flexible="output", drop=["type", "n"], wrap=wrap)
    from rich.cells import cell_len  # wcwidth and rich differ for a few characters of new versions of Unicode

    assert all(cell_len(line) <= width for line in lines)


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("ab 雪x ")), st.integers(4, 30))
def test_wrapping_loses_no_word(text: str, width: int) -> None:
    lines = wrapped(text, width, "  ")
    assert all(wcswidth(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_doctor_and_init_wrap_and_lose_nothing() -> None:
    rows = [["  gpu", "none: this torch was built without CUDA, and that is a long reason to give here"], ["  os", "x"]]
    lines = fitted(rows, 60, flexible=1, wrap=True)
    assert max(map(len, lines)) <= 60
    assert (
        " ".join(" ".join(lines).split())
        == "gpu none: this torch was built without CUDA, and that is a long reason to give here os x"
    )
    assert lines[1].startswith("       that") or lines[1].startswith("       ")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lists_and_descriptions_of_node_types_fit(width: int) -> None:
    library = installed()
    assert longest(listing(library, width)) <= width
    for type in library.nodes.values():
        assert longest(details(type, width)) <= max(width, 60)
    assert listing(library) == listing(library, 1000)


@pytest.mark.parametrize("width", [60, 80])
def test_the_table_of_a_plan_fits(width: int) -> None:
    nodes = [{**row("denoise.loop.predict"), "parameters": 10**9, "flops": 10**15, "least_seconds": 1.5}]
    part = {"holder": "model", "part": "transformer", "parameters": 10**9, "bytes": 2**30, "dtype": "bfloat16"}
    plan = {
        "nodes": nodes,
        "components": [part],
        "peak_bytes": 2**33,
        "memory_bytes": 2**34,
        "device": "NVIDIA H100 80GB HBM3",
        "fits": True,
        "flops": 10**15,
        "warnings": ["mind " * 30],
    }
    assert longest(plan_table(plan, width)) <= width
    assert "…" not in plan_table(plan)


def test_a_pipe_gets_the_whole_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sgd.graph.cli.terminal import stdout_width

    monkeypatch.setenv("COLUMNS", "60")
    with (tmp_path / "f").open("w") as file:
        monkeypatch.setattr("sys.stdout", file)
        assert stdout_width() is None
