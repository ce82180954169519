"""A Hugging Face Hub on two loopback ports: the hub itself, and the "CDN" that its redirects of large files point to.

Nothing but the standard library, a thread a request. tests/hub/test_fake_hub.py proves it by the real huggingface_hub
client.

with FakeHub() as hub:
        commit = hub.put("org/name", {"config.json": b"{}", "model.safetensors": data})
        hub.fault("model.safetensors", "cut", at=1000)      # once: the body ends after 1,000 bytes
        … HF_ENDPOINT=hub.url …
        hub.log                                             # what was asked for, in order

Files that match LFS are stored by sha256 and served through the CDN, the rest by git blob sha1 from the hub. A CDN that
sees an Authorization header remembers it in hub.leaks. Routes are methods listed in ROUTES, each `name(self, request,
match)`; an answer is request.answer(status, headers, body)."""
import argparse
import dataclasses
import fnmatch
import hashlib
import http.server
import json
import pathlib
import re
import sys
import threading
import time
import urllib.parse

LFS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "tokenizer.json", "*.model", "*.zip")
REPO = r"(?P<repo>[\w.-]+/[\w.-]+|[\w.-]+)"


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclasses.dataclass
class File:
    data: bytes
    is_lfs: bool

    @property
    def oid(self):  # what git knows: of an LFS file its pointer
        return git_sha1(self.pointer) if self.is_lfs else git_sha1(self.data)

    @property
    def sha256(self):
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self):
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @property
    def etag(self):
        return self.sha256 if self.is_lfs else self.oid


@dataclasses.dataclass
class Repo:
    is_private: bool = False
    gated: str = ""  # "", "auto" or "manual"
    is_disabled: bool = False
    readers: set = dataclasses.field(default_factory=set)  # users who may read a private repository, or whose access to a gated one was granted
    commits: dict = dataclasses.field(default_factory=dict)  # sha → {path: File}
    refs: dict = dataclasses.field(default_factory=dict)  # name → sha


@dataclasses.dataclass
class Logged:
    server: str  # "hub" or "cdn"
    method: str
    path: str
    headers: dict
    status: int = 0
    sent: int = 0  # bytes of the answer's body


class FakeHub:
    # (method, pattern of the path without its query, name of the method that answers)
    ROUTES = [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("GET", rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)", "tree"),
        ("GET", rf"/api/models/{REPO}/revision/(?P<revision>[^/]+)", "info"),
        ("GET", rf"/api/models/{REPO}", "info"),
        ("HEAD|GET", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ]
    CDN_ROUTES = [("HEAD|GET", r"/lfs/(?P<sha256>[0-9a-f]{64})", "cdn_get")]

    def __init__(self):
        self.repos, self.moved = {}, {}
        self.tokens = {}  # token → {"name": user, …}
        self.objects = {}  # sha256 → bytes: what the CDN has
        self.log, self.leaks, self.faults = [], [], []
        self.page = 1000  # entries of a tree's page
        self.lock = threading.RLock()
        self.servers = [self._listen("hub", self.ROUTES), self._listen("cdn", self.CDN_ROUTES)]
        self.url, self.cdn_url = [f"http://127.0.0.1:{s.server_address[1]}" for s in self.servers]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    # ---- what tests arrange

    def put(self, name, files, revision="main", lfs=LFS, **settings):
        """A commit with exactly these files ({path: bytes}); its sha. Settings are fields of Repo."""
        repo = self.repos.setdefault(name, Repo())
        for key, value in settings.items():
            setattr(repo, key, value)
        return self.commit(name,
                           {path: File(data, any(fnmatch.fnmatch(path.split("/")[-1], p) for p in lfs)) for path, data in files.items()}, revision)

    def commit(self, name, files, revision="main"):
        """A commit of File objects; its sha."""
        repo = self.repos[name]
        text = json.dumps([name, len(repo.commits), sorted((path, file.etag) for path, file in files.items())])
        sha = hashlib.sha1(text.encode()).hexdigest()
        with self.lock:
            repo.commits[sha], repo.refs[revision] = dict(files), sha
            self.objects.update((file.sha256, file.data) for file in files.values() if file.is_lfs)
        return sha

    def fault(self, path, kind, times=1, **how):
        """The next `times` requests whose path ends in `path` (a file's name; "/revision/main"; "" is every one) go
        wrong: status=503 answers so; cut (at=) ends the body early; ignore_range answers 200; expired: the CDN says
        403; corrupt flips a byte; slow (seconds=) waits before every 64 KiB; hold (event=) waits for a threading.Event
        after the head; location=URL redirects there; dropped: nothing is done and nobody answers; lost: it is done, but
        the answer does not arrive; of both call= is called first. skip= requests go well before."""
        with self.lock:
            self.faults.append({"path": path, "kind": kind, "times": times, **how})

    def served(self, server=None, pattern=""):
        """Requests logged so far whose path has the pattern."""
        with self.lock:
            return [entry for entry in self.log if (server is None or entry.server == server)
                    and re.search(pattern, entry.path)]

    # ---- routes: reading

    def whoami(self, request, match):
        user = self.tokens.get(request.token())
        if user is None:
            return request.error(401, "Invalid username or password.",
                                 message="Invalid credentials in Authorization header" if request.token() else "")
        request.json(200,
                     {"type": "user", "name": user["name"], "orgs": [{"name": org} for org in user.get("orgs", ())],
                           "auth": {"type": "access_token",
                                    "accessToken": {"displayName": "test", "role": user.get("role", "write")}}})

    def info(self, request, match):
        found = self.find(request, match)
        if not found:
            return
        name, repo, sha = found
        request.json(200, {"id": name, "modelId": name, "sha": sha, "private": repo.is_private,
                           "gated": repo.gated or False, "disabled": repo.is_disabled, "tags": [],
                           "downloads": 0, "likes": 0, "library_name": "transformers",
                           "siblings": [{"rfilename": path} for path in sorted(repo.commits[sha])]})

    def tree(self, request, match):
        found = self.find(request, match)
        if not found:
            return
        name, repo, sha = found
        entries = []
        for path, file in sorted(repo.commits[sha].items()):
            for depth in range(1, path.count("/") + 1):
                folder = "/".join(path.split("/")[:depth])
                if folder not in [entry["path"] for entry in entries]:
                    entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": folder})
            entry = {"type": "file", "oid": file.oid, "size": len(file.data), "path": path}
            if file.is_lfs:
                entry["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
            entries.append(entry)
        if request.query.get("recursive") not in ("true", "True", "1"):
            entries = [entry for entry in entries if "/" not in entry["path"]]
        start = int(request.query.get("cursor", 0))
        headers = {}
        if start + self.page < len(entries):
            query = urllib.parse.urlencode({**request.query, "cursor": start + self.page})
            headers["Link"] = f'<{self.url}{request.path_only}?{query}>; rel="next"'
        request.json(200, entries[start:start + self.page], headers)

    def resolve(self, request, match):
        found = self.find(request, match)
        if not found:
            return
        name, repo, sha = found
        user = self.tokens.get(request.token(), {}).get("name")
        if repo.gated and user not in repo.readers:
            return request.error(403 if user else 401, f"Access to model {name} is restricted.", "GatedRepo",
                                 f"Access to model {name} is restricted.")
        path = urllib.parse.unquote(match["path"])
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        file = repo.commits[sha].get(path)
        if file is None:
            return request.error(404, "Entry not found", "EntryNotFound", "Entry not found", headers)
        if not file.is_lfs:
            return request.file(file.data,
                                {**headers, "ETag": f'"{file.oid}"', "Content-Type": "text/plain; charset=utf-8"})
        signature = urllib.parse.quote(f"{sha[:8]}-{time.monotonic_ns()}")
        name = urllib.parse.quote(path.split("/")[-1])
        place = f"{self.cdn_url}/lfs/{file.sha256}?filename={name}&Signature={signature}"
        request.answer(302, {**headers, "X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data)),
                             "ETag": f'"{file.oid}"', "Location": place}, b"Found. Redirecting")

    def cdn_get(self, request, match):
        if request.headers.get("Authorization"):
            self.leaks.append(request.headers["Authorization"])
        data = self.objects.get(match["sha256"])
        if data is None:
            return request.answer(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
        request.file(data, {"ETag": f'"{match["sha256"]}"', "Content-Type": "application/octet-stream",
                            "Accept-Ranges": "bytes"})

    # ---- who may see what

    def find(self, request, match):
        """(name, repository, commit), or None after an error was answered."""
        name, revision = match["repo"], urllib.parse.unquote(match.groupdict().get("revision") or "main")
        token, user = request.token(), self.tokens.get(request.token(), {}).get("name")
        if token and user is None:
            request.error(401, "Invalid username or password.", message="Invalid credentials in Authorization header")
            return None
        if name in self.moved:
            request.answer(307, {"Location": request.path.replace(name, self.moved[name], 1)},
                           b"Temporary Redirect. Redirecting")
            return None
        repo = self.repos.get(name)
        if repo is None or (repo.is_private and user not in repo.readers):
            if user:
                request.error(404, "Repository not found", "RepoNotFound", "Repository not found")
            else:
                request.error(401, "Invalid username or password.", "RepoNotFound", "Invalid username or password.")
            return None
        if repo.is_disabled:
            request.error(403, "Access to this resource is disabled.", message="Access to this resource is disabled.")
            return None
        sha = revision if revision in repo.commits else repo.refs.get(revision)
        if sha is None:
            request.error(404, "Invalid rev id: " + revision, "RevisionNotFound", "Invalid rev id: " + revision)
            return None
        return name, repo, sha

    def take_fault(self, path):
        with self.lock:
            for fault in self.faults:
                if fault["times"] and path.endswith(fault["path"]):
                    if fault.get("skip"):
                        fault["skip"] -= 1
                        continue
                    fault["times"] -= 1
                    return fault
        return None

    def _listen(self, server_name, routes):
        hub = self

        class Handler(Request):
            pass

        Handler.hub, Handler.server_name = hub, server_name
        Handler.routes = [(m, re.compile(p + r"\Z"), n) for m, p, n in routes]
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True, name=server_name).start()
        return server


class Request(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_):
        pass

    def route(self):
        self.path_only, _, query = self.path.partition("?")
        self.query = dict(urllib.parse.parse_qsl(query))
        self.logged = Logged(self.server_name, self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        with self.hub.lock:
            self.hub.log.append(self.logged)
        self.body = self.read_body()
        file_name = self.query.get("filename", "") if self.server_name == "cdn" else self.path_only
        self.fault = self.hub.take_fault(file_name) or {"kind": ""} if self.command != "HEAD" else {"kind": ""}
        if self.fault["kind"] == "status":
            return self.answer(self.fault["status"],
                               {"Content-Type": "application/json", **self.fault.get("headers", {})},
                               self.fault.get("body", b'{"error":"fault"}'))
        if self.fault["kind"] == "location":
            return self.answer(302, {"Location": self.fault["location"]}, b"")
        if self.fault["kind"] == "expired" and self.server_name == "cdn":
            return self.answer(403, {},
                               b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
        if self.fault["kind"] == "dropped":
            return self.hang_up()
        for methods, pattern, name in self.routes:
            match = pattern.match(self.path_only)
            if match and re.fullmatch(methods, self.command):
                return getattr(self.hub, name)(self, match)
        self.error(404, "Not Found")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = route

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def token(self):
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if kind == "Bearer" else ""

    def error(self, status, text, code="", message="", headers=None):
        named = {"X-Error-Code": code, "X-Error-Message": message}
        self.json(status, {"error": text}, {**(headers or {}), **{key: value for key, value in named.items() if value}})

    def json(self, status, value, headers=None):
        self.answer(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})},
                    json.dumps(value).encode())

    def file(self, data, headers):
        """Bytes, or the range of them that was asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked or self.fault["kind"] == "ignore_range":
            return self.answer(200, headers, data)
        first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
        if first >= len(data):
            return self.answer(416, {**headers, "Content-Range": f"bytes */{len(data)}"}, b"")
        self.answer(206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first:last + 1])

    def hang_up(self):
        self.fault.get("call", lambda: None)()
        raise ConnectionAbortedError

    def answer(self, status, headers, body):
        kind = self.fault["kind"]
        self.logged.status = status
        if kind == "lost":
            self.hang_up()
        self.send_response(status)
        for name, value in {"X-Request-Id": "fake-1", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "corrupt" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        if kind == "cut":
            body = body[:self.fault["at"]]
            self.close_connection = True
        for start in range(0, len(body), 65536):
            if kind == "slow":
                time.sleep(self.fault["seconds"])
            if kind == "hold" and start:
                self.fault["event"].wait(60)
            self.wfile.write(body[start:start + 65536])
            self.logged.sent += len(body[start:start + 65536])


def main():
    options = argparse.ArgumentParser(
        description="Serves the repositories under FOLDER (org/name/…) until its standard input ends.")
    options.add_argument("folder", type=pathlib.Path)
    folder = options.parse_args().folder
    with FakeHub() as hub:
        for place in sorted(folder.glob("*/*")):
            name = str(place.relative_to(folder))
            print(name,
                  hub.put(name, {str(f.relative_to(place)): f.read_bytes() for f in place.rglob("*") if f.is_file()}))
        print("HF_ENDPOINT=" + hub.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
