"""No workflow file names a file of the store. The oracle: the place of the word in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.slow_nodes import library_in
from sgd.graph.compiler.compile import check, compile
from sgd.graph.contract.errors import NodeError
from sgd.graph.runtime.run import run
from sgd.graph.store.entries import FolderStore

READ = """sgd: 1
name: w
nodes:
  one: {uses: slow.read, with: {path: PATH}}
  file: {uses: slow.save, with: {a: $one, path: n.txt}}
"""


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """A file with the name of an entry of a store."""
    FolderStore(tmp_path / "store")
    path = tmp_path / "store" / f"{'0' * 64}.safetensors"
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("form", ["whole", "relative", "link", "folder"])
def test_a_path_into_the_store_is_an_error_at_its_place(tmp_path: Path, entry: Path, form: str) -> None:
    (tmp_path / "link").symlink_to(entry)
    forms = {"whole": str(entry), "relative": f"./store/{entry.name}", "link": "link", "folder": "store"}
    (tmp_path / "w.yaml").write_text(READ.replace("PATH", forms[form]))
    (found,) = check(tmp_path / "w.yaml", library=library_in(tmp_path)).errors
    assert found.code == "bad-value"
    assert "folder of stored results" in found.message
    assert found.span is not None
    assert (found.span.line, found.span.column) == (4, 39)


def test_a_model_a_used_file_and_a_reference_cannot_be_there(tmp_path: Path, entry: Path) -> None:
    (tmp_path / "w.yaml").write_text(
        "sgd: 1\nname: w\nnodes:\n"
        "  model: {uses: model.load, with: {source: ./store}}\n"
        f"  styled: {{uses: model.lora, with: {{model: $model, source: {entry}}}}}\n"
        "  part: {uses: ./store/part.yaml}\n"
        "outputs: {m: $styled}\n"
    )
    (tmp_path / "store" / "part.yaml").write_text("sgd: 1\nnodes: {}\n")
    found = check(tmp_path / "w.yaml").errors
    assert {d.span.line for d in found if d.span is not None and "folder of stored" in d.message} == {4, 5, 6}


def test_a_path_that_is_known_only_in_the_run_is_an_error_of_its_node(tmp_path: Path, entry: Path) -> None:
    loop = "{for: {p: [PATH]}, body: {r: {uses: slow.read, with: {path: $p}}}, yield: {r: $r}}"
    text = READ.replace("{uses: slow.read, with: {path: PATH}}", loop).replace("PATH", str(entry))
    text = text.replace("{a: $one,", "{a: $n,").replace("file: {", "file: {for: {n: $one}, body: {f: {")
    text = text.replace("path: n.txt}}", 'path: "n-${index}.txt"}}}, yield: {}}')
    (tmp_path / "w.yaml").write_text(text)
    done = run(compile(tmp_path / "w.yaml", library=library_in(tmp_path)), out=tmp_path / "out")
    assert done.status == "failed"
    assert "w.yaml:4" in str(done.error)
    assert "folder of stored results" in str(done.error)


def test_a_folder_with_other_files_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    tmp_path.chmod(0o700)
    with pytest.raises(NodeError, match=r"other files, such as notes\.txt"):
        FolderStore(tmp_path)
