"""The hub through its real client, against a server on this machine that answers as the hub does.

Each case runs in a process of its own, because the client reads its settings when it is imported.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "a" * 40
NAME = "owner/tiny-wan"


class Hub(BaseHTTPRequestHandler):
    """Serves `self.server.folder` as the repository `owner/tiny-wan`; see huggingface_hub's file_download.py."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Request-Id": "1", **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status, code, message):
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def reply(self, content):
        self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, path = self.server, unquote(urlsplit(self.path).path)
        server.requests.append((self.command, path, self.headers.get("Range")))
        if "/private/" in path:
            self.error(401, "RepoNotFound", "Repository not found")
        elif "/gated/" in path and "/api/" not in path:
            self.error(403, "GatedRepo", "Access to model is restricted")
        elif "/forbidden/" in path:
            self.error(403, "", "Forbidden")
        elif "/broken/" in path:
            self.error(500, "", "Internal error")
        elif path.startswith("/api/models/") and "/tree/" in path:
            self.reply([self.entry(f) for f in self.files()])
        elif path.startswith("/api/models/"):
            revision = path.partition("/revision/")[2] or "main"
            if revision not in ("main", "v1", COMMIT):
                self.error(404, "RevisionNotFound", "Invalid rev id")
            else:
                files = [{"rfilename": str(f.relative_to(server.folder))} for f in self.files()]
                self.reply(
                    {"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": files, "tags": [], "private": False}
                )
        elif "/resolve/" in path:
            self.file(path.split(f"/resolve/{COMMIT}/")[-1])
        else:
            self.error(404, "RepoNotFound", "Repository not found")

    def files(self):
        return sorted(f for f in self.server.folder.rglob("*") if f.is_file())

    def entry(self, file):
        content = file.read_bytes()
        path = str(file.relative_to(self.server.folder))
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def file(self, name):
        server, path = self.server, self.server.folder / name
        if not path.is_file():
            self.error(404, "EntryNotFound", "Entry not found")
            return
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start, status = 0, 200
        asked = self.headers.get("Range")
        if asked and self.command == "GET":
            start, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if server.cut and self.command == "GET" and path.name.endswith(".safetensors"):
            server.cut -= 1  # break off in the middle of the file
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content) - start)}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content[start : start + len(content) * 3 // 4])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.answer(status, content[start:], headers)


@pytest.fixture
def hub(wan_folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.folder, server.requests, server.cut = wan_folder, [], 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


PROGRAM = """
import json, sys
from sgd.graph.node import NodeError, Run
from sgd.nodes.models.load import load
job = json.loads(sys.argv[1])
out = {"progress": [], "warnings": [], "errors": []}
class Tell(Run):
    planning = job.get("planning", False)
    device = "meta" if planning else "cpu"
    def warn(self, message): out["warnings"].append(message)
    def progress(self, done, total, label=""): out["progress"].append((done, total, label))
for source, revision, *parts in job["models"]:
    try:
        run = Tell()
        out["check"] = [p.message for p in load.node.check(source=source, revision=revision)]
        model = load(run, source, revision=revision)
        out["commit"] = model.facts().get("commit")
        for part in job.get("prefetch", ()):
            model.prefetch(part, run)
        for part in parts or job.get("parts", ()):
            model.acquire(part, run)
            out[part] = model.weights.parameters(part)[0]
        out["described"] = load.node.describe(source=source, revision=revision).get("family")
    except NodeError as error:
        assert error.__cause__ is not None or job.get("bare")
        out["errors"].append([str(error), error.help])
out["torch"] = "torch" in sys.modules
print(json.dumps(out))
"""


@pytest.fixture
def sgd(tmp_path):
    def call(endpoint, *models, offline=False, **job):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        environment |= {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": str(int(offline)),
        }
        job["models"] = [m if isinstance(m, tuple) else (m, None) for m in models]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(job)],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) | {"stderr": done.stderr}

    call.cache = tmp_path / "hub"
    return call


def address(server):
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.slow
def test_downloads_only_what_is_asked_for(hub, sgd):
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

    # What is cached needs no server; what is not says so.
    out = sgd(address(hub), (NAME, None, "vae"), (NAME, COMMIT, "vae"), (NAME, None, "transformer"), offline=True)
    assert out["commit"] == COMMIT
    assert out["vae"] > 0
    ((message, _),) = out["errors"]
    assert "HF_HUB_OFFLINE" in message

    # A plan reads the configurations of the cached snapshot; no request at all, unless one is missing.
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
        "no repository private/model on the hub, or it is private; and no folder of that name",
        "gated/model is gated: its files are only for accounts that accepted its terms",
        "the hub refuses access to forbidden/model (HTTP 403)",
        "the hub answered HTTP 500 for broken/model",
        f"{NAME} has no revision no-such-tag",
    ]
    assert "hf auth login" in helps[0]
    assert "https://huggingface.co/gated/model" in helps[1]
    assert "HF_TOKEN" in helps[2]
    assert out["check"] == []


def test_repository_of_another_layout(hub, sgd, tmp_path):
    hub.folder = tmp_path / "other"
    hub.folder.mkdir()
    (hub.folder / "model.safetensors").write_bytes(b"")
    ((message, help),) = sgd(address(hub), NAME, bare=True)["errors"]
    assert message == f"{NAME} is not in diffusers' layout: it has no model_index.json"
    assert "-Diffusers" in help


def test_pickled_weights_on_the_hub(hub, sgd, tmp_path, wan_folder):
    import shutil

    hub.folder = shutil.copytree(wan_folder, tmp_path / "pickled")
    (hub.folder / "vae/diffusion_pytorch_model.safetensors").rename(hub.folder / "vae/diffusion_pytorch_model.bin")
    ((message, _),) = sgd(address(hub), NAME, parts=["vae"], bare=True)["errors"]
    assert message.startswith(f"{NAME}: vae has its weights only as pickled files (diffusion_pytorch_model.bin)")
    assert not any(path.endswith(".bin") for _, path, _ in hub.requests)


def test_no_server(sgd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"  # bound and not listening: connections are refused
        out = sgd(closed, NAME)
        ((message, help),) = out["errors"]
        assert message.startswith(
            f"the hub cannot be reached for {NAME}, and the local cache does not hold all of it: "
        )
        assert "HF_ENDPOINT" in help
        assert not out["torch"]
        # Shipped configurations need no network.
        out = sgd(closed, "Wan-AI/Wan2.1-T2V-14B-Diffusers", planning=True)
        assert out["errors"] == []
