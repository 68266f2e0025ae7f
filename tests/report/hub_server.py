"""The few parts of the Hub's HTTP interface that repositories of models need, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPOSITORY = r"(?P<repository>[\w.-]+/[\w.-]+)"
ROUTES = {
    "POST /api/repos/create": "create",
    "POST /api/validate-yaml": "valid",
    f"POST /api/models/{REPOSITORY}/preupload/(?P<revision>\\w+)": "preupload",
    f"POST /api/models/{REPOSITORY}/commit/(?P<revision>\\w+)": "commit",
    f"GET /api/models/{REPOSITORY}/revision/(?P<revision>\\w+)": "info",
    f"GET /api/models/{REPOSITORY}/tree/(?P<revision>\\w+)": "tree",
    f"(HEAD|GET) /{REPOSITORY}/resolve/(?P<revision>\\w+)/(?P<path>.+)": "resolve",
}


class Hub(ThreadingHTTPServer):
    """Repositories, each a list of commits, each the files by name; what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool | None] = {}
        self.asked: list[str] = []  # a method, a path, and who asks

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """The number of a commit, as 40 digits, and its files; main is the last one."""
        commits = self.commits[repository]
        at = len(commits) - 1 if revision == "main" else int(revision)
        return f"{at:040}", commits[at]


class Handler(BaseHTTPRequestHandler):
    """One method for each route; a KeyError is an answer of 404."""

    server: Hub

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path} {self.headers.get('Authorization')}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        for route, name in ROUTES.items():
            if found := re.fullmatch(route, f"{self.command} {path}"):
                try:
                    getattr(self, name)(**found.groupdict())
                except KeyError:
                    known = found["repository"] in self.server.commits
                    self.reply(
                        404, b"", {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"}
                    )
                return
        self.reply(400, path.encode())

    do_GET = do_HEAD = do_POST

    def create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        private = wanted.get("visibility") == "private" or wanted.get("private")  # newer; older
        self.server.private.setdefault(name, private)
        known = name in self.server.commits
        self.server.commits.setdefault(name, [{".gitattributes": b""}])
        self.json({"url": f"{self.server.url}/{name}"}, 409 if known else 200)

    def valid(self) -> None:
        self.json({"errors": [], "warnings": []})

    def preupload(self, repository: str, revision: str) -> None:
        names = [file["path"] for file in json.loads(self.body)["files"]]
        files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
        self.json({"files": files})

    def commit(self, repository: str, revision: str) -> None:
        commits = self.server.commits[repository]
        files = dict(commits[-1])
        for line in map(json.loads, self.body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commits.append(files)
        oid = f"{len(commits) - 1:040}"
        self.json({"success": True, "commitOid": oid,
                   "commitUrl": f"{self.server.url}/{repository}/commit/{oid}"})  # fmt: skip

    def info(self, repository: str, revision: str) -> None:
        sha, files = self.server.files(repository, revision)
        named = [{"rfilename": name} for name in files]
        self.json({"id": repository, "sha": sha, "siblings": named, "tags": [], "private": False})

    def tree(self, repository: str, revision: str) -> None:
        _, files = self.server.files(repository, revision)
        self.json([{"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                   for name, data in files.items()])  # fmt: skip

    def resolve(self, repository: str, revision: str, path: str) -> None:
        sha, files = self.server.files(repository, revision)
        etag = hashlib.sha1(files[path]).hexdigest()
        self.reply(200, files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": sha})

    def json(self, value: Any, code: int = 200) -> None:
        self.reply(code, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
