"""Models from the hub. The real hub client talks to a local server that answers like the hub."""

import json
import os
import socket

import pytest
from helpers.hub_server import COMMIT, NAME, address, ask, serving

PROGRAM = """
import json, sys
from sgd.graph.contract.node import Run
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.nodes.model_load import load
job = json.loads(sys.argv[1])
out = {"progress": [], "warnings": [], "errors": []}
class Recorder(Run):
    planning = job.get("planning", False)
    device = "meta" if planning else "cpu"
    def warn(self, message, parameter=None): out["warnings"].append(message)
    def progress(self, done, total, label=""): out["progress"].append((done, total, label))
for source, revision, *parts in job["models"]:
    try:
        run = Recorder()
        known = load.node.facts.make({"source": source, "revision": revision})
        out["check"] = [p.message for p in load.node.check(known)]
        model = load(run, source, revision=revision)
        out["commit"] = model.facts().get("commit")
        for part in job.get("prefetch", ()):
            model.prefetch(part, run)
        for part in parts or job.get("parts", ()):
            model.acquire(part, run)
            out[part] = model.weights.parameters(part)[0]
        out["described"] = load.node.describe(known).family
    except NodeError as error:
        assert error.__cause__ is not None or job.get("bare")
        out["errors"].append([str(error), error.help])
out["torch"] = "torch" in sys.modules
print(json.dumps(out))
"""


@pytest.fixture
def hub(wan_folder):
    with serving(wan_folder) as server:
        yield server


@pytest.fixture
def sgd(tmp_path):
    def call(endpoint, *models, offline=False, **job):
        job["models"] = [m if isinstance(m, tuple) else (m, None) for m in models]
        return ask(PROGRAM, endpoint, tmp_path / "hub", job, offline)

    call.cache = tmp_path / "hub"  # type: ignore[attr-defined]
    return call


@pytest.mark.slow
def test_downloads_only_requested_files(hub, sgd):
    out = sgd(address(hub), NAME)
    assert out["errors"] == []
    assert out["commit"] == COMMIT
    assert out["described"] == "wan"
    assert not out["torch"]
    fetched = {path.split(f"{COMMIT}/")[1] for method, path, _ in hub.requests if f"/resolve/{COMMIT}/" in path}
    assert "model_index.json" in fetched
    assert "transformer/config.json" in fetched
    assert not any(name.endswith((".safetensors", "tokenizer.json", "spiece.model")) for name in fetched)

    hub.requests.clear()
    out = sgd(address(hub), NAME, parts=["vae", "tokenizer"])
    assert out["errors"] == []
    assert out["vae"] > 0
    got = {path for method, path, _ in hub.requests if method == "GET" and path.endswith(".safetensors")}
    assert {path.split(f"{COMMIT}/")[1] for path in got} == {"vae/diffusion_pytorch_model.safetensors"}
    done, total, label = out["progress"][-1]
    assert done == total > 0
    assert label == f"download {NAME}"
    assert out["stderr"] == ""

    # Cached files need no server. Files that are not cached are an error.
    out = sgd(address(hub), (NAME, None, "vae"), (NAME, COMMIT, "vae"), (NAME, None, "transformer"), offline=True)
    assert out["commit"] == COMMIT
    assert out["vae"] > 0
    ((message, _),) = out["errors"]
    assert "HF_HUB_OFFLINE" in message

    # A plan reads the configurations of the cached snapshot. It sends requests only if a configuration is missing.
    hub.requests.clear()
    out = sgd(address(hub), NAME, planning=True)
    assert (out["errors"], out["commit"]) == ([], COMMIT)
    assert hub.requests == []
    for file in sgd.cache.rglob("vae/config.json"):
        file.unlink()
    out = sgd(address(hub), NAME, planning=True)
    assert (out["errors"], out["described"]) == ([], "wan")
    assert len(hub.requests) > 0


def test_broken_download_resumes(hub, sgd, tmp_path, wan_folder):
    import shutil

    hub.folder = shutil.copytree(wan_folder, tmp_path / "large")
    file = hub.folder / "vae/diffusion_pytorch_model.safetensors"
    header = json.dumps({"a": {"dtype": "U8", "shape": [1 << 25], "data_offsets": [0, 1 << 25]}}).encode()
    content = len(header).to_bytes(8, "little") + header + os.urandom(1 << 20) * 32
    file.write_bytes(content)
    hub.cut = 1
    out = sgd(address(hub), NAME, prefetch=["vae", "vae"])
    assert out["errors"] == []
    assert not out["torch"]
    ranges = [span for method, path, span in hub.requests if method == "GET" and path.endswith(".safetensors")]
    assert ranges[0] is None
    assert ranges[1].startswith("bytes=")
    assert ranges[1] != "bytes=0-"
    (blob,) = (f for f in sgd.cache.rglob("*.safetensors") if f.parent.name == "vae")
    assert blob.read_bytes() == content


def test_errors_of_the_hub(hub, sgd):
    models = [
        "private/model",
        "gated/model",
        "forbidden/model",
        "broken/model",
        (NAME, "no-such-tag"),
    ]
    out = sgd(address(hub), *models)
    messages = [message for message, _ in out["errors"]]
    helps = [help for _, help in out["errors"]]
    assert messages == [
        "private/model is not a folder, and the hub has no public repository with this name",
        "gated/model is gated: only accounts that accepted its terms may download its files",
        "the hub refuses access to forbidden/model (HTTP 403)",
        "the hub answered HTTP 500 for broken/model",
        f"{NAME} has no revision no-such-tag",
    ]
    assert "hf auth login" in helps[0]
    assert "https://huggingface.co/gated/model" in helps[1]
    assert "HF_TOKEN" in helps[2]
    assert out["check"] == []


def test_a_repository_in_another_layout_is_an_error(hub, sgd, tmp_path):
    hub.folder = tmp_path / "other"
    hub.folder.mkdir()
    (hub.folder / "model.safetensors").write_bytes(b"")
    ((message, help),) = sgd(address(hub), NAME, bare=True)["errors"]
    assert message == f"{NAME} is not in diffusers' layout: it has no model_index.json"
    assert "-Diffusers" in help


def test_pickled_weights_are_refused_and_not_downloaded(hub, sgd, tmp_path, wan_folder):
    import shutil

    hub.folder = shutil.copytree(wan_folder, tmp_path / "pickled")
    (hub.folder / "vae/diffusion_pytorch_model.safetensors").rename(hub.folder / "vae/diffusion_pytorch_model.bin")
    ((message, _),) = sgd(address(hub), NAME, parts=["vae"], bare=True)["errors"]
    assert message.startswith(f"{NAME}: vae has its weights only as pickled files (diffusion_pytorch_model.bin)")
    assert not any(path.endswith(".bin") for _, path, _ in hub.requests)


def test_an_unreachable_hub_is_an_error(sgd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"  # a bound socket that does not listen refuses connections
        out = sgd(closed, NAME)
        ((message, help),) = out["errors"]
        assert message.startswith(f"{NAME} is not completely in the local cache, and the hub cannot be reached: ")
        assert "HF_ENDPOINT" in help
        assert not out["torch"]
        # Bundled configurations need no network.
        out = sgd(closed, "Wan-AI/Wan2.1-T2V-14B-Diffusers", planning=True)
        assert out["errors"] == []
