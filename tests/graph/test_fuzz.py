"""Whatever a file says, the answer is a list of diagnostics: never a traceback, never a wait."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest
from helpers import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from sgd.graph.compiler.compile import check, compile_graph
from sgd.graph.contract.diagnostics import render
from sgd.graph.contract.ports import BOOL, FLOAT, INT, PATH, STR, Type, list_of
from sgd.graph.contract.source_spans import Source
from sgd.graph.contract.workflow_folders import bundled_workflows
from sgd.graph.contract.yaml_reader import parse
from sgd.graph.language.literals import Given, read_text

LIBRARY = toys.library()
WORKFLOWS = sorted(bundled_workflows().glob("**/*.yaml"))
PATIENCE = 20.0


def examples(count: int):
    """The same examples every time."""
    return settings(max_examples=count, derandomize=True, deadline=None, database=None)


def assert_checked(path: Path, inputs=None, values=None):
    """Check a file in every way that must not fail, and what follows the check if it has no errors."""
    found = check(path, inputs, values, LIBRARY)
    text = render(found.diagnostics, found.sources)
    assert json.dumps([d.json() for d in found.diagnostics])
    assert "<object object" not in text
    assert bool(found.graph) == (not found.errors)
    if found.graph is not None and all(v in found.values for v in found.graph.inputs):
        compile_graph(found.graph, found.known)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the bundled workflows that may be changed, without the weights beside them."""
    target = tmp_path_factory.mktemp("workflows") / "workflows"
    shutil.copytree(bundled_workflows(), target, ignore=shutil.ignore_patterns("models", "__pycache__", "*.py"))
    (target / "models").symlink_to(bundled_workflows() / "models")
    return target


words = st.sampled_from(
    [
        "sgd",
        "1",
        "inputs",
        "nodes",
        "outputs",
        "uses",
        "with",
        "for",
        "carry",
        "body",
        "yield",
        "type",
        "default",
        "min",
        "max",
        "enum",
        "about",
        "name",
        "int",
        "str",
        "float",
        "bool",
        "path",
        "list[int]",
        "Thing",
        "toy.number",
        "toy.plain",
        "toy.pair",
        "toy.step",
        "toy.ticks",
        "toy.save",
        "model.load",
        "cfg.split",
        "./x.yaml",
        "lib:x",
        "value",
        "thing",
        "text",
        "whole",
        "a",
        "b",
        "c",
        "o",
        "$a",
        "$b.left",
        "$o",
        "${name}",
        "${index}",
        "${a}",
        "$",
        "$$",
        "0",
        "-1",
        "1e999",
        ".nan",
        "null",
        "true",
        "~",
        "x",
    ]
)
scalars = words | st.text(max_size=6) | st.integers() | st.floats() | st.booleans() | st.none()
data = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=4), inner, max_size=5),
    max_leaves=25,
)


@examples(100)
@given(st.text(max_size=200))
def test_any_text(text):
    assert_text_checked(text)


@examples(100)
@given(st.binary(max_size=100))
def test_any_bytes(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(raw)
    assert_checked(path)


@examples(100)
@given(st.lists(st.sampled_from(list("{}[]:,-?&*!|>'\"%@`#$~ \n\tab1.<=")), max_size=40).map("".join))
def test_any_punctuation(text):
    assert_text_checked("sgd: 1\nnodes: " + text)


@examples(100)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("inputs", "nodes", "outputs", "name"), data)))
def test_any_structure(content):
    assert_text_checked(json.dumps({"sgd": 1, **content}))


parameters = st.dictionaries(
    st.sampled_from(["value", "thing", "text", "whole", "tick", "a", "b", "things", "path", "names"]), data, max_size=4
)
types = st.sampled_from(sorted(n for n in LIBRARY.nodes if n.startswith("toy.")))
node_entries = st.fixed_dictionaries({"uses": types, "with": parameters})
names = st.sampled_from(list("abcdo"))
loops = st.fixed_dictionaries(
    {"for": st.dictionaries(names, data, max_size=2), "body": st.dictionaries(names, node_entries, max_size=3)},
    optional={"carry": st.dictionaries(names, data, max_size=2), "yield": st.dictionaries(names, data, max_size=2)},
)
declarations = st.fixed_dictionaries(
    {"type": st.sampled_from(["int", "str", "float", "bool", "path", "list[int]", "Thing", "list[Thing]"])},
    optional={"default": data, "min": scalars, "max": scalars},
)


@examples(100)
@given(
    st.dictionaries(names, node_entries | loops, max_size=4),
    st.dictionaries(st.sampled_from(["x", "y", "a"]), declarations, max_size=2),
    st.dictionaries(names, st.sampled_from(["$a", "$b", "$c.left", "$x"]), max_size=3),
)
def test_any_graph(nodes, inputs, outputs):
    assert_text_checked(json.dumps({"sgd": 1, "inputs": inputs, "nodes": nodes, "outputs": outputs}))


def assert_text_checked(text):
    folder = SCRATCH[0]
    path = folder / "w.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    return assert_checked(path)


SCRATCH: list[Path] = []


@pytest.fixture(autouse=True, scope="module")
def scratch(tmp_path_factory):
    SCRATCH.append(tmp_path_factory.mktemp("fuzz"))
    yield
    SCRATCH.clear()


@examples(100)
@given(
    st.text(max_size=20),
    st.sampled_from(
        [STR, INT, FLOAT, BOOL, PATH, Type("enum", choices=("a", 1)), list_of(INT), list_of(STR), Type("var", "T")]
    ),
)
def test_any_command_line_value(text, type):
    value = read_text(text, type)
    assert type.kind not in ("str", "path") or value == text


@examples(100)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), st.text(max_size=12))
def test_any_setting(tmp_path_factory, value, path):
    file = tmp_path_factory.getbasetemp() / "settings.yaml"
    file.write_text(
        "sgd: 1\ninputs: {x: {type: 'list[float]', default: 1}}\nnodes: {o: {uses: toy.plain}}\noutputs: {o: $o}\n"
    )
    given_value = Given(value, True, Path("/"))
    assert_checked(
        file,
        {"x": given_value},
        {f"o.{n}": given_value for n in LIBRARY.nodes["toy.plain"].inputs} | {path: given_value},
    )


def mutations(text: str, number: int):
    """Copies of a text with something cut, doubled, swapped or put in, always the same ones."""
    chance = random.Random(text)
    lines = text.splitlines(keepends=True)
    pieces = [
        "{",
        "}",
        "[",
        "]",
        ":",
        "$",
        "${",
        "\t",
        '"',
        "'",
        "&a ",
        "*a ",
        "- ",
        "  ",
        "\n",
        ",",
        "null",
        "1e9",
        "\x00",
        "é",
        "#",
        "!!x ",
    ]
    for _ in range(number):
        kind = chance.randrange(7)
        a, b = sorted(chance.randrange(len(text)) for _ in range(2))
        if kind == 0:
            yield text[:a] + text[min(b, a + chance.randrange(1, 30)) :]
        elif kind == 1:
            yield text[:a] + chance.choice(pieces) + text[a:]
        elif kind == 2:
            n = chance.randrange(len(lines))
            yield "".join(lines[:n] + lines[n + 1 :])
        elif kind == 3:
            n = chance.randrange(len(lines))
            yield "".join([*lines[:n], lines[n], *lines[n:]])
        elif kind == 4:
            m, n = (chance.randrange(len(lines)) for _ in range(2))
            lines_ = list(lines)
            lines_[m], lines_[n] = lines_[n], lines_[m]
            yield "".join(lines_)
        elif kind == 5:
            found = [
                w for w in text.replace(",", " ").replace("{", " ").replace("}", " ").split() if w.startswith("$")
            ] or ["x"]
            yield text.replace(
                chance.choice(found), chance.choice([*found, "$none", "5", "[1, 2]", "{a: 1}", "null"]), 1
            )
        else:
            yield text[:a]


@pytest.mark.parametrize("name", [str(p.relative_to(bundled_workflows())) for p in WORKFLOWS])
def test_mutated_workflows(folder, name):
    path = folder / name
    text = path.read_text()
    try:
        for mutated in mutations(text, 60):
            path.write_text(mutated, newline="")
            assert_checked(path)
    finally:
        path.write_text(text)


def test_bundled_workflows_have_no_problems():
    assert WORKFLOWS
    for path in WORKFLOWS:
        assert check(path, library=LIBRARY).diagnostics == []


def assert_quick(text: str, code: str | None):
    began = time.perf_counter()
    found = assert_text_checked(text)
    assert time.perf_counter() - began < PATIENCE
    assert {d.code for d in found.errors} == ({code} if code else set())
    return found


def chain(count: int, step: str, first: str, reverse: bool = False) -> str:
    lines = [f"  c{n}: {step.format(n - 1)}" for n in range(1, count)]
    lines = [f"  c0: {first}", *lines]
    return "sgd: 1\nnodes:\n" + "\n".join(reversed(lines) if reverse else lines) + f"\noutputs: {{o: $c{count - 1}}}\n"


@pytest.mark.parametrize("reverse", [False, True])
def test_long_chains(reverse):
    assert_quick(
        chain(1200, "{{uses: toy.choose, with: {{above: $c{0}, below: $c{0}}}}}", "{uses: toy.number}", reverse), None
    )


def test_many_mistakes():
    assert_quick(chain(400, "{{uses: toy.pair, with: {{thing: $c0}}}}", "{uses: toy.gadget}"), "type-mismatch")
    assert_quick(chain(400, "{{uses: toy.pair, with: {{thing: $d{0}}}}}", "{uses: toy.number}"), "unknown-reference")
    assert_quick(chain(400, "{{uses: toy.pear, with: {{thing: $c0}}}}", "{uses: toy.number}"), "unknown-node-type")


def test_a_long_cycle():
    assert_quick(
        chain(400, "{{uses: toy.pair, with: {{thing: $c{0}}}}}", "{uses: toy.pair, with: {thing: $c399}}"), "cycle"
    )


def test_deep_loops():
    text = "{uses: toy.number}"
    for n in range(20):
        text = f"{{for: {{x{n}: [1, 2]}}, body: {{n{n}: {text}}}, yield: {{y: $n{n}}}}}"
    assert_quick(f"sgd: 1\nnodes: {{o: {text}}}\noutputs: {{o: $o}}\n", None)


def test_alias_bomb_of_nodes():
    lines = ["  a0: &a0 {x: $y}"] + [
        f"  a{n}: &a{n} {{{', '.join(f'k{m}: *a{n - 1}' for m in range(10))}}}" for n in range(1, 12)
    ]
    assert_quick("sgd: 1\nnodes:\n" + "\n".join(lines), "yaml-syntax")


def test_composites_that_use_each_other_in_exponential_numbers(tmp_path):
    for n in range(30):
        use = f"{{uses: ./e{n + 1}.yaml}}"
        (tmp_path / f"e{n}.yaml").write_text(f"sgd: 1\nnodes: {{a: {use}, b: {use}}}\noutputs: {{a: $a, b: $b}}\n")
    (tmp_path / "e30.yaml").write_text("sgd: 1\nnodes: {n: {uses: toy.number}}\noutputs: {n: $n}\n")
    began = time.perf_counter()
    found = assert_checked(tmp_path / "e0.yaml")
    assert time.perf_counter() - began < PATIENCE
    assert {d.code for d in found.errors} == {"composite-recursion"}


def test_ten_megabytes(tmp_path):
    path = tmp_path / "w.yaml"
    path.write_bytes(b"sgd: 1\n" + b"# comment\n" * (1 << 20))
    (diagnostic,) = assert_checked(path).diagnostics
    assert diagnostic.code == "yaml-syntax"


@pytest.mark.parametrize("number", ["9" * 10, "9" * 399, "9" * 5000, "-" + "9" * 399, "1e400", "0x" + "f" * 300])
def test_huge_numbers(number):
    value = f"nodes: {{o: {{uses: toy.number, with: {{value: {number}}}}}}}"
    bounds = f"inputs: {{x: {{type: float, min: {number}, max: {number}, default: {number}}}}}\nnodes: {{}}"
    list_ = f"nodes: {{l: {{for: {{x: [{number}]}}, body: {{n: {{uses: toy.plain, with: {{whole: $x}}}}}}}}}}"
    for text in (value, bounds, list_):
        assert_text_checked(f"sgd: 1\n{text}\n")


@pytest.mark.parametrize(
    "text",
    [
        "a: b: c",
        "nodes: \r\n\tx",
        "\ufeff\ufeffsgd: 1",
        "sgd: 1\rnodes: {}\r",
        "sgd: 1\x85nodes: {}",
        "%YAML 1.1\n---\nsgd: 1",
        "? ",
        "- - - -",
        "&",
        "*",
        "!",
        "{",
        "nodes: {<<: {}}",
        "sgd: 1\nnodes: {a.b: {uses: x}}",
        "\ud800",
    ],
)
def test_odd_texts(text):
    assert_text_checked(text)


def test_bom_and_crlf_change_nothing(folder):
    path = folder / "quickstart.yaml"
    text = path.read_bytes()
    try:
        path.write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
        assert assert_checked(path).errors == []
    finally:
        path.write_bytes(text)


def test_every_tree_is_inside_its_text():
    for path in WORKFLOWS:
        source = Source(path.name, path, path.read_text())
        root, problems = parse(source)
        assert not problems
        work = [root]
        while work:
            value = work.pop()
            for key, span in value.keys.items():
                assert source.lines[span.line - 1][span.column - 1 : span.end_column - 1].strip("'\"") == key
            work += value.data.values() if value.is_map else value.data if value.is_list else []


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ('name: "\\ud800"', 2),
        ('name: "\\ud83d\\ude00"', 2),
        ('name: "\\U00110000"', 2),
        ('name: "\\0"', 2),
        ("name: 1e999", 2),
        ("name: -1e999", 2),
        ("name: " + "9" * 400, 2),
        ("name: " + "9" * 5000, 2),
        ("name: 0x" + "f" * 300, 2),
        ("name: \x00", 2),
        ("name: \x1b[31m", 2),
        ('name: "' + "x" * (10 << 20) + '"', 2),
        ("about: x\nname: " + "x" * (10 << 20), 3),
        ("name: \ud800", 2),
    ],
)
@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_text_and_numbers_beyond_all_limits_have_a_place(monkeypatch, loader, line, place):
    import yaml
    from sgd.graph.contract import yaml_reader

    monkeypatch.setattr(yaml_reader, "LOADER", getattr(yaml, loader))
    found = assert_quick(f"sgd: 1\n{line}\nnodes: {{o: {{uses: toy.number}}}}\noutputs: {{o: $o}}\n", "yaml-syntax")
    (problem,) = found.errors
    assert problem.span is not None
    assert problem.span.line == place
    assert len(problem.message) < 300


def test_utf_16_has_a_place(tmp_path):
    (tmp_path / "w.yaml").write_bytes("sgd: 1\nnodes: {}\n".encode("utf-16"))
    (problem,) = assert_checked(tmp_path / "w.yaml").errors
    assert problem.span is not None
    assert "UTF-16" in problem.message


@pytest.mark.parametrize("value", ["x" * (10 << 20), "a\ud800", "a\0"])
def test_texts_of_a_caller_have_limits_too(value):
    path = SCRATCH[0] / "w.yaml"
    path.write_text(
        "sgd: 1\ninputs: {x: {type: str}, y: {type: path, default: a}, z: {type: 'list[str]', default: [a]}}\n"
        "nodes: {o: {uses: toy.number}}\noutputs: {o: $o}\n"
    )
    for name in ("x", "y", "z"):
        given_value = Given([value] if name == "z" else value, False, Path("/"))
        found = assert_checked(path, {"x": Given("a", False, Path("/")), name: given_value})
        (problem,) = found.errors
        assert (problem.code, problem.span.line) == ("bad-value", 2)
        assert len(problem.message) < 300
