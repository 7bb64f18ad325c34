"""A small hub for tests: an HTTP server with the calls that the client of the Hugging Face hub makes.

It keeps the files of one repository in memory, and a commit for every branch.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub:
    """The state of the hub.

    Attributes:
        files: the files of each branch, by path.
        cards: the cards that the client had validated.
        private: whether the repository was created as a private one; None if it was not created.
        forbids: whether every call is answered with 403.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.cards: list[str] = []
        self.private: bool | None = None
        self.forbids = False
        self.url = ""

    def commit_of(self, branch: str) -> str:
        content = sorted(
            (path, hashlib.sha1(data).hexdigest()) for path, data in self.files[branch].items()
        )
        return hashlib.sha1(json.dumps([branch, content]).encode()).hexdigest()

    def branch_of(self, revision: str) -> str | None:
        for branch in self.files:
            if revision in (branch, self.commit_of(branch)):
                return branch
        return None


@contextmanager
def fake_hub(repository: str) -> Iterator[FakeHub]:
    """Serves a hub with room for one repository until the block ends."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self._answer()

        do_HEAD = do_POST = do_GET

        def _answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            if hub.forbids:
                self._json({"error": "forbidden"}, 403)
            elif path == "/api/repos/create":
                asked = json.loads(body)
                hub.private = asked.get("private") or asked.get("visibility") == "private"
                hub.files.setdefault("main", {})
                self._json({"url": f"{hub.url}/{repository}"})
            elif path == "/api/validate-yaml":
                hub.cards.append(json.loads(body)["content"])
                self._json({"errors": [], "warnings": []})
            elif (
                match := re.fullmatch(rf"/api/models/{repository}/(\w+)/([^/]+)", path)
            ) is not None:
                self._of_repository(match[1], match[2], body)
            elif (match := re.fullmatch(rf"/{repository}/resolve/([^/]+)/(.+)", path)) is not None:
                self._file(match[1], match[2])
            else:
                self._json({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})

        def _of_repository(self, call, revision, body):
            if call == "branch":
                hub.files.setdefault(revision, dict(hub.files["main"]))
                self._json({})
                return
            branch = hub.branch_of(revision)
            if branch is None:
                self._json({"error": "no revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
            elif call == "preupload":
                names = [file["path"] for file in json.loads(body)["files"]]
                files = [
                    {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
                ]
                self._json({"files": files})
            elif call == "commit":
                for line in body.decode().splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        content = base64.b64decode(entry["value"]["content"])
                        hub.files[branch][entry["value"]["path"]] = content
                    elif entry["key"] == "deletedFile":
                        del hub.files[branch][entry["value"]["path"]]
                commit = hub.commit_of(branch)
                url = f"{hub.url}/{repository}/commit/{commit}"
                self._json({"success": True, "commitUrl": url, "commitOid": commit})
            elif call == "revision":
                siblings = [{"rfilename": name} for name in hub.files[branch]]
                about = {"id": repository, "sha": hub.commit_of(branch), "siblings": siblings}
                self._json({**about, "tags": [], "private": bool(hub.private), "downloads": 0})
            elif call == "tree":
                self._json([
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in hub.files[branch].items()
                ])  # fmt: skip

        def _file(self, revision, name):
            branch = hub.branch_of(revision)
            data = None if branch is None else hub.files[branch].get(name)
            if data is None:
                self._json({"error": "no entry"}, 404, {"X-Error-Code": "EntryNotFound"})
                return
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            self._send(data, 200, {"ETag": etag, "X-Repo-Commit": hub.commit_of(branch)})

        def _json(self, values, status=200, headers=None):
            self._send(
                json.dumps(values).encode(),
                status,
                {"Content-Type": "application/json", **(headers or {})},
            )

        def _send(self, data, status, headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
