"""Sentences of the docs on workflow files, checked on toy nodes (and run where running shows it)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import toys
from sgd.graph.compiler.compile import check, plan_of
from sgd.graph.compiler.compile import compile as compile_file
from sgd.graph.compiler.ir import Call, Const, Format, Ref
from sgd.graph.compiler.passes.fold import as_text, locate, safe_name
from sgd.graph.contract.errors import Problems
from sgd.graph.contract.ports import Type, accepts, from_name, list_of
from sgd.graph.contract.workflow_folders import workflow_folder
from sgd.graph.language.document import kind_of
from sgd.graph.language.literals import Given, read_text, split
from sgd.graph.runtime.run import run

LIBRARY = toys.library()
PART = (Path(__file__).parent / "fixtures" / "parts" / "scale.yaml").read_text()


class Workflow:
    """A workflow file in a folder of its own, checked, compiled and run with values as the command line gives them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = 0

    def write(self, text: str, name: str = "w.yaml") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def check(self, text, inputs=None, settings=None, complete=False, where=None):
        where = where or Path.cwd()
        first, second = ({n: Given(v, True, where) for n, v in (values or {}).items()} for values in (inputs, settings))
        return check(self.write(text), first, second, LIBRARY, complete)

    def codes(self, *args, **more):
        return [d.code for d in self.check(*args, **more).diagnostics]

    def calls(self, *args, **more):
        """The calls of a workflow that has no problems, by path."""
        found = self.check(*args, **more)
        assert found.diagnostics == []
        return {item.id: item for item, _ in found.graph.walk() if isinstance(item, Call)}

    def value(self, *args, parameter, **more):
        """The constant that a parameter `node.parameter` gets."""
        node, _, name = parameter.rpartition(".")
        source = self.calls(*args, **more)[node].args[name].source
        assert isinstance(source, Const)
        return source.value

    def run(self, text, inputs=None, settings=None):
        found = self.check(text, inputs, settings, complete=True)
        assert found.errors == []
        self.runs += 1
        result = run(plan_of(found, LIBRARY), out=self.folder / f"out-{self.runs}")
        assert result.status == "done", result.error
        return result


@pytest.fixture
def workflow(tmp_path):
    return Workflow(tmp_path)


def nodes(*lines, outputs="{o: $o}", inputs=(), name=""):
    """A file with these nodes, one per line."""
    head = "sgd: 1\n" + (f"name: {name}\n" if name else "")
    head += "inputs:\n" + "".join(f"  {line}\n" for line in inputs) if inputs else ""
    return head + "nodes:\n" + "".join(f"  {line}\n" for line in lines) + f"outputs: {outputs}\n"


# References and text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$a", ("a", None)),
        ("$a.b", ("a", "b")),
        ("$a_1.b_2", ("a_1", "b_2")),
        ("plain", "plain"),
        ("costs $5", "costs $5"),
        ("US$", "US$"),
        ("$", "$"),
        ("$ a", "$ a"),
        ("$$a", "$a"),
        ("$$$$", "$$"),
        ("$${a}", "${a}"),
        ("${a}", [("a", 0)]),
        ("x ${ a } y", ["x ", ("a", 2), " y"]),
        ("${a}${b}", [("a", 0), ("b", 4)]),
        ("$$${a}", ["$", ("a", 2)]),
        ("100$$ for ${a}", ["100$ for ", ("a", 10)]),
    ],
)
def test_kinds_of_strings(text, found):
    assert split(text) == found


@pytest.mark.parametrize("text", ["see $a", "$a b", "$a.b.c", "$a-b", "$a.", "$naïve", "${a", "x${", "$a$b", "$a\n"])
def test_a_dollar_sign_that_means_nothing_is_an_error(text):
    with pytest.raises(ValueError, match=r"\$"):
        split(text)


def test_name_alone_is_the_first_output(workflow):
    text = nodes("n: {uses: toy.number}", "p: {uses: toy.pair, with: {thing: $n}}", outputs="{a: $p, b: $p.right}")
    graph = workflow.check(text).graph
    assert graph.outputs["a"].source == Ref("p", "left")
    assert graph.outputs["b"].source == Ref("p", "right")


def test_block_style_needs_no_quotes(workflow):
    text = nodes("n:", "  uses: toy.number", "p:", "  uses: toy.pair", "  with:", "    thing: $n", outputs="\n  o: $p")
    assert workflow.check(text).diagnostics == []


def test_order_in_the_file_means_nothing(workflow):
    text = nodes("o: {uses: toy.pair, with: {thing: $n}}", "n: {uses: toy.number, with: {value: 2}}")
    assert workflow.run(text).outputs["o"].value == 2


@pytest.mark.parametrize(
    ("type", "given", "text"),
    [
        ("type: str", "a $x ${y} $$", "a $x ${y} $$"),
        ("type: int", "5", "5"),
        ("type: float", "5", "5"),
        ("type: float", "1e-3", "0.001"),
        ("type: float", "1234567.25", "1234567.25"),
        ("type: bool", "true", "true"),
        ("enum: [fast, slow]", "slow", "slow"),
        ("enum: [1, 2]", "2", "2"),
        ("type: path", "a/b.png", "a/b.png"),
    ],
)
def test_interpolation_of_inputs(workflow, type, given, text):
    file = nodes('o: {uses: toy.plain, with: {text: "[${x}]"}}', inputs=[f"x: {{{type}}}"])
    assert workflow.value(file, {"x": given}, parameter="o.text") == f"[{text}]"


def test_interpolation_of_name_and_dollar_signs(workflow):
    file = nodes('o: {uses: toy.plain, with: {text: "${name} for $$5 or $6"}}', name="cats")
    assert workflow.value(file, parameter="o.text") == "cats for $5 or $6"
    unnamed = nodes('o: {uses: toy.plain, with: {text: "${name}"}}')
    assert workflow.value(unnamed, parameter="o.text") == "w"


def test_interpolation_of_loop_variables_and_index(workflow):
    file = nodes(
        "l:",
        "  for: {word: [cat, dog], number: [1, 2]}",
        '  body: {n: {uses: toy.need, with: {text: "${index} ${word} ${number}"}}}',
        "  yield: {n: $n}",
        outputs="{o: $l}",
    )
    assert workflow.run(file).outputs["o"] == ["0 cat 1", "1 dog 2"]


def test_values_of_the_command_line_are_never_references(workflow):
    file = nodes(
        "n: {uses: toy.number}",
        "o: {uses: toy.plain, with: {text: $x}}",
        outputs="{n: $n, o: $o}",
        inputs=["x: {type: str}"],
    )
    assert workflow.value(file, {"x": "$n"}, parameter="o.text") == "$n"
    file = nodes("o: {uses: toy.plain}")
    assert workflow.value(file, settings={"o.text": "${name} $$"}, parameter="o.text") == "${name} $$"


def test_node_output_cannot_be_interpolated(workflow):
    assert workflow.codes(
        nodes("n: {uses: toy.need, with: {text: a}}", 'o: {uses: toy.need, with: {text: "${n}"}}')
    ) == ["bad-value"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a cat", "a-cat"),
        ("../..", "_"),
        ("../../etc/passwd", "etc-passwd"),
        ("/abs", "abs"),
        ("", "_"),
        ("...", "_"),
        ('a\\b:c*?"<>|\0\n', "a-b-c"),
        ("一只猫", "一只猫"),
        ("😀", "_"),
        ("-rf", "rf"),
    ],
)
def test_interpolated_values_are_safe_file_names(text, name):
    assert safe_name(text) == name


@pytest.mark.parametrize("text", ["a" * 500, "猫" * 200, "\U00020000" * 200])
def test_long_text_makes_a_short_name_of_its_own(text):
    names = {safe_name(text + end) for end in ("", "x", "y")}
    assert all(len(n.encode()) <= 80 for n in names)
    assert len(names) == 3


def test_file_names_are_safe_only_where_files_are_written(workflow):
    file = nodes(
        'n: {uses: toy.plain, with: {text: "of ${p}"}}',
        's: {uses: toy.save, with: {thing: $n, path: "d/${p}-${p}.txt"}}',
        outputs="{o: $s}",
        inputs=["p: {type: str}"],
    )
    calls = workflow.calls(file, {"p": "../x y"})
    assert calls["n"].args["text"].source == Const("of ../x y")
    assert calls["s"].args["path"].source == Const("d/x-y-x-y.txt")


# Scope


def test_a_loop_sees_everything_outside(workflow):
    file = nodes(
        "n: {uses: toy.number, with: {value: 5}}",
        "l:",
        "  for: {x: [1, 2]}",
        "  body:",
        "    m:",
        "      for: {y: [10, 20]}",
        "      body:",
        "        a: {uses: toy.number, with: {value: $x}}",
        "        b: {uses: toy.number, with: {value: $y}}",
        "        s: {uses: toy.sum, with: {things: [$a, $b, $n]}}",
        "      yield: {s: $s}",
        "    t: {uses: toy.sum, with: {things: $m}}",
        "  yield: {t: $t}",
        outputs="{o: $l}",
    )
    assert [t.value for t in workflow.run(file).outputs["o"]] == [42, 44]


def test_nothing_outside_sees_inside(workflow):
    loop = "l: {for: {x: [1, 2]}, body: {n: {uses: toy.number, with: {value: $x}}}, yield: {out: $n}}"
    assert workflow.codes(nodes(loop, "o: {uses: toy.pair, with: {thing: $n}}")) == ["unknown-reference"]
    assert workflow.codes(nodes(loop, "o: {uses: toy.number, with: {value: $x}}")) == ["unknown-reference"]
    assert workflow.codes(nodes(loop, "o: {uses: toy.sum, with: {things: $l.out}}")) == []
    assert workflow.codes(nodes(loop, "o: {uses: toy.sum, with: {things: $l.n}}")) == ["unknown-reference"]


def test_loops_beside_each_other_may_use_one_name(workflow):
    loop = "{for: {x: [1, 2]}, body: {n: {uses: toy.number, with: {value: $x}}}, yield: {n: $n}}"
    assert workflow.codes(nodes(f"a: {loop}", f"o: {loop}", outputs="{a: $a, o: $o}")) == []


@pytest.mark.parametrize(
    "loop",
    [
        "{for: {n: [1]}, body: {o: {uses: toy.number}}, yield: {o: $o}}",
        "{for: {x: [1]}, carry: {n: $n}, body: {o: {uses: toy.number}}, yield: {n: $o}}",
        "{for: {x: [1]}, body: {n: {uses: toy.number}}, yield: {n: $n}}",
        "{for: {x: [1]}, body: {l: {uses: toy.number}}, yield: {n: $l}}",
        "{for: {seed: [1]}, body: {m: {uses: toy.number}}, yield: {m: $m}}",
    ],
)
def test_a_name_may_not_be_shadowed(workflow, loop):
    file = nodes(
        "n: {uses: toy.number, with: {value: $seed}}",
        f"l: {loop}",
        outputs="{n: $n, l: $l}",
        inputs=["seed: {type: int, default: 1}"],
    )
    assert workflow.codes(file) == ["shadowed-name"]


def test_a_composite_sees_only_its_inputs(workflow):
    workflow.write("sgd: 1\nnodes: {p: {uses: toy.pair, with: {thing: $n}}}\noutputs: {p: $p}\n", "part.yaml")
    assert workflow.codes(nodes("n: {uses: toy.number}", "o: {uses: ./part.yaml}", outputs="{n: $n, o: $o}")) == [
        "unknown-reference"
    ]


def test_input_in_a_composite_may_have_the_name_of_a_node_outside(workflow):
    workflow.write(
        "sgd: 1\ninputs: {n: {type: Thing}}\nnodes: {o: {uses: toy.pair, with: {thing: $n}}}\noutputs: {p: $o}\n",
        "part.yaml",
    )
    assert workflow.codes(nodes("n: {uses: toy.number}", "o: {uses: ./part.yaml, with: {n: $n}}")) == []


# Loops


def test_carry_hands_state_on(workflow):
    file = nodes(
        "n: {uses: toy.number, with: {value: 1}}",
        "t: {uses: toy.ticks, with: {count: 4}}",
        "o:",
        "  for: {t_: $t}",
        "  carry: {s: $n}",
        "  body: {next: {uses: toy.step, with: {tick: $t_, thing: $s, by: 10}}}",
        "  yield: {s: $next}",
    )
    assert workflow.run(file).outputs["o"].value == 41


def test_carried_state_may_be_plain(workflow):
    file = nodes(
        "o:",
        "  for: {w: [a, b]}",
        "  carry: {s: start}",
        '  body: {n: {uses: toy.need, with: {text: "${s}+${w}"}}}',
        "  yield: {s: $n}",
    )
    assert workflow.run(file).outputs["o"] == "start+a+b"


def test_a_map_gives_lists_and_several_advance_together(workflow):
    file = nodes(
        "t: {uses: toy.ticks, with: {count: 2}}",
        "o:",
        "  for: {t_: $t, v: [3, 4]}",
        "  body: {n: {uses: toy.number, with: {value: $v}}, k: {uses: toy.turn, with: {tick: $t_}}}",
        "  yield: {n: $n, k: $k, c: 7}",
        outputs="{n: $o, k: $o.k, c: $o.c}",
    )
    outputs = workflow.run(file).outputs
    assert [t.value for t in outputs["n"]] == [3, 4]
    assert (outputs["k"], outputs["c"]) == ([0, 1], [7, 7])


@pytest.mark.parametrize("given", ["[1, 2]", "[1, 2, 3, 4]", "[]", "5"])
def test_lists_of_unequal_length_from_the_command_line(workflow, given):
    file = nodes(
        "o: {for: {x: $xs, y: [1, 2, 3]}, body: {n: {uses: toy.number, with: {value: $x}}}, yield: {n: $n}}",
        inputs=['xs: {type: "list[float]", default: [1, 2, 3]}'],
    )
    assert workflow.codes(file, {"xs": "[4, 5, 6]"}) == []
    assert workflow.codes(file, {"xs": given}) == ["bad-value"]


def test_loop_over_a_list_of_references(workflow):
    file = nodes(
        "a: {uses: toy.number, with: {value: 1}}",
        "b: {uses: toy.number, with: {value: 2}}",
        "o: {for: {x: [$a, $b]}, body: {p: {uses: toy.pair, with: {thing: $x}}}, yield: {p: $p.right}}",
    )
    assert [t.value for t in workflow.run(file).outputs["o"]] == [-1, -2]


def test_effects_of_a_map_need_paths_that_change(workflow):
    def file(path):
        return nodes(
            "l:",
            "  for: {x: [1, 2]}",
            "  body:",
            "    n: {uses: toy.number, with: {value: $x}}",
            f"    s: {{uses: toy.save, with: {{thing: $n, {path}}}}}",
            outputs="{}",
        )

    assert workflow.codes(file('path: "a.txt"')) == ["bad-value"]
    assert workflow.codes(file('path: "${name}.txt"')) == ["bad-value"]
    assert workflow.codes(file('path: "${x}.txt"')) == []
    assert workflow.codes(file('path: "${index}.txt"')) == []
    assert sorted(p.name for p in workflow.run(file('path: "${x}.txt"')).folder.iterdir()) == [
        "1.txt",
        "2.txt",
        "run.json",
    ]


def test_unused_nodes_warn_and_do_not_run(workflow):
    file = nodes("f: {uses: toy.fail, with: {thing: $o}}", "o: {uses: toy.number}")
    found = workflow.check(file)
    assert [(d.code, d.severity) for d in found.diagnostics] == [("unused-node", "warning")]
    assert workflow.run(file).status == "done"


def test_part_of_a_composite_may_stay_unused(workflow):
    workflow.write(PART, "part.yaml")
    file = nodes("n: {uses: toy.number}", "o: {uses: ./part.yaml, with: {thing: $n}}", outputs="{o: $o.sum}")
    assert workflow.codes(file) == []


# Composites


def test_composite_is_a_node(workflow):
    workflow.write(PART, "parts/scale.yaml")
    file = nodes(
        "n: {uses: toy.number, with: {value: 2}}",
        "o: {uses: ./parts/scale.yaml, with: {thing: $n}}",
        outputs="{a: $o, b: $o.left}",
    )
    outputs = workflow.run(file).outputs
    assert (outputs["a"].value, outputs["b"].value) == (3, 3)


def test_part_with_port_inputs_is_fine_by_itself(workflow):
    assert workflow.codes(PART) == []


def test_composite_from_a_library(workflow, tmp_path, monkeypatch):
    folder = tmp_path / "site" / "some_lib"
    workflow.write(PART, "site/some_lib/scale.yaml")
    workflow.write(
        nodes("o: {uses: ./scale.yaml, with: {thing: $thing}}", inputs=["thing: {type: Thing}"]),
        "site/some_lib/outer.yaml",
    )
    workflow.write("sgd: 1\nnodes: {o: {uses: toy.nothing}}\noutputs: {o: $o}\n", "site/some_lib/broken.yaml")
    workflow.write("sgd: 1\nnodes: {o: {uses: ./broken.yaml}}\noutputs: {o: $o}\n", "site/some_lib/outer_broken.yaml")
    workflow.write(PART, "broken.yaml")
    installed = tmp_path / "site" / "some_lib-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: some-lib\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[sgd.workflows]\nsome-lib = some_lib\n")
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def file(uses):
        return nodes(
            "n: {uses: toy.number, with: {value: 2}}",
            f'o: {{uses: "{uses}", with: {{thing: $n}}}}',
            outputs="{n: $n, o: $o}",
        )

    assert workflow.run(file("some-lib:scale")).outputs["o"].value == 3
    assert workflow.codes(file("some-lib:outer")) == []
    assert workflow.codes(file("some-lib:scale.yaml")) == []
    (found,) = workflow.check(file("some-lib:scael")).diagnostics
    assert (found.code, found.help) == ("composite-not-found", "did you mean `some-lib:scale`?")
    assert workflow.codes(file("some-lib:../w")) == ["composite-not-found"]
    assert workflow.codes(file("other-lib:scale")) == ["composite-not-found"]
    broken = nodes(
        'o: {uses: "some-lib:outer_broken"}',
        "p: {uses: ./broken.yaml, with: {thing: $q}}",
        "q: {uses: toy.number}",
        outputs="{o: $o, p: $p}",
    )
    (found,) = workflow.check(broken).diagnostics
    assert (found.code, found.span.file) == ("unknown-node-type", "some-lib:broken.yaml")


def test_a_library_without_workflows_is_none():
    assert workflow_folder("no-such-library") is None


@pytest.mark.parametrize(
    ("uses", "kind"),
    [
        ("./a.yaml", "composite"),
        ("../a", "composite"),
        ("/a/b.yml", "composite"),
        ("parts/a.yaml", "composite"),
        ("lib:a", "library"),
        ("my-lib:a.yaml", "library"),
        ("vae.decode", "node"),
        ("", "node"),
    ],
)
def test_values_of_uses(uses, kind):
    assert kind_of(uses) == kind


def test_composite_chain_may_not_be_endless(workflow):
    for n in range(500):
        workflow.write(f"sgd: 1\nnodes: {{o: {{uses: ./c{n + 1}.yaml}}}}\noutputs: {{o: $o}}\n", f"c{n}.yaml")
    assert workflow.codes(nodes("o: {uses: ./c0.yaml}")) == ["composite-recursion"]


def test_null_passed_on_is_the_default_of_the_receiver(workflow):
    workflow.write(
        nodes("o: {uses: toy.number, with: {value: $v}}", inputs=["v: {type: float, default: 7}"]),
        "part.yaml",
    )
    file = nodes("o: {uses: ./part.yaml, with: {v: $x}}", inputs=["x: {type: float, default: null}"])
    assert workflow.run(file).outputs["o"].value == 7
    assert workflow.check(file, {"x": "3"}).values["x"].value == 3
    plain = nodes("o: {uses: toy.plain, with: {whole: $x}}", inputs=["x: {type: int, default: null}"])
    assert workflow.run(plain).outputs["o"].value == 1
    literal = nodes("o: {uses: ./part.yaml, with: {v: null}}")
    assert workflow.run(literal).outputs["o"].value == 7


def test_composite_passes_ports_that_may_be_missing(workflow):
    workflow.write(
        nodes("o: {uses: toy.maybe, with: {thing: $t}}", inputs=["t: {type: Thing, default: null}"]),
        "part.yaml",
    )
    assert workflow.run(nodes("o: {uses: ./part.yaml}")).outputs["o"].value == 0


# Inputs


@pytest.mark.parametrize(
    ("type", "given", "value"),
    [
        ("type: str", "5", "5"),
        ("type: str", "null", "null"),
        ("type: str", "", ""),
        ("type: int", "-3", -3),
        ("type: int", "0x10", 16),
        ("type: float", "3", 3.0),
        ("type: float", "1e-3", 0.001),
        ("type: bool", "false", False),
        ("enum: [a, b]", "b", "b"),
        ("enum: [1, 2]", "2", 2),
        ('enum: ["1", "2"]', "2", "2"),
        ('type: "list[int]"', "3", [3]),
        ('type: "list[int]"', "[1, 2]", [1, 2]),
        ('type: "list[str]"', "a, b", ["a, b"]),
        ('type: "list[str]"', "[a, 1, null, true]", ["a", "1", "null", "true"]),
        ('type: "list[str]"', "[cinematic] a cat", ["[cinematic] a cat"]),
        ('type: "list[float]"', "[1, 2.5]", [1.0, 2.5]),
        ("type: int, default: null", "null", None),
    ],
)
def test_given_values_are_read_as_their_type(workflow, type, given, value):
    file = nodes("o: {uses: toy.number}", inputs=[f"x: {{{type}}}"])
    found = workflow.check(file, {"x": given})
    assert found.errors == []
    assert found.values["x"].value == value
    assert repr(found.values["x"].value) == repr(value)


@pytest.mark.parametrize(
    ("type", "given"),
    [
        ("type: int", "1.5"),
        ("type: int", "1.0"),
        ("type: int", "a"),
        ("type: int", "true"),
        ("type: int", "null"),
        ("type: int, min: 3", "2"),
        ("type: int, max: 3", "4"),
        ("type: float, min: 0", "-1e-9"),
        ("type: float", ".nan"),
        ("type: float", ".inf"),
        ("type: float", "9" * 350),
        ("type: bool", "yes"),
        ("type: bool", "1"),
        ("enum: [a, b]", "c"),
        ("enum: [1, 2]", "true"),
        ('type: "list[int]"', "[1, a]"),
        ('type: "list[int]", max: 3', "[1, 4]"),
        ('type: "list[int]"', "[1, 2"),
        ("type: Thing", "5"),
    ],
)
def test_given_values_that_do_not_fit(workflow, type, given):
    (found,) = workflow.check(nodes("o: {uses: toy.number}", inputs=[f"x: {{{type}}}"]), {"x": given}).errors
    assert found.code == "bad-value"
    assert found.span.line == 3


def test_required_inputs(workflow):
    file = nodes("o: {uses: toy.number, with: {value: $x}}", inputs=["x: {type: float}"])
    assert workflow.codes(file) == []
    assert workflow.codes(file, complete=True) == ["missing-input"]
    assert workflow.codes(file, {"x": "1"}, complete=True) == []


def test_scalar_is_a_list_of_one(workflow):
    file = nodes("o: {uses: toy.plain, with: {sizes: 3, names: a, modes: fast}}")
    calls = workflow.calls(file)["o"].args
    assert {n: a.source.value for n, a in calls.items()} == {"sizes": [3], "names": ["a"], "modes": ["fast"]}
    one = nodes("n: {uses: toy.number, with: {value: 4}}", "o: {uses: toy.sum, with: {things: $n}}")
    assert workflow.run(one).outputs["o"].value == 4


def test_unused_input_is_a_warning(workflow):
    (found,) = workflow.check(nodes("o: {uses: toy.number}", inputs=["x: {type: int, default: 1}"])).diagnostics
    assert (found.code, found.severity) == ("unused-node", "warning")


def test_python_values(workflow, tmp_path):
    path = workflow.write(
        nodes("o: {uses: toy.plain, with: {file: $f, sizes: $s}}", inputs=["f: {type: path}", 's: {type: "list[int]"}'])
    )
    plan = compile_file(path, {"f": tmp_path / "x", "s": (1, 2)}, {"o.whole": 3}, LIBRARY)
    assert plan.inputs == {"f": str(tmp_path / "x"), "s": [1, 2]}
    assert plan.settings == {"o.whole": 3}
    with pytest.raises(Problems, match="bad-value"):
        compile_file(path, {"f": 5, "s": [1]}, None, LIBRARY)


def test_types_by_name():
    assert from_name("list[list[int]]", {}) == list_of(list_of(Type("int")))
    assert from_name("Thing", LIBRARY.ports).cls is toys.Thing
    assert from_name("list[Thing", LIBRARY.ports) is None


@pytest.mark.parametrize(
    ("choices", "name", "taken"),
    [
        ((38, 46), "float", True),
        ((38, 46), "int", True),
        ((38, 46.5), "float", True),
        ((38, 46.5), "int", False),
        (("a", 1), "float", False),
        ((True, 1), "int", False),
        ((38, 46), "str", False),
        (("a", "b"), "str", True),
    ],
)
def test_an_enumeration_is_taken_where_each_choice_is(choices, name, taken):
    assert accepts(Type(name), Type("enum", choices=choices)) is taken


# Paths


def paths(workflow, file, **more):
    found = {}
    for name, arg in workflow.calls(file, **more)["o"].args.items():
        assert isinstance(arg.source, Const)
        found[name] = arg.source.value
    return found


def test_a_path_in_a_file_is_relative_to_it(workflow, tmp_path):
    file = nodes("o: {uses: toy.plain, with: {file: a.png, files: [b.png, /c.png], source: ./d}}")
    assert paths(workflow, file) == {
        "file": tmp_path / "a.png",
        "files": [tmp_path / "b.png", Path("/c.png")],
        "source": str(tmp_path / "d"),
    }


def test_a_path_in_a_composite_is_relative_to_that_file(workflow, tmp_path):
    part = nodes(
        "n: {uses: toy.plain, with: {file: $f, files: [x.png, $f], source: ./m}}",
        outputs="{n: $n}",
        inputs=["f: {type: path, default: own.png}"],
    )
    workflow.write(part, "parts/part.yaml")
    default = nodes("o: {uses: ./parts/part.yaml}")
    args = workflow.calls(default)["o.n"].args
    assert args["file"].source.value == tmp_path / "parts" / "own.png"
    assert args["source"].source.value == str(tmp_path / "parts" / "m")
    given = nodes("o: {uses: ./parts/part.yaml, with: {f: caller.png}}")
    args = workflow.calls(given)["o.n"].args
    assert args["file"].source.value == tmp_path / "caller.png"
    assert args["files"].source.value[0] == tmp_path / "parts" / "x.png"


def test_a_path_input_is_relative_to_the_caller(workflow, tmp_path):
    where = tmp_path / "elsewhere"
    file = nodes(
        'o: {uses: toy.plain, with: {file: $f, files: [$f, own.png, "${f}/x.png"], source: $s}}',
        inputs=["f: {type: path, default: default.png}", "s: {type: str, default: ./own}"],
    )
    assert paths(workflow, file, inputs={"f": "given", "s": "./model"}, where=where) == {
        "file": where / "given",
        "files": [where / "given", tmp_path / "own.png", where / "given" / "x.png"],
        "source": str(where / "model"),
    }
    assert paths(workflow, file)["file"] == tmp_path / "default.png"
    assert paths(workflow, file)["source"] == str(tmp_path / "own")


def test_a_path_that_is_set_is_relative_to_the_caller(workflow, tmp_path):
    where = tmp_path / "elsewhere"
    found = paths(workflow, nodes("o: {uses: toy.plain}"), settings={"o.file": "a.png"}, where=where)
    assert found == {"file": where / "a.png"}


def test_a_path_with_a_path_input_in_front_is_relative_to_the_caller(workflow, tmp_path):
    where = tmp_path / "elsewhere"
    file = nodes('o: {uses: toy.plain, with: {file: "${f}/a.png"}}', inputs=["f: {type: path}"])
    assert paths(workflow, file, inputs={"f": "given"}, where=where) == {"file": where / "given" / "a.png"}
    text = nodes('o: {uses: toy.plain, with: {file: "${f}/a.png"}}', inputs=["f: {type: str}"])
    assert paths(workflow, text, inputs={"f": "given"}, where=where) == {"file": tmp_path / "given" / "a.png"}


def test_paths_of_a_loop_are_relative_to_the_file(workflow, tmp_path):
    file = nodes("o: {for: {f: [a.png, b.png]}, body: {n: {uses: toy.plain, with: {file: $f}}}, yield: {n: $n}}")
    toys.plain.seen.clear()  # type: ignore[attr-defined]
    workflow.run(file)
    assert [seen["file"] for seen in toys.plain.seen] == [tmp_path / "a.png", tmp_path / "b.png"]  # type: ignore[attr-defined]


def test_a_source_is_a_name_unless_such_a_folder_is_there(tmp_path):
    assert locate("org/model", tmp_path, True) == "org/model"
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert locate("org/model", tmp_path, True) == str(tmp_path / "org" / "model")
    assert locate("./org/other", tmp_path, True) == str(tmp_path / "org" / "other")
    assert locate("~nobody-of-that-name/x", tmp_path, False) == tmp_path / "~nobody-of-that-name/x"


@pytest.mark.parametrize(
    "name", ["org/other/a.safetensors", "org/other/deep/er/a b (v1.1).safetensors", "org/other/a.gguf"]
)
def test_a_source_with_a_suffix_is_the_name_of_a_file(tmp_path, name):
    assert locate(name, tmp_path, True) == name
    (tmp_path / "org" / "other").mkdir(parents=True)
    assert locate(name, tmp_path, True) == str(tmp_path / name), "such a folder is there, and lacks the file"


@pytest.mark.parametrize(
    "path", ["a.safetensors", "a/b/c", "./a/b/c.txt", "a/b/../c.txt", "a/../b/c.txt", "a/b/c.5", "a//c.txt", "a/b/.txt"]
)
def test_a_source_of_another_form_is_a_path(tmp_path, path):
    assert Path(locate(path, tmp_path, True)) == Path(os.path.abspath(tmp_path / path))


@pytest.mark.parametrize("path", ["../a.txt", "/a.txt", "a/../../b.txt", ".", "", "${name}/../../x"])
def test_an_output_stays_in_the_folder_of_the_run(workflow, path):
    file = nodes(
        "n: {uses: toy.number}", f's: {{uses: toy.save, with: {{thing: $n, path: "{path}"}}}}', outputs="{s: $s}"
    )
    assert workflow.codes(file) == ["bad-value"]


# --set


def test_set_reaches_every_parameter_that_is_not_wired(workflow):
    workflow.write(PART, "part.yaml")
    file = nodes(
        "n: {uses: toy.number}",
        "p: {uses: ./part.yaml, with: {thing: $n, scale: 2}}",
        "t: {uses: toy.ticks}",
        "o:",
        "  for: {t_: $t}",
        "  carry: {s: $p}",
        "  body:",
        "    next: {uses: toy.step, with: {tick: $t_, thing: $s}}",
        '    w: {uses: toy.need, with: {text: "turn ${index}"}}',
        "  yield: {s: $next}",
    )
    settings = {
        "n.value": "3",
        "p.scale": "4",
        "p.plain.whole": "5",
        "p.mode": "slow",
        "t.count": "2",
        "o.next.by": "10",
    }
    found = workflow.check(file, settings=settings)
    assert found.errors == []
    assert found.settings == {
        "n.value": 3.0,
        "p.scale": 4.0,
        "p.plain.whole": 5,
        "p.mode": "slow",
        "t.count": 2,
        "o.next.by": 10.0,
    }
    assert workflow.run(file, settings=settings).outputs["o"].value == 3 + 5 + 20
    assert workflow.check(file, settings={"o.w.text": "plain"}).errors == []


@pytest.mark.parametrize(
    ("parameter", "given", "value"),
    [
        ("text", "5", "5"),
        ("whole", "7", 7),
        ("ratio", "3", 3.0),
        ("flag", "true", True),
        ("mode", "slow", "slow"),
        ("level", "high", "high"),
        ("names", "[a, 1]", ["a", "1"]),
        ("names", "a", ["a"]),
        ("sizes", "[1, 2]", [1, 2]),
        ("sizes", "3", [3]),
        ("modes", "[fast, slow]", ["fast", "slow"]),
        ("maybe", "4", 4),
    ],
)
def test_set_reads_values_as_the_parameter_does(workflow, parameter, given, value):
    file = nodes("o: {uses: toy.plain}")
    assert workflow.value(file, settings={f"o.{parameter}": given}, parameter=f"o.{parameter}") == value


@pytest.mark.parametrize("parameter", ["whole", "sizes", "maybe", "ratio", "flag"])
def test_set_to_null_is_the_default(workflow, parameter):
    assert workflow.calls(
        nodes("o: {uses: toy.plain, with: {whole: 2, sizes: 3, maybe: 4}}"), settings={f"o.{parameter}": "null"}
    )["o"].args.keys() == {
        "whole",
        "sizes",
        "maybe",
    } - {parameter}


def test_set_replaces_a_missing_parameter(workflow):
    file = nodes("o: {uses: toy.need}")
    assert workflow.codes(file) == ["missing-parameter"]
    assert workflow.codes(file, settings={"o.text": "x"}) == []


def test_set_replaces_interpolated_text(workflow):
    file = nodes(
        "n: {uses: toy.number}",
        's: {uses: toy.save, with: {thing: $n, path: "${name}-${x}.txt"}}',
        outputs="{s: $s}",
        inputs=["x: {type: int, default: 1}"],
    )
    found = workflow.check(file, settings={"s.path": "a.txt"})
    assert found.errors == []


def test_set_wired_names_the_edge(workflow):
    file = nodes("n: {uses: toy.number}", "o: {uses: toy.pair, with: {thing: $n}}")
    (found,) = workflow.check(file, settings={"o.thing": "1"}).diagnostics
    assert found.code == "wired-parameter"
    assert "`n`" in found.message
    assert found.related[0].span.line == 4


def test_settings_never_hide_other_problems(workflow):
    file = nodes("n: {uses: toy.nmber}", "o: {uses: toy.need, with: {txt: a}}", outputs="{n: $n, o: $o}")
    codes = workflow.codes(file, settings={"n.value": "1", "x.y": "1"})
    assert sorted(codes) == ["missing-parameter", "unknown-node-type", "unknown-parameter", "unknown-parameter"]


# Experts, checks, everything at once


def test_one_of_two_values_of_any_one_type(workflow):
    def choose(above, below, inputs=()):
        return workflow.codes(
            nodes(
                "n: {uses: toy.number}",
                "g: {uses: toy.gadget}",
                f"o: {{uses: toy.choose, with: {{above: {above}, below: {below}}}}}",
                outputs="{n: $n, g: $g, o: $o}",
                inputs=inputs,
            )
        )

    assert choose("$n", "$n") == []
    assert choose("4.0", "3") == []
    assert choose("$a", "$b", ["a: {type: float, default: 4}", "b: {type: float, default: 3}"]) == []
    assert choose("$n", "$g") == ["type-mismatch"]
    assert choose("$n", "3") == ["type-mismatch"]
    assert choose("3", "$n") == ["type-mismatch"]


def test_checks_of_node_types_are_reported_beside_other_problems(workflow):
    file = nodes("n: {uses: toy.number, with: {valu: 1}}", "o: {uses: toy.backend, with: {thing: $n, backend: hyper}}")
    assert workflow.codes(file) == ["unknown-parameter", "unavailable"]


def test_checks_see_inputs_and_settings(workflow):
    file = nodes(
        "n: {uses: toy.number}",
        "o: {uses: toy.backend, with: {thing: $n, backend: $b}}",
        inputs=["b: {enum: [plain, quick, hyper], default: plain}"],
    )
    assert workflow.codes(file) == []
    assert workflow.codes(file, {"b": "quick"}) == []
    assert workflow.codes(file, {"b": "quick"}, {"o.masked": "true"}) == ["unsupported"]


def test_everything_is_reported_in_one_run(workflow):
    workflow.write("sgd: 1\nnodes: {a: {uses: toy.nothing}}\noutputs: {a: $a}\n", "part.yaml")
    file = nodes(
        "a: {uses: toy.number, with: {value: x}}",
        "b: {uses: toy.pair, with: {thing: $c}}",
        "d: {uses: toy.pair}",
        "e: {uses: ./part.yaml}",
        "f: {uses: ./missing.yaml}",
        outputs="{a: $a, b: $b, d: $d, e: $e, f: $f}",
        inputs=["x: {type: text}"],
    )
    assert sorted(workflow.codes(file, {"y": "1"}, {"z.z": "1"})) == [
        "bad-value",
        "bad-value",
        "composite-not-found",
        "missing-parameter",
        "unknown-input",
        "unknown-node-type",
        "unknown-parameter",
        "unknown-reference",
    ]


def test_duplicate_keys_and_anchors(workflow):
    file = nodes(
        "a: &a {uses: toy.plain, with: &w {whole: 3}}",
        "b: *a",
        "o: {uses: toy.plain, with: *w}",
        outputs="{a: $a, b: $b, o: $o}",
    )
    assert workflow.value(file, parameter="o.whole") == 3
    assert workflow.codes("sgd: 1\nsgd: 1\nnodes: {}\n") == ["duplicate-key"]


def test_loop_variable_in_a_write_path_stays_a_format(workflow):
    file = nodes(
        "n: {uses: toy.number}",
        'l: {for: {x: [a b, c]}, body: {s: {uses: toy.save, with: {thing: $n, path: "${x}.txt"}}}}',
        outputs="{}",
    )
    source = workflow.calls(file)["l.s"].args["path"].source
    assert isinstance(source, Format)
    assert source.safe
    assert (workflow.run(file).folder / "a-b.txt").is_file()


@pytest.mark.parametrize(
    ("value", "text"), [(0.1, "0.1"), (5.0, "5"), (1e16, "1e+16"), (True, "true"), (None, ""), (7, "7")]
)
def test_values_as_text(value, text):
    assert as_text(value) == text


def test_command_line_text_of_a_type_variable():
    assert read_text("3.5", Type("var", "T")) == 3.5
    assert read_text("word", Type("var", "T")) == "word"


def test_a_path_input_may_stand_in_text(workflow):
    file = nodes('o: {uses: toy.plain, with: {text: "${f} is a file"}}', inputs=["f: {type: path}"])
    assert workflow.value(file, {"f": "a/b.png"}, parameter="o.text") == "a/b.png is a file"


def test_loop_over_something_unknown_with_an_effect(workflow):
    file = nodes(
        "n: {uses: toy.number}",
        'l: {for: {x: $none}, body: {s: {uses: toy.save, with: {thing: $n, path: "${index}.txt"}}}}',
        outputs="{}",
    )
    assert workflow.codes(file) == ["unknown-reference"]
