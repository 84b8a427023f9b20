"""The strict JSON reader: what it accepts equals Python's parser, and each fault has its line and column."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sgd.graph.contract import json_reader
from sgd.graph.contract.errors import UnreadableFile
from sgd.graph.contract.json_reader import MAX_DEPTH, parse_json, read_json
from sgd.graph.contract.plain_values import MAX_TEXT

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
scalars = texts | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)


def examples(count: int):
    """The same examples every time."""
    return settings(max_examples=count, derandomize=True, deadline=None, database=None)


@examples(200)
@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_a_valid_text_is_read_as_python_reads_it(value, ascii, indent):
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    assert parse_json(text.encode(), "f.json") == json.loads(text) == value
    assert json_reader._Strict(text, "f.json", MAX_TEXT).document() == value


@examples(300)
@given(values, st.integers(0, 2**32))
def test_a_damaged_text_is_refused_with_a_place_or_read_as_python_reads_it(value, seed):
    chance = random.Random(seed)
    data = bytearray(json.dumps(value, ensure_ascii=False).encode())
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.randint(0, 2)] = chance.choice([b"", b'"', b"{", b"]", b",", b"\xff", b"\n", b"1", b"\\"])
    twice: list[bool] = []  # the one fault that Python's parser accepts and these edits can make

    def noted(pairs):
        twice.append(len(dict(pairs)) < len(pairs))
        return dict(pairs)

    try:
        expected = json.loads(bytes(data).decode("utf-8"), object_pairs_hook=noted)
    except ValueError:
        expected = None
        twice = [True]
    if any(twice):
        with pytest.raises(UnreadableFile, match=r"f\.json:\d+:\d+: ."):
            parse_json(bytes(data), "f.json")
    else:
        assert parse_json(bytes(data), "f.json") == expected


FAULTS = {
    "a lone surrogate": (b'{"a":\n  "x\\ud800"}', "2:3", "lone surrogate D800"),
    "a surrogate before a letter": (b'["\\udbff\\u0041"]', "1:2", "lone surrogate DBFF"),
    "NUL": (b'{"a": "x\\u0000"}', "1:7", "NUL"),
    "NUL in a key": (b'{"\\u0000": 1}', "1:2", "NUL"),
    "NUL as it is": (b'{"a": "x\0"}', "1:9", "code 0"),
    "ten megabytes": (b'{"a": 1,\n"b": "' + b"x" * (10 << 20) + b'"}', "2:6", "too long"),
    "a key of ten megabytes": (b'{"' + b"x" * (10 << 20) + b'": 1}', "1:2", "too long"),
    "beyond float": (b'{"a": [1, 1e999]}', "1:11", "too large"),
    "below float": (b'{"a": -1e999}', "1:7", "too large"),
    "a whole number beyond float": (b"[" + b"9" * 400 + b"]", "1:2", "too large"),
    "a whole number of 5000 digits": (b"[1,\n" + b"9" * 5000 + b"]", "2:1", "too large"),
    "NaN": (b'{"a": NaN}', "1:7", "`NaN` is not JSON"),
    "Infinity": (b'{"a": -Infinity}', "1:7", "`-Infinity` is not JSON"),
    "a key twice": (b'{"a": 1,\n "b": 2,\n "a": 3}', "3:2", "stands twice, first in line 1, column 2"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "1:1", "byte order mark"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "1:1", "UTF-16"),
    "UTF-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), "1:2", "missing"),
    "not UTF-8": (b'{"a":\n "\xe4"}', "2:3", "not UTF-8"),
    "a surrogate in UTF-8": (b'{"a": "\xed\xa0\x80"}', "1:8", "not UTF-8"),
    "too deep a list": (b"[" * 100_000, f"1:{MAX_DEPTH + 2}", "deep"),
    "too deep a list that is closed": (b"[" * 200 + b"]" * 200, f"1:{MAX_DEPTH + 2}", "deep"),
    "too deep a mapping": (b'{"a":' * 100_000, f"1:{5 * (MAX_DEPTH + 1) + 1}", "deep"),
    "nothing": (b"", "1:1", "empty"),
    "not closed": (b'{"a": [1,\n2', "1:7", "`[` is not closed"),
    "a quote": (b'{"a": "x', "1:7", "quote is not closed"),
    "a comma too many": (b'{"a": 1,}', "1:9", "a value is missing"),
    "a comma too few": (b'{"a": 1 "b": 2}', "1:9", "a comma is missing"),
    "more text": (b'{"a": 1}\n{"b": 2}', "2:1", "more text"),
    "a comment": (b'{\n// no\n"a": 1}', "2:1", "a key"),
    "single quotes": (b"{'a': 1}", "1:2", "a key in double quotes"),
    "a leading zero": (b"[007]", "1:3", "not a number"),
    "a word of Python": (b"[True]", "1:2", "`True` is not JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_a_place(fault):
    data, place, words = FAULTS[fault]
    with pytest.raises(UnreadableFile) as found:
        parse_json(data, "a/f.json")
    assert str(found.value).startswith(f"a/f.json:{place}: ")
    assert words in str(found.value)
    assert len(str(found.value)) < 300


def test_files_that_cannot_be_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path, "is not a file"), (tmp_path / "pipe", "is not a file"), (tmp_path / "x", "No such")):
        with pytest.raises(UnreadableFile, match=words):
            read_json(path)
    (tmp_path / "large").write_bytes(b'{"a": 1,\n"b": "' + b"x" * 3000)
    with pytest.raises(UnreadableFile, match=r"large:2:1: the file is larger than"):
        read_json(tmp_path / "large", most=2000)


def test_control_characters_of_a_key_are_not_printed():
    with pytest.raises(UnreadableFile) as found:
        parse_json(b'{"\\u001b[31m": 1, "\\u001b[31m": 2}', "f.json")
    assert "\x1b" not in str(found.value)
