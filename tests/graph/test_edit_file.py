"""Edits of a file's text. PyYAML reads the result, and every line that an edit does not concern stays."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from sgd.graph.contract.errors import NodeError
from sgd.graph.contract.file_edits import InsertNode, ReplaceNode, SetParameter
from sgd.graph.language.edit_file import edited, line_changes

FLOW = """sgd: 1
nodes:
  model: {uses: model.load, with: {source: a/b}}  # the model
  text: {uses: text.encode, with: {model: $model, prompt: "costs $$model"}}

  # The loop.
  loop:
    for: {step: $schedule}
    body:
      inner: {uses: x.y, with: {model: "$model", other: $models}}
    yield: {out: $inner}
outputs: {model: $model.model}
"""

BLOCK = """sgd: 1
nodes:
  model:
    uses: model.load
    with:
      # The source.
      source: a/b   # here
      about: |
        two
        lines
  # About the next node.
  bare:
    uses: x.y  # no parameters
  loop:
    for:
      step: $schedule
    body:
      model_in: {uses: model.load, with: {source: c/d,
        dtype: auto}}
      reader: {uses: x.y, with: {models: [$model_in, $model]}}
    yield:
      out: $model_in
outputs:
  model: $model
"""

OFFLOAD = InsertNode("model", "light", "model.offload", "model", {"component": "vae"})


def nodes(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text)["nodes"]
    return found


def test_a_node_is_inserted_after_another_and_all_readers_are_rewired() -> None:
    text = edited(FLOW, [OFFLOAD])
    lines = text.split("\n")
    assert lines[3] == "  light: {uses: model.offload, with: {model: $model, component: vae}}"
    assert nodes(text)["text"]["with"] == {"model": "$light", "prompt": "costs $$model"}
    assert nodes(text)["loop"]["body"]["inner"]["with"] == {"model": "$light", "other": "$models"}
    assert yaml.safe_load(text)["outputs"] == {"model": "$light"}
    (added, *others) = line_changes(FLOW, text, apart=0)
    assert (added.first, added.count, len(added.lines)) == (4, 1, 2)
    assert sum(change.count for change in (added, *others)) == 3
    assert "# the model" in text
    assert "# The loop." in text


def test_a_second_node_gets_a_free_name_and_stands_before_the_first() -> None:
    again = InsertNode("model", "light", "model.offload", "model", {"component": "transformer"})
    found = nodes(edited(FLOW, [OFFLOAD, again]))
    assert found["light_2"]["with"] == {"model": "$model", "component": "transformer"}
    assert found["light"]["with"] == {"model": "$light_2", "component": "vae"}
    assert found["text"]["with"]["model"] == "$light"


def test_blocks_keep_their_layout_and_comments() -> None:
    text = edited(BLOCK, [OFFLOAD, SetParameter("model", "dtype", "bfloat16"), SetParameter("bare", "tiling", "on")])
    found = yaml.safe_load(text)["nodes"]
    assert found["model"]["with"] == {"dtype": "bfloat16", "source": "a/b", "about": "two\nlines\n"}
    assert list(found)[:3] == ["model", "light", "bare"]
    assert text.index("light:") < text.index("# About the next node.")
    # `on` is text in YAML 1.2, and true in the YAML 1.1 of PyYAML: `vae.decode` takes both.
    assert found["bare"]["with"]["tiling"] is True
    assert {line for line in BLOCK.split("\n") if "$model" not in line and "x.y  #" not in line} <= set(
        text.split("\n")
    )
    assert "# no parameters" in text


def test_a_node_in_a_loop_is_rewired_in_the_loop_alone() -> None:
    text = edited(BLOCK, [InsertNode("loop.model_in", "light", "model.offload", "model")])
    loop = nodes(text)["loop"]
    assert loop["body"]["light"]["with"] == {"model": "$model_in"}
    assert loop["body"]["reader"]["with"] == {"models": ["$light", "$model"]}
    assert loop["yield"] == {"out": "$light"}
    assert yaml.safe_load(text)["outputs"] == {"model": "$model"}


def test_a_value_is_replaced_in_its_place() -> None:
    text = edited(BLOCK, [SetParameter("loop.model_in", "dtype", "bfloat16")])
    assert text == BLOCK.replace("dtype: auto", "dtype: bfloat16")


@pytest.mark.parametrize(
    ("value", "written"), [(True, "true"), (3, "3"), (0.5, "0.5"), ("no", "no"), ("a: b", '"a: b"'), ("1", '"1"')]
)
def test_values_are_yaml(value: str | float | bool, written: str) -> None:
    text = edited("sgd: 1\nnodes: {a: {uses: x.y, with: {}}}\n", [SetParameter("a", "p", value)])
    assert text == f"sgd: 1\nnodes: {{a: {{uses: x.y, with: {{p: {written}}}}}}}\n"


def test_nodes_in_one_line_and_a_last_line_without_a_break() -> None:
    text = edited("sgd: 1\nnodes: {model: {uses: x.y}, b: {uses: x.z, with: {m: $model}}}", [OFFLOAD])
    assert nodes(text)["b"]["with"] == {"m": "$light"}
    assert list(nodes(text)) == ["model", "light", "b"]
    ends = edited("sgd: 1\nnodes:\n  model: {uses: x.y}", [OFFLOAD])
    assert list(nodes(ends)) == ["model", "light"]


def test_line_breaks_of_windows_stay() -> None:
    text = edited(FLOW.replace("\n", "\r\n"), [OFFLOAD])
    assert text.count("\r\n") == text.count("\n")
    assert nodes(text) == nodes(edited(FLOW, [OFFLOAD]))


@pytest.mark.parametrize(
    ("text", "edit", "message"),
    [
        ("nodes:\n  a: {uses: x.y, with: &w {p: 1}}\n  b: {uses: x.y, with: *w}\n", "a", "an anchor or an alias"),
        ("nodes:\n  a: {uses: x.y, with: &w {p: 1}}\n  b: {uses: x.y, with: *w}\n", "b", "an anchor or an alias"),
        ("nodes:\n  a: {uses: ./part.yaml}\n", "a.inner", "does not stand in this file"),
        ("nodes:\n  a: {uses: x.y}\n", "b", "does not stand in this file"),
    ],
)
def test_edits_that_cannot_be_written_are_refused(text: str, edit: str, message: str) -> None:
    with pytest.raises(NodeError, match=message) as error:
        edited(f"sgd: 1\n{text}", [SetParameter(edit, "q", 1)])
    assert error.value.help


TUNED = {"table": "./t.json", "psnr": 38}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "gate: {uses: cache.fora, with: {every: 3}}  # how\n",
            'gate: {uses: cache.tuned, with: {table: "./t.json", psnr: 38}}  # how\n',
        ),
        ("gate: {uses: cache.none}\n", 'gate: {uses: cache.tuned, with: {table: "./t.json", psnr: 38}}\n'),
        (
            "gate:\n    # which\n    uses: cache.fora  # how\n    with:\n      every: 3  # few\n  # after\n",
            "gate:\n    # which\n    uses: cache.tuned  # how\n"
            '    with:\n      {table: "./t.json", psnr: 38}  # few\n  # after\n',
        ),
        (
            "gate:\n    uses: cache.none\n",
            'gate:\n    uses: cache.tuned\n    with: {table: "./t.json", psnr: 38}\n',
        ),
        (
            "gate:\n    uses: cache.fora\n    with:  # 1\n      # 2\n      every: 3  # 3\n\n      # 4 # ä\n"
            "      name: 'a # b'  # 5\n      about: |  # 6\n        no # comment\n      list: [1,  # 7\n"
            "        2]  # 8\n",
            "gate:\n    uses: cache.tuned\n    with:  # 1\n      # 2\n      # 3\n      # 4 # ä\n      # 5\n      # 6\n"
            '      # 7\n      {table: "./t.json", psnr: 38}  # 8\n',
        ),
        (
            "gate: {uses: cache.fora, with: {every: 3,  # 1\n      # 2\n      name: a#b,# 3\n    most: 4}}  # 4\n",
            'gate: {uses: cache.tuned, with: {table: "./t.json", psnr: 38  # 1\n      # 2\n      # 3\n    }}  # 4\n',
        ),
        (
            "gate:\n    uses: cache.fora\n    with: {\n      # 1\n      every: 3\n    }  # 2\n",
            'gate:\n    uses: cache.tuned\n    with: {table: "./t.json", psnr: 38  # 1\n    }  # 2\n',
        ),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_node_is_exchanged_and_no_other_byte(before, after, newline):
    head, tail = (
        "sgd: 1\n# ä top\nnodes:\n  a: {uses: x.y}\n  ",
        "  b: {uses: x.y, with: {gate: $gate}}  # end\noutputs: {b: $b}",
    )
    text = (head + before + tail).replace("\n", newline)
    found = edited(text, [ReplaceNode("gate", "cache.tuned", TUNED)])
    assert found == (head + after + tail).replace("\n", newline)
    assert nodes(found)["gate"] == {"uses": "cache.tuned", "with": TUNED}


def test_a_node_of_another_file_is_not_exchanged():
    with pytest.raises(NodeError, match="does not stand in this file"):
        edited(FLOW, [ReplaceNode("part.gate", "cache.tuned", TUNED)])
