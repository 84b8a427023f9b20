"""The recipe of a run: what it holds, that equal runs have equal ones, and that it is data that nothing trusts."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import keeping
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from PIL import Image
from sgd.graph.cli import main
from sgd.graph.compiler.compile import check, compile
from sgd.graph.contract.errors import Problems, UnreadableFile
from sgd.graph.language.recipe import MOST_FILES, Recipe, RecipeFile, UsedFile, differences, parse_recipe
from sgd.graph.language.registry import standard
from sgd.graph.runtime.run import run

SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[2] / "docs" / "run.schema.json").read_text()))
KEEP = Path(keeping.__file__)
INNER = """sgd: 1
inputs: {v: {type: float}, image: {type: path, default: ./own.txt}}
nodes:
  s: {uses: keep.save, with: {value: $v, source: $image}}
outputs: {o: $s}
"""
OUTER = """sgd: 1
inputs:
  v: {type: float, default: 1}
  note: {type: str, default: hello}
  image: {type: path, default: data/own.txt}
nodes:
  inner: {uses: ./parts/inner.yaml, with: {v: $v, image: $image}}
  outer: {uses: keep.save, with: {value: 7, words: $note, path: outer.keep}}
outputs: {inner: $inner, outer: $outer}
"""


@pytest.fixture(scope="module")
def library():
    found = standard()
    found.add_file(KEEP)
    return found


def workplace(folder: Path) -> Path:
    """A folder with a workflow that uses a file, and with data. Returns the workflow."""
    (folder / "parts").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "parts" / "inner.yaml").write_text(INNER)
    (folder / "parts" / "own.txt").write_text("part")
    (folder / "data" / "own.txt").write_text("data")
    (folder / "outer.yaml").write_text(OUTER)
    return folder / "outer.yaml"


def ran(file: str | Path, out: Path, library, inputs=None, **more):
    plan = compile(file, inputs=inputs, library=library, set=more.pop("set", None))
    done = run(plan, out=out, **more)
    assert done.status == "done", done.error
    SCHEMA.validate(done.record)
    return done.record


def test_equal_runs_in_two_folders_leave_equal_bytes(tmp_path, monkeypatch, library):
    for name in ("a", "b/c"):
        workplace(tmp_path / name)
    one = ran(tmp_path / "a" / "outer.yaml", tmp_path / "one", library, {"v": 2.0})
    monkeypatch.chdir(tmp_path / "b")
    two = ran("c/outer.yaml", Path("two"), library, {"note": "hello", "v": 2})
    assert one["recipe"] == two["recipe"]
    for name in ("value.keep", "outer.keep"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "b" / "two" / name).read_bytes()
    text = (tmp_path / "one" / "outer.keep").read_text()
    for word in (str(tmp_path), os.uname().nodename, one["started"][:10]):
        assert word not in text


def test_what_a_recipe_holds(tmp_path, library):
    file = workplace(tmp_path)
    digest = hashlib.sha256(b"data").hexdigest()
    found = ran(file, tmp_path / "o", library, {"v": 3.0}, options={"loud": True, "allow": True},
                set={"outer.value": 8.0})["recipe"]  # fmt: skip
    assert found["files"] == [{"name": "outer.yaml", "text": OUTER}, {"name": "parts/inner.yaml", "text": INNER}]
    assert found["inputs"] == {"v": 3.0, "note": "hello"}, "a default path stays relative to its file"
    assert found["set"] == {"outer.value": 8.0}
    assert found["options"] == {"loud": True}, "a permission is not kept"
    assert found["device"] == "cpu"
    assert set(found["versions"]) == {"sgd", "pillow"}
    assert found["input_files"] == [{"name": "own.txt", "sha256": digest}]
    assert found["libraries"] == [{"name": "keeping.py", "sha256": hashlib.sha256(KEEP.read_bytes()).hexdigest()}]


def test_a_whole_path_is_kept_as_its_name_alone(tmp_path, library):
    file = workplace(tmp_path)
    given = tmp_path / "data" / "own.txt"
    record = ran(file, tmp_path / "o", library, {"image": str(given)}, set={"outer.source": str(given)})
    assert record["recipe"]["inputs"]["image"] == "own.txt"
    assert record["recipe"]["set"] == {"outer.source": "own.txt"}
    assert record["inputs"]["image"] == str(given), "the record tells it all"
    assert check(tmp_path / "o", library=library).values["image"].value == str(given)


def test_a_whole_path_in_the_text_is_part_of_the_text(tmp_path, monkeypatch, library):
    """Runs of equal texts are equal, in any folder; the text is not changed for that."""
    (tmp_path / "own.txt").write_text("data")
    text = f"""sgd: 1
inputs: {{image: {{type: path, default: {tmp_path}/own.txt}}}}
nodes:
  given: {{uses: keep.save, with: {{value: 1, source: $image, path: given.keep}}}}
  written: {{uses: keep.save, with: {{value: 2, source: {tmp_path}/own.txt, path: written.keep}}}}
outputs: {{given: $given, written: $written}}
"""
    recipes = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Path("w.yaml").write_text(text)
        recipes.append(ran("w.yaml", Path("out"), library)["recipe"])
    assert recipes[0] == recipes[1]
    assert recipes[0]["files"] == [{"name": "w.yaml", "text": text}]
    assert recipes[0]["input_files"] == [{"name": "own.txt", "sha256": hashlib.sha256(b"data").hexdigest()}]
    for name in ("given.keep", "written.keep"):
        assert (tmp_path / "a" / "out" / name).read_bytes() == (tmp_path / "b" / "out" / name).read_bytes()
    assert check(tmp_path / "a" / "out", library=library).values["image"].value == str(tmp_path / "own.txt")


def test_bundled_files_are_references(tmp_path):
    (tmp_path / "w.yaml").write_text("sgd: 1\nnodes: {}\n")
    recipe = compile("quickstart").recipe
    assert recipe is not None
    assert [each.name for each in recipe.files] == ["sgd:quickstart.yaml", "sgd:parts/cfg_denoise.yaml"]
    import sgd.workflows

    folder = Path(next(iter(sgd.workflows.__path__)))
    for each in recipe.files:
        text = (folder / each.name.removeprefix("sgd:")).read_text(encoding="utf-8")
        assert (each.text, each.sha256) == (None, hashlib.sha256(text.encode()).hexdigest())


@pytest.mark.parametrize("what", ["folder", "record", "file", "recipe"])
def test_a_run_stands_for_its_workflow(tmp_path, monkeypatch, library, what):
    record = ran(workplace(tmp_path / "a"), tmp_path / "o", library, {"v": 3.0, "note": "x"}, set={"outer.value": 9.0})
    monkeypatch.chdir(tmp_path / "a")
    (tmp_path / "r.json").write_text(json.dumps(record["recipe"]))
    file = {"folder": "o", "record": "o/run.json", "file": "o/outer.keep", "recipe": "r.json"}[what]
    again = ran(tmp_path / file, Path("new"), library)
    assert again["recipe"] == record["recipe"]
    assert again["workflow"] == record["workflow"]
    for name in ("value.keep", "outer.keep"):
        assert (tmp_path / "o" / name).read_bytes() == Path("new", name).read_bytes()
    won = ran(tmp_path / file, Path("won"), library, {"note": "mine"}, set={"outer.value": 5.0})
    assert Path("won/outer.keep").read_bytes().split(b"\n")[1] == b"5 - mine"
    assert won["inputs"] == {"v": 3.0, "note": "mine", "image": "data/own.txt"}


def test_paths_are_relative_to_the_current_folder(tmp_path, monkeypatch, library):
    ran(workplace(tmp_path / "a"), tmp_path / "o", library)
    there = tmp_path / "elsewhere" / "data"
    there.mkdir(parents=True)
    (there / "own.txt").write_text("other data")
    monkeypatch.chdir(there.parent)
    ran(tmp_path / "o" / "outer.keep", Path("new"), library)
    assert hashlib.sha256(b"other data").hexdigest() in Path("new/value.keep").read_text()


def of(*files: dict, **more) -> str:
    return json.dumps({"recipe": 1, "files": list(files), **more})


def test_a_missing_picture_of_a_recipe_is_looked_for_in_the_current_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nodes = "a: {uses: image.load, with: {path: $p}}, s: {uses: image.save, with: {frames: $a, path: s.png}}"
    text = f"sgd: 1\ninputs: {{p: {{type: path}}}}\nnodes: {{{nodes}}}\noutputs: {{s: $s}}\n"
    Path("r.json").write_text(of({"name": "w.yaml", "text": text}, inputs={"p": "in.png"}))
    assert main.main(["exec", "r.json"]) == 2
    said = capsys.readouterr().err
    assert "there is no file in.png" in said
    assert "help: paths in a recipe are relative to the current folder: run this where the workflow ran" in said
    Image.new("RGB", (32, 32)).save("in.png")
    assert main.main(["exec", "r.json", "q=1"]) == 2
    assert "paths in a recipe" not in capsys.readouterr().err


@pytest.mark.parametrize("uses", ["./secret.yaml", "../secret.yaml", "{here}/secret.yaml", "sgd:../secret.yaml"])
def test_no_file_of_this_disk_is_read_for_a_recipe(tmp_path, monkeypatch, library, uses):
    (tmp_path / "in").mkdir()
    for folder in (tmp_path, tmp_path / "in"):
        (folder / "secret.yaml").write_text("sgd: 1\nnodes: {secret: {uses: keep.save}}\n")
    monkeypatch.chdir(tmp_path / "in")
    text = f"sgd: 1\nnodes:\n  n: {{uses: '{uses.format(here=tmp_path)}'}}\n"
    Path("r.json").write_text(of({"name": "w.yaml", "text": text}))
    found = check("r.json", library=library)
    assert [d.code for d in found.errors] == ["composite-not-found"]
    assert found.errors[0].span.file == "r.json:w.yaml"
    assert "secret: " not in str(found.sources)


@pytest.mark.parametrize("name", ["../part.yaml", "/etc/part.yaml", "a/../../part.yaml"])
def test_names_of_files_are_only_names(tmp_path, monkeypatch, library, name):
    monkeypatch.chdir(tmp_path)
    part = "sgd: 1\nnodes: {s: {uses: keep.save, with: {value: 4}}}\noutputs: {o: $s}\n"
    outer = f"sgd: 1\nnodes: {{n: {{uses: {name if name[0] in './' else './' + name}}}}}\noutputs: {{o: $n}}\n"
    Path("r.json").write_text(of({"name": "w.yaml", "text": outer}, {"name": name, "text": part}))
    record = ran("r.json", Path("o"), library)
    assert record["outputs"] == {"o": "value.keep"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o", "r.json"]
    assert not Path(name).exists()


def test_a_recipe_cannot_stand_for_a_bundled_file(tmp_path, monkeypatch):
    import sgd.workflows

    monkeypatch.chdir(tmp_path)
    real = Path(next(iter(sgd.workflows.__path__))).resolve() / "parts" / "text_to_image.yaml"
    outer = "sgd: 1\nnodes: {n: {uses: 'sgd:parts/text_to_image.yaml'}}\n"
    forged = {"name": str(real), "text": "sgd: 1\nnodes: {}\n"}
    Path("r.json").write_text(of({"name": "w.yaml", "text": outer}, forged))
    assert any("missing" in d.code for d in check("r.json", complete=True).errors), "the real part needs parameters"


def test_a_bundled_file_that_has_changed_gives_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.json").write_text(of({"name": "sgd:quickstart.yaml", "sha256": "0" * 64}))
    found = check("r.json")
    assert found.graph is not None
    assert [(d.code, d.message) for d in found.warnings] == [
        ("version", "sgd:quickstart.yaml has changed since r.json was made")
    ]
    Path("r.json").write_text(of({"name": "sgd:nothing.yaml", "sha256": "0" * 64}))
    assert [d.code for d in check("r.json").errors] == ["composite-not-found"]


def test_a_library_is_never_loaded_from_a_recipe(tmp_path, monkeypatch, library, capsys):
    ran(workplace(tmp_path), tmp_path / "o", library)
    monkeypatch.chdir(tmp_path)
    assert main.main(["check", "o"]) == 2
    said = capsys.readouterr().err
    assert "warning[unavailable]: o/run.json was made with --library keeping.py" in said
    assert "error[unknown-node-type]" in said
    assert main.main(["check", "o", "--library", str(KEEP)]) == 0
    assert capsys.readouterr().err == ""
    other = tmp_path / "keeping.py"
    other.write_text(KEEP.read_text() + "# changed\n")
    assert main.main(["check", "o", "--library", str(other)]) == 0
    assert "is not the file that o/run.json was made with" in capsys.readouterr().err


def test_options_are_told_and_not_taken(tmp_path, monkeypatch, library, capsys):
    ran(workplace(tmp_path), tmp_path / "o", library, options={"loud": True})
    monkeypatch.chdir(tmp_path)
    assert main.main(["exec", "o", "--out", "new", "--quiet", "--library", str(KEEP)]) == 0
    assert "was made with --loud, which is not taken from a recipe" in capsys.readouterr().err
    assert Path("new/outer.keep").read_bytes().startswith(b"KEEP\n7 ")


def test_without_metadata_files_carry_nothing(tmp_path, monkeypatch, library, capsys):
    workplace(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["exec", "outer.yaml", "--quiet", "--library", str(KEEP)]
    assert main.main([*words, "--out", "o", "--no-metadata"]) == 0
    assert Path("o/outer.keep").read_bytes() == b"KEEP\n7 - hello"
    assert json.loads(Path("o/run.json").read_text())["recipe"]["files"][0]["name"] == "outer.yaml"
    assert main.main(["check", "o/outer.keep", "--library", str(KEEP)]) == 2
    assert "carries no recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not closed"),
        ("[1]", "not the record of a run"),
        ('{"record": 1}', "has no recipe"),
        ('{"record": 2, "sgd": "9.9", "recipe": {}}', "is a record of version 2; this sgd reads version 1"),
        ('{"record": "1", "recipe": {}}', "is a record of version '1'"),
        ('{"record": 1, "recipe": {"recipe": 2, "files": []}}', "version 2"),
        ('{"record": 1, "recipe": {"recipe": 1, "files": []}}', "damaged"),
        ('{"record": 1, "recipe": {"recipe": 1, "files": [{"name": "a"}]}}', "either `text` or `sha256`"),
        ('{"record": 1, "recipe": {"recipe": 1, "files": [{"name": "a", "text": 3}]}}', "files.0.text"),
        ('{"record": 1, "recipe": {"recipe": 1, "files": [{"name": "a", "sha256": "x"}]}}', "damaged"),
        ('{"record": 1, "recipe": {"recipe": 1, "inputs": 3, "files": [{"name": "a", "text": ""}]}}', "inputs"),
        ("[" * 10_000, "nested more than"),
        ("", "empty"),
    ],
)
def test_a_damaged_record_is_one_clear_error(tmp_path, text, said, capsys):
    (tmp_path / "run.json").write_text(text)
    assert main.main(["check", str(tmp_path)]) == 2
    found = capsys.readouterr()
    assert said in found.err
    assert found.err.count("error[") == 1
    assert found.out == ""


def test_too_many_files_are_refused():
    files = [{"name": f"{number}.yaml", "text": ""} for number in range(MOST_FILES + 1)]
    with pytest.raises(UnreadableFile, match="damaged"):
        parse_recipe(of(*files), "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["recipe", "files", "inputs", "set", "options", "device", "versions", "libraries", "weights"])
FILES = st.lists(
    st.fixed_dictionaries({"name": st.text(max_size=12)}, optional={"text": st.text(max_size=30), "sha256": JSON}),
    max_size=3,
)


@given(st.text(max_size=200) | JSON.map(json.dumps))
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_recipe_or_a_clear_error(text):
    with pytest.raises(UnreadableFile):
        parse_recipe(text, "x.png")


@given(st.dictionaries(KEYS, JSON, max_size=5), FILES)
@settings(max_examples=200, deadline=None)
def test_any_recipe_is_read_or_a_clear_error(values, files):
    found = None
    with suppress(UnreadableFile):
        found = parse_recipe(json.dumps({"files": files, **values, "recipe": 1}), "x.png")
    assert found is None or parse_recipe(found.text(), "x.png") == found


@given(
    st.lists(
        st.fixed_dictionaries({"name": st.text(min_size=1, max_size=12), "text": st.text(max_size=60)}),
        min_size=1,
        max_size=3,
    ),
    st.dictionaries(st.text(max_size=6), JSON, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_any_workflow_in_a_recipe_gives_diagnostics_alone(tmp_path_factory, files, inputs):
    place = tmp_path_factory.mktemp("any") / "r.json"
    place.write_text(json.dumps({"recipe": 1, "files": files, "inputs": inputs}), encoding="utf-8")
    found = check(place, library=standard_library())
    assert found.errors


def standard_library(cache=[]):  # noqa: B006
    cache[:] = cache or [standard()]
    return cache[0]


def test_differences_are_named():
    file = RecipeFile(name="w.yaml", text="a")
    hashed = [UsedFile(source="m", name="x", sha256=letter * 64) for letter in "ab"]
    before = Recipe((file,), {"v": 1}, device="cpu", versions={"torch": "1"}, used={"weights": (hashed[0],)})
    after = Recipe(
        (RecipeFile(name="w.yaml", text="b"),), {"v": 2, "w": 1}, device="card", versions={"torch": "2"},
        used={"weights": (hashed[1],)}, libraries=(UsedFile(name="l.py"),),
    )  # fmt: skip
    assert differences(before, before) == []
    assert differences(before, after) == [
        "w.yaml has changed", "input v: 1 then, 2 now", "input w: only now", "device: cpu then, card now",
        "torch: 1 then, 2 now", "library l.py only now", "m/x has other bytes",
    ]  # fmt: skip
    unknown = Recipe((file,), {"v": 1}, device="cpu", versions={"torch": "1"},
                     used={"weights": (UsedFile(source="m", name="x"),)})  # fmt: skip
    assert differences(before, unknown) == ["m/x: its bytes were not hashed now"]


def test_a_text_of_more_than_the_limit_is_refused():
    with pytest.raises(UnreadableFile, match="longer than 8 MiB"):
        parse_recipe(" " * (9 << 20), "x")


def test_a_foreign_file_is_no_recipe(tmp_path):
    (tmp_path / "x.json").write_text('{"sgd": 1, "nodes": {}}')
    assert check(tmp_path / "x.json").graph is not None
    with pytest.raises(Problems):
        compile(tmp_path / "none.png")
