"""A local server that answers like the hub, and programs that query it with the hub's real client.

Each program runs in its own process, because the client reads its settings when it is imported.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40
NAME = "owner/tiny-wan"


def commit_of(name):
    return hashlib.sha1(name.encode()).hexdigest()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Hub)
        self.folder, self.cut = folder, 0
        self.others: dict[str, Path] = {}
        self.requests: list[tuple[str, str, str | None]] = []


class Hub(BaseHTTPRequestHandler):
    server: Server

    """Serves `self.server.folder` as the repository `owner/tiny-wan`; see huggingface_hub's file_download.py.

    Each folder in `self.server.others` is served as another revision, by its name and by a commit made of the name.
    """

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
        elif path.startswith("/api/models/"):
            tree = path.partition("/tree/")[2]
            revision = (tree or path.partition("/revision/")[2] or "main").partition("/")[0]
            commit, folder = self.revisions().get(revision, (None, None))
            if folder is None:
                self.error(404, "RevisionNotFound", "Invalid rev id")
            elif tree:
                self.reply([self.entry(f, folder) for f in self.files(folder)])
            else:
                files = [{"rfilename": str(f.relative_to(folder))} for f in self.files(folder)]
                self.reply(
                    {"id": NAME, "modelId": NAME, "sha": commit, "siblings": files, "tags": [], "private": False}
                )
        elif "/resolve/" in path:
            self.file(*path.partition("/resolve/")[2].split("/", 1))
        else:
            self.error(404, "RepoNotFound", "Repository not found")

    def revisions(self):
        found = dict.fromkeys(("main", "v1", COMMIT), (COMMIT, self.server.folder))
        for name, folder in self.server.others.items():
            found[name] = found[commit_of(name)] = (commit_of(name), folder)
        return found

    def files(self, folder):
        return sorted(f for f in folder.rglob("*") if f.is_file())

    def entry(self, file, folder):
        content = file.read_bytes()
        path = str(file.relative_to(folder))
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def file(self, commit, name):
        server, path = self.server, self.revisions()[commit][1] / name
        if not path.is_file():
            self.error(404, "EntryNotFound", "Entry not found")
            return
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
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


@contextmanager
def serving(folder):
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def address(server):
    return f"http://127.0.0.1:{server.server_port}"


def asked(server):
    """Names of the files that were downloaded."""
    return {
        path.split("/resolve/")[1].split("/", 1)[1]
        for m, path, _ in server.requests
        if m == "GET" and "/resolve/" in path
    }


def ask(program, endpoint, home, job, offline=False):
    """Run a program with a job as JSON, and return the JSON that it prints, with its stderr under `stderr`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": str(int(offline)),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(job)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"stderr": done.stderr}
