"""Reading text: scalars, positions, limits, frames."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from sgd.graph.contract.diagnostics import Diagnostic, Related, render
from sgd.graph.contract.errors import Problems
from sgd.graph.contract.source_spans import BREAK, Source, Span, printable, width
from sgd.graph.contract.suggestions import did_you_mean
from sgd.graph.contract.yaml_reader import MAX_DEPTH, MAX_VALUES, parse, read, scalar


def tree(text):
    value, problems = parse(Source("x.yaml", None, text))
    assert not problems
    return value


def refused(text):
    with pytest.raises(Problems) as caught:
        parse(Source("x.yaml", None, text))
    return caught.value.diagnostics[-1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("Null", None),
        ("nULL", "nULL"),
        ("true", True),
        ("False", False),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("1", 1),
        ("-12", -12),
        ("+3", 3),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5e+2", -50.0),
        ("1e3", 1000.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        (".", "."),
        ("e3", "e3"),
        ("2024-01-02", "2024-01-02"),
        ("=", "="),
        ("1.2.3", "1.2.3"),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_nan_and_quoted_scalars():
    assert math.isnan(scalar(".nan"))
    assert tree('["1", \'true\', "", "~"]').plain() == ["1", "true", "", "~"]


def test_block_scalars_and_multi_line_text():
    value = tree("a: |\n  one\n  two\nb: >\n  one\n  two\nc: one\n  two\n")
    assert value.plain() == {"a": "one\ntwo\n", "b": "one two\n", "c": "one two"}


def test_keys_are_text_even_if_they_look_like_numbers():
    assert tree("{1: a, true: b, 1e3: c}").plain() == {"1": "a", "true": "b", "1e3": "c"}


def test_places_count_characters_from_one():
    value = tree("一: [猫, b]\nkey: {inner: 5}\n")
    span = value.data["一"].data[1].span
    assert (span.line, span.column, span.end_line, span.end_column) == (1, 8, 1, 9)
    assert value.data["key"].keys["inner"].column == 7


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_line_breaks(line_break):
    value = tree(f"a: 1{line_break}b: 2{line_break}c: {{d: 3}}{line_break}")
    assert value.data["c"].data["d"].span.line == 3
    assert [v.plain() for v in value.data.values()] == [1, 2, {"d": 3}]


def test_anchors():
    value = tree("a: &x {k: [1, 2]}\nb: *x\nc: [*x, *x]\n")
    assert value.plain() == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}, "c": [{"k": [1, 2]}] * 2}
    assert value.data["b"].span.line == 2


@pytest.mark.parametrize("text", ["a: *x", "a: &x [*x]", "&x {b: *y}"])
def test_alias_without_anchor(text):
    assert "has no anchor" in refused(text).message


def test_alias_bomb_is_refused_at_once():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    began = time.perf_counter()
    assert str(MAX_VALUES) in refused("\n".join(lines)).message
    assert time.perf_counter() - began < 2


def test_depth_is_bounded():
    assert tree("[" * MAX_DEPTH + "]" * MAX_DEPTH).is_list
    assert "deep" in refused("[" * 3000 + "]" * 3000).message


def test_depth_counts_through_aliases():
    inner = "[" * (MAX_DEPTH - 10) + "]" * (MAX_DEPTH - 10)
    assert tree(f"a: &a {inner}\nb: [*a]\n").plain()["b"]
    assert "deep" in refused(f"a: &a {inner}\nb: {'[' * 20}*a{']' * 20}\n").message


def test_many_values_are_refused():
    assert "more than" in refused("[" + "1, " * (MAX_VALUES + 10) + "1]").message


@pytest.mark.parametrize("text", ["!!python/object:os.system x", "!!str 5", "!local x", "a: !!binary aGk="])
def test_no_tags(text):
    assert refused(text).code == "yaml-syntax"
    assert "tag" in refused(text).message


def test_two_documents():
    assert "one YAML document" in refused("a: 1\n---\nb: 1\n").message


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "\n\n"])
def test_nothing(text):
    value, problems = parse(Source("x.yaml", None, text))
    assert not problems
    assert value is None or value.data is None


@pytest.mark.parametrize("byte", [b"\x00", b"\x1b", b"\x07"])
def test_control_characters_have_a_place(tmp_path, byte):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: 1\nb: " + byte + b"\n")
    diagnostic = refused(read(path).text)
    assert (diagnostic.span.line, diagnostic.span.column) == (2, 4)


def write(folder: Path, data: bytes) -> Path:
    path = folder / "x.yaml"
    path.write_bytes(data)
    return path


def test_bom_is_not_text(tmp_path):
    assert read(write(tmp_path, b"\xef\xbb\xbfa: 1\n")).text == "a: 1\n"


def test_not_utf8(tmp_path):
    with pytest.raises(Problems) as caught:
        read(write(tmp_path, b"a: 1\nbc: \xff\n"))
    (diagnostic,) = caught.value.diagnostics
    assert "UTF-8" in diagnostic.message
    assert (diagnostic.span.line, diagnostic.span.column) == (2, 5)


def test_large_file_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "x.yaml"
    with path.open("wb") as file:
        file.truncate(10 << 20)
    with pytest.raises(Problems, match="too large"):
        read(path)


def test_endless_files_are_not_read_to_the_end():
    with pytest.raises(Problems, match="too large"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["missing.yaml", "folder", "no\0name", "x" * 5000])
def test_unreadable_files(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(Problems, match="cannot read"):
        read(tmp_path / name)


def frame(text, span):
    return Source("x.yaml", None, text).frame(span)


def test_frame_points_at_the_text():
    assert frame("a: 1\nbee: two\n", Span("x.yaml", 2, 6, 2, 9)) == ["  |", "2 | bee: two", "  |      ^^^"]


def test_frame_of_several_lines_shows_the_first():
    assert frame("a: {b: 1,\n  c: 2}\n", Span("x.yaml", 1, 4, 2, 8))[2] == "  |    ^^^^^^"


def test_frame_after_wide_and_combining_characters():
    text = 'a: "一只猫e\u0301", b: 1'
    column = text.index("b:") + 1
    shown, under = frame(text, Span("x.yaml", 1, column, 1, column + 1))[1:]
    assert width(under[: under.index("^")]) == width(shown[: shown.index("b:")])


def test_frame_of_a_long_line_keeps_the_place_in_view():
    text = "a: [" + "x, " * 300 + "here]"
    column = text.index("here") + 1
    shown, under = frame(text, Span("x.yaml", 1, column, 1, column + 4))[1:]
    assert len(shown) < 180
    assert shown[under.index("^") : under.index("^") + 4] == "here"
    assert under.count("^") == 4


def test_frame_past_the_end():
    assert frame("a: 1", Span("x.yaml", 9, 3, 9, 4))[2].endswith("^")


def test_terminal_codes_are_not_passed_on():
    source = Source("x\x1b.yaml", None, "a: \x1b[31m\u202e\n")
    diagnostic = Diagnostic(
        "bad-value",
        "no \x1b[2J",
        Span(source.name, 1, 4, 1, 8),
        "\x07",
        (Related("\x9b", Span("y", 1, 1, 1, 2)),),
        "\x08",
    )
    text = render([diagnostic], {source.name: source})
    assert printable(text) == text
    assert not {c for c in text if ord(c) < 32} - {"\n"}


@pytest.mark.parametrize(
    ("word", "options", "found"),
    [
        ("steps", ["step", "seed"], "did you mean `step`?"),
        ("VAE.decode", ["vae.decode"], "did you mean `vae.decode`?"),
        ("zebra", ["step", "seed"], None),
        ("x", [], None),
    ],
)
def test_did_you_mean(word, options, found):
    assert did_you_mean(word, options) == found


def test_line_breaks_are_those_of_yaml():
    assert BREAK.split("a\x0cb\x85c\u2028d\x1ce") == ["a\x0cb", "c", "d\x1ce"]
