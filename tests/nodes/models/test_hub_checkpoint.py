"""A checkpoint on the hub, through its real client: against a server on this machine that answers as the hub does."""

from __future__ import annotations

import shutil

import pytest
from helpers import checkpoint_layouts as layouts
from helpers import tiny
from helpers.hub_server import COMMIT, NAME, address, ask, asked, serving
from safetensors.torch import save_file

PROGRAM = """
import json, sys
from sgd.graph.contract.node import Run
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.nodes.model_load import load
job, out = json.loads(sys.argv[1]), []
class Tell(Run):
    def __init__(self): self.details, self.progressed = {}, []
    def detail(self, **values): self.details |= values
    def progress(self, done, total, label=""): self.progressed.append([done, total, label])
for name in job["names"]:
    run, said = Tell(), {}
    out.append(said)
    check = lambda: [p.message for p in load.node.check(load.node.facts.make({"source": job["model"], "vae": name}))]
    said["before"] = check()
    try:
        load(run, job["model"], vae=name)
    except NodeError as error:
        said["error"], said["help"] = str(error), error.help
    said["after"] = check()
    said["details"], said["progress"] = run.details, run.progressed
print(json.dumps({"calls": out, "torch": "torch" in sys.modules}))
"""


@pytest.fixture
def hub(tmp_path):
    """A repository with files of several programs, of which one is a VAE."""
    folder = tmp_path / "repository"
    (folder / "split_files" / "vae").mkdir(parents=True)
    vae = tiny.wan_vae()
    save_file(layouts.wan_vae(vae.state_dict()), folder / "split_files" / "vae" / "wan_2.1_vae.safetensors")
    save_file(layouts.wan(tiny.wan_transformer().state_dict()), folder / "other.safetensors")
    (folder / "old.ckpt").write_bytes(b"\x80\x04")
    layouts.source(tmp_path / "model", "WanPipeline", vae=vae)
    with serving(folder) as server:
        yield server


def test_one_file_of_a_repository_is_downloaded_and_recorded(hub, tmp_path):
    name = f"{NAME}/split_files/vae/wan_2.1_vae.safetensors"
    names = [name, f"{NAME}/other.safetensors", f"{NAME}/nowhere.gguf", f"{NAME}/old.ckpt"]
    job = {"model": str(tmp_path / "model"), "names": names}
    said = ask(PROGRAM, address(hub), tmp_path / "hub", job, False)
    assert said["stderr"] == ""
    assert not said["torch"]
    vae, other, none, pickled = said["calls"]
    assert vae["before"] == vae["after"] == []
    stored = vae["details"]["checkpoints"]["vae"]
    assert (stored["file"], stored["commit"], stored["format"]) == (name, COMMIT, "safetensors")
    done, total, label = vae["progress"][-1]
    assert (done, label) == (total, f"download {NAME}")
    assert other["before"] == []
    assert other["after"] == [other["error"]]
    assert "is not a checkpoint of vae (AutoencoderKLWan)" in other["error"]
    assert other["help"] == "it looks like a transformer of Wan"
    assert none["error"] == f"{NAME} has no file nowhere.gguf"
    assert "other.safetensors" in none["help"]
    assert "pickled" in pickled["error"]
    assert pickled["before"] == [pickled["error"]]
    assert asked(hub) == {"split_files/vae/wan_2.1_vae.safetensors", "other.safetensors"}
    shutil.rmtree(hub.folder)
    job["names"] = [name]
    [cached] = ask(PROGRAM, address(hub), tmp_path / "hub", job, True)["calls"]
    assert cached["details"]["checkpoints"]["vae"] == stored
