"""A LoRA from the hub, through its real client: against a server on this machine that answers as the hub does."""

import shutil
import socket

import pytest
from helpers.changed import adapters
from helpers.hub_server import COMMIT, NAME, address, ask, asked, commit_of, serving

pytest.importorskip("peft")

PROGRAM = """
import json, sys
from sgd.graph.contract.node import Run
from sgd.graph.contract.errors import NodeError
from sgd.nodes.models.nodes.model_load import load
from sgd.nodes.models.nodes.model_lora import lora
job, out = json.loads(sys.argv[1]), []
class Tell(Run):
    planning = job["planning"]
    device = "meta" if planning else "cpu"
    options = {"weights": "dummy"} if job["dummy"] else {}
    def __init__(self): self.details, self.progressed, self.warnings = {}, [], []
    def warn(self, message): self.warnings.append(message)
    def detail(self, **values): self.details |= values
    def progress(self, done, total, label=""): self.progressed.append([done, total, label])
model = load(Tell(), job["model"], dtype="float32")
for call in job["calls"]:
    run, said = Tell(), {}
    out.append(said)
    said["check"] = [[p.code, p.parameter, p.message] for p in lora.node.check(lora.node.facts.make(call))]
    try:
        value = lora(run, model, **call)
        said["transforms"] = len(value.transforms)
        said["file"] = str(value.transforms[-1].file) if value.transforms else None
        if job["acquire"]:
            value.acquire("transformer", run)
    except NodeError as error:
        said["error"], said["help"] = str(error), error.help
    said["details"], said["progress"], said["warnings"] = run.details, run.progressed, run.warnings
print(json.dumps({"calls": out, "torch": "torch" in sys.modules}))
"""


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """Three files of random adapters, for the tiny Wan."""
    from helpers import tiny

    folder = tmp_path_factory.mktemp("styles")
    return [adapters(tiny.wan(), folder, seed) for seed in (1, 2, 3)]


@pytest.fixture
def hub(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "README.md").write_text("Styles.")
    (folder / "pytorch_lora_weights.bin").write_bytes(b"\x80")
    with serving(folder) as server:
        yield server


@pytest.fixture
def ask_lora(tmp_path, wan_folder):
    def ask_lora(endpoint, *calls, offline=False, planning=False, acquire=False, dummy=False):
        asked_for = [{"source": NAME, **call} for call in calls or ({},)]
        job = {"model": str(wan_folder), "calls": asked_for, "planning": planning, "acquire": acquire, "dummy": dummy}
        out = ask(PROGRAM, endpoint, tmp_path / "hub", job, offline)
        assert out["stderr"] == ""
        assert out["torch"] == acquire
        return out["calls"]

    return ask_lora


def put(server, file, name, folder=None):
    target = (folder or server.folder) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    return shutil.copyfile(file, target)


def content(said):
    with open(said["file"], "rb") as stream:
        return stream.read()


@pytest.mark.slow
def test_the_only_file(hub, ask_lora, styles):
    put(hub, styles[0], "style.safetensors")
    put(hub, styles[1], "earlier/style-1000.safetensors")
    [planned] = ask_lora(address(hub), planning=True)
    assert (hub.requests, planned["check"], planned["details"]["lora"]) == ([], [], NAME)
    [said] = ask_lora(address(hub), acquire=True)
    assert asked(hub) == {"style.safetensors"}
    assert content(said) == styles[0].read_bytes()
    del said["details"]["transformer"]
    assert said["details"] == {"lora": "style.safetensors", "scale": 1.0, "commit": COMMIT, "lora_tensors": 24}
    done, total, label = said["progress"][-1]
    assert (done, label) == (total, f"download {NAME}")
    # A cached file needs no server; another one says so.
    cached, other = ask_lora(address(hub), {}, {"weight_name": "earlier/style-1000.safetensors"}, offline=True)
    assert cached["file"] == said["file"]
    assert "HF_HUB_OFFLINE" in other["error"]


def test_one_of_several(hub, ask_lora, styles):
    put(hub, styles[0], "one.safetensors")
    put(hub, styles[1], "two.safetensors")
    put(hub, styles[2], "deep/three.safetensors")
    unnamed, two, three, wrong, pattern, pickled, outside = ask_lora(
        address(hub),
        {},
        {"weight_name": "two.safetensors"},
        {"weight_name": "deep/three.safetensors"},
        {"weight_name": "four.safetensors"},
        {"weight_name": "*.safetensors"},
        {"weight_name": "pytorch_lora_weights.bin"},
        {"weight_name": "../one.safetensors"},
    )
    assert unnamed["error"] == f"{NAME} holds 2 safetensors files"
    assert unnamed["help"] == "set weight_name: one.safetensors or two.safetensors"
    assert (content(two), content(three)) == (styles[1].read_bytes(), styles[2].read_bytes())
    assert wrong["error"] == f"{NAME} has no file four.safetensors"
    assert wrong["help"] == "its safetensors files: deep/three.safetensors, one.safetensors, two.safetensors"
    assert pattern["error"] == f"{NAME} has no file *.safetensors"
    assert "not a safetensors file; reading other formats can run code" in pickled["error"]
    assert pickled["check"] == [["bad-value", "weight_name", pickled["error"]]]
    assert "is not a path inside" in outside["error"]
    assert asked(hub) == {"two.safetensors", "deep/three.safetensors"}


def test_a_source_that_names_a_file(hub, ask_lora, styles):
    put(hub, styles[0], "one.safetensors")
    put(hub, styles[1], "deep/er/two v1.1.safetensors")
    config = '{"peft_type": "LORA", "r": 4, "lora_alpha": 8}'
    (hub.folder / "deep" / "er" / "adapter_config.json").write_text(config)
    [planned] = ask_lora(address(hub), {"source": f"{NAME}/one.safetensors"}, planning=True)
    assert (hub.requests, planned["check"]) == ([], [])
    one, two, none, twice, pickled = ask_lora(
        address(hub),
        {"source": f"{NAME}/one.safetensors"},
        {"source": f"{NAME}/deep/er/two v1.1.safetensors"},
        {"source": f"{NAME}/deep/three.safetensors"},
        {"source": f"{NAME}/one.safetensors", "weight_name": "two.safetensors"},
        {"source": f"{NAME}/pytorch_lora_weights.bin"},
    )
    assert (content(one), content(two)) == (styles[0].read_bytes(), styles[1].read_bytes())
    assert one["details"]["commit"] == COMMIT
    assert asked(hub) == {
        *("one.safetensors", "deep/er/two v1.1.safetensors"),
        "deep/er/adapter_config.json",  # peft keeps the strength of its files there
    }
    assert none["error"] == f"{NAME} has no file deep/three.safetensors"
    assert none["help"] == "its safetensors files: deep/er/two v1.1.safetensors, one.safetensors"
    for said in (twice, pickled):
        assert said["check"] == [["bad-value", "source", said["error"]]]
    assert twice["error"] == f"{NAME}/one.safetensors names a file, and weight_name names two.safetensors"
    assert "not a safetensors file" in pickled["error"]
    # A file in the cache is checked without a server.
    [cached] = ask_lora(address(hub), {"source": f"{NAME}/one.safetensors"}, offline=True, planning=True)
    assert cached["file"] == one["file"]


def test_random_weights_go_without_a_file_that_is_not_on_this_disk(hub, ask_lora, styles):
    put(hub, styles[0], "one.safetensors")
    call = {"source": f"{NAME}/one.safetensors"}
    [without] = ask_lora(address(hub), call, dummy=True)
    assert hub.requests == []
    [warning] = without["warnings"]
    assert warning.startswith(f"{NAME}/one.safetensors is not on this disk")
    assert without["transforms"] == 0
    ask_lora(address(hub), call)
    [cached] = ask_lora(address(hub), call, dummy=True)
    assert (cached["warnings"], cached["transforms"]) == ([], 1)


def test_revision(hub, ask_lora, styles, tmp_path):
    put(hub, styles[0], "style.safetensors")
    put(hub, styles[1], "style.safetensors", tmp_path / "second")
    hub.others["second"] = tmp_path / "second"
    first, second, commit, none, wrong = ask_lora(
        address(hub), *({"revision": r} for r in (None, "second", commit_of("second"), "third", "../third"))
    )
    assert content(first) == styles[0].read_bytes()
    assert content(second) == content(commit) == styles[1].read_bytes()
    assert (first["details"]["commit"], second["details"]["commit"]) == (COMMIT, commit_of("second"))
    assert none["error"] == f"{NAME} has no revision third"
    assert wrong["error"] == "'../third' is not a revision"
    assert wrong["check"] == [["bad-value", "revision", wrong["error"]]]


def test_no_file_that_can_be_used(hub, ask_lora, styles):
    """Nothing is downloaded to find out, whatever there is."""
    [pickled] = ask_lora(address(hub))
    assert (pickled["error"], pickled["help"]) == (
        f"{NAME} holds no safetensors file",
        "only safetensors files are read",
    )
    put(hub, styles[0], "transformer/diffusion_pytorch_model.safetensors")
    [deeper] = ask_lora(address(hub))
    assert deeper["error"] == pickled["error"]
    assert deeper["help"].endswith("set weight_name: transformer/diffusion_pytorch_model.safetensors")
    assert asked(hub) == set()


def test_refusals(hub, ask_lora, styles):
    put(hub, styles[0], "style.safetensors")
    gated, private, forbidden, broken, typing = ask_lora(
        address(hub),
        *({"source": f"{name}/style"} for name in ("gated", "private", "forbidden", "broken")),
        {"source": "styles/one.safetensors"},
    )
    assert gated["error"] == "gated/style is gated: only accounts that accepted its terms may download its files"
    assert "https://huggingface.co/gated/style" in gated["help"]
    assert private["error"].startswith("private/style is not a folder, and the hub has no public repository")
    assert "hf auth login" in private["help"]
    assert forbidden["error"] == "the hub refuses access to forbidden/style (HTTP 403)"
    assert broken["error"] == "the hub answered HTTP 500 for broken/style"
    assert typing["error"] == "there is no file or folder styles/one.safetensors"
    assert typing["check"] == [["bad-value", "source", typing["error"]]]
    assert not any("one.safetensors" in path for _, path, _ in hub.requests)


def test_a_damaged_file(hub, ask_lora, styles):
    (hub.folder / "style.safetensors").write_bytes(styles[0].read_bytes()[:-8])
    [said] = ask_lora(address(hub))
    assert "truncated" in said["error"]


def test_no_server(hub, ask_lora, styles):
    put(hub, styles[0], "one.safetensors")
    put(hub, styles[1], "two.safetensors")
    ask_lora(address(hub), {"weight_name": "one.safetensors"})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"  # bound and not listening: connections are refused
        cached, missing, unknown = ask_lora(
            closed,
            {"weight_name": "one.safetensors"},
            {"weight_name": "two.safetensors"},
            {"source": "owner/other"},
        )
    assert content(cached) == styles[0].read_bytes()
    for said in (missing, unknown):
        assert "is not completely in the local cache, and the hub cannot be reached" in said["error"]
        assert "HF_ENDPOINT" in said["help"]
