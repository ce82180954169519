"""Behind nginx and HAProxy: for every framing probe both sides count the same requests of the same length.

The front end's log says what it believes to have passed on, attune's access log what arrived. Behind each probe goes a
request of somebody else over the same connections to attune: it has to be answered as itself. Skipped where the front
end is not installed (apt: nginx-light, haproxy)."""
import base64
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / ("build/test/attune" if (ROOT / "build/test/attune").exists() else "build/attune")
SHARED = pathlib.Path(os.environ.get("ATTUNE_SHARED", ROOT.parent / "shared"))
POST = "POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: {HOST}\r\n"
OWN = [POST + rest for rest in (
    "Content-Length: 2\r\n\r\n{}", "Content-Length: 2\r\n\r\n{}GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n",
    "Content-Length: 0\r\n\r\n",
    "Content-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n",
    "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n", "Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
    "Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "Transfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    "Content-Length: +2\r\n\r\n{}", "Content-Length: 5\r\n\r\n{}")]
OWN += ["GET /healthz HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 41\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n" * 4,
        "HEAD /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n",
        "GET /healthz HTTP/1.1\nHost: {HOST}\n\n", "GET http://{HOST}/healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n"]

NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 512; }}
http {{
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  log_format seen escape=json '{{"method":"$request_method","uri":"$request_uri","status":$status,"upstream":"$upstream_addr","bytes":"$upstream_bytes_sent"}}';
  access_log {folder}/front.log seen;
  upstream attune {{ server 127.0.0.1:{attune}; keepalive 2; }}
  server {{
    listen 127.0.0.1:{front};
    location / {{ proxy_pass http://attune; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_next_upstream off;
                  proxy_request_buffering {buffering}; proxy_buffering off; }}
  }}
}}
"""
HAPROXY = """
global
  log stdout format raw local0
defaults
  mode http
  timeout connect 5s
  timeout client 10s
  timeout server 10s
  option http-buffer-request
frontend front
  bind 127.0.0.1:{front}
  log global
  http-request set-var(txn.body_bytes) req.body_len
  log-format "request %HM %s %[var(txn.body_bytes)] %HU"
  default_backend attune
backend attune
  http-reuse always
  server attune 127.0.0.1:{attune}
"""


def probes():
    yield from ((f"own {number}", raw.encode()) for number, raw in enumerate(OWN))
    shared = SHARED / "data/probes/http-framing.jsonl"
    for line in shared.read_text().splitlines() if shared.exists() else ():
        probe = json.loads(line)
        yield probe["name"], base64.b64decode(probe["raw_b64"]) if "raw_b64" in probe else probe["raw"].encode()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Log:
    """What a log has gained since the last look, as objects; lines that are not JSON are the front end's own."""

    def __init__(self, path):
        self.path, self.at = path, 0

    def peek(self):
        text = self.path.read_bytes()[self.at:]
        lines = text[:text.rfind(b"\n") + 1].decode(errors="replace").split("\n")
        return [json.loads(line) if line[0] == "{"
                else dict(zip(("method", "upstream", "body_bytes", "uri"), line.split(" ", 4)[1:]))
                for line in lines if line.startswith(("{", "request "))]

    def take(self):
        rows = self.peek()
        self.at = self.path.stat().st_size
        return rows


class Site:
    def __init__(self, kind, folder):
        folder.chmod(0o755)
        (folder / "models").mkdir()
        self.attune = subprocess.Popen([BINARY, "serve", "--data", folder / "data", "--models", folder / "models", "--port", "0", "--no-auth",
                                        "--connections-per-address", "0", "--access-log", folder / "attune.log"],
                                       stdout=subprocess.PIPE, text=True)
        place = {"folder": folder, "front": free_port(),
                 "attune": re.search(r":(\d+)$", self.attune.stdout.readline().strip()).group(1),
                 "buffering": "on" if kind == "nginx" else "off"}
        config = folder / "front.cfg"
        config.write_text((HAPROXY if kind == "haproxy" else NGINX).format(**place))
        (folder / "front.log").touch()
        command = ["haproxy", "-db", "-f", config] if kind == "haproxy" else ["nginx", "-p", folder, "-c", config]
        with open(folder / ("front.log" if kind == "haproxy" else "front.err"), "ab") as log:
            self.front = subprocess.Popen(command, stdout=log, stderr=log)
        self.port, self.believed, self.seen = place["front"], Log(folder / "front.log"), Log(folder / "attune.log")
        while self.say(b"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n", b"200") is None:
            assert self.front.poll() is None, (folder / "front.err").read_text()
        self.rest(lambda: self.seen.peek() and self.believed.peek())
        self.seen.take(), self.believed.take()

    def rest(self, condition, seconds=1.0):
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.005)

    def say(self, raw, wanted=None):
        """Everything that is answered until the end, or until a while after nothing more came; None: nobody listens
        yet."""
        host = f"127.0.0.1:{self.port}".encode()
        try:
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        except ConnectionRefusedError:
            return None
        got = b""
        with connection:
            try:
                connection.sendall(raw.replace(b"{HOST}", host))
                connection.settimeout(0.06)
                while not (wanted and wanted in got) and (piece := connection.recv(65536)):
                    got += piece
            except (TimeoutError, ConnectionError):
                pass
        return got

    def stop(self):
        for process in (self.front, self.attune):
            process.terminate()
            process.wait(timeout=30)


def passed_on(believed):
    return [row for row in believed if row["upstream"] not in ("", "<NOSRV>")]


def disagreement(believed, seen):
    """None, or how the two sides differ. A request that ends its connection may be cut short: nothing behind it is
    read."""
    front = passed_on(believed)
    if len(front) != len(seen):
        return f"{len(front)} requests passed on, {len(seen)} arrived"
    for sent, got in zip(front, seen):
        unit = "bytes" if "bytes" in sent else "body_bytes"
        there, here = int(sent[unit]) if sent[unit].isdigit() else 0, got["request_bytes" if unit == "bytes" else unit]
        if sent["method"] != got["method"] and got["method"] != "-":
            return f"{sent['method']} passed on, {got['method']} arrived"
        if there != here and not (got["is_last"] and (here < there or unit == "body_bytes")):
            return f"{there} {unit} passed on, {here} arrived"
    return None


def test_the_comparison_tells_every_kind_of_difference():
    def front(method, size):
        return {"method": method, "uri": "/", "upstream": "a", "bytes": str(size)}

    def attune(method, size, is_last=False):
        return {"method": method, "path": "/", "request_bytes": size, "body_bytes": 0, "is_last": is_last}

    agree = [([], []), ([front("GET", 50)], [attune("GET", 50)]), ([front("POST", 50)], [attune("POST", 40, True)]),
             ([{**front("GET", 9), "upstream": ""}], [])]
    differ = [([front("GET", 50)], []), ([front("GET", 50)], [attune("GET", 25), attune("GET", 25)]),
              ([front("POST", 50)], [attune("POST", 40)]),
              ([front("POST", 50)], [attune("POST", 51)]), ([front("POST", 50)], [attune("GET", 50)])]
    assert [disagreement(*case) for case in agree] == [None] * 4
    assert all(disagreement(*case) for case in differ)


@pytest.mark.parametrize("kind", ["nginx", "nginx, unbuffered", "haproxy"])
def test_a_front_end_and_attune_agree_on_every_request(kind, tmp_path, request):
    if not shutil.which(kind.partition(",")[0]):
        pytest.skip(f"{kind} is not installed")
    site, count, passed, wrong = Site(kind, tmp_path), 0, 0, []
    request.addfinalizer(site.stop)
    for name, raw in probes():
        count += 1
        answer = site.say(raw)
        fence = f"/fence-{count}".encode()
        fenced = site.say(b"GET " + fence + b" HTTP/1.1\r\nHost: {HOST}\r\n\r\n", b"}}")
        of_probe = lambda rows, key: [row for row in rows if fence.decode() not in row[key]]
        site.rest(lambda: any(fence.decode() in row["path"] for row in site.seen.peek())
                  and any(fence.decode() in row["uri"] for row in site.believed.peek())
                  and disagreement(of_probe(site.believed.peek(), "uri"), of_probe(site.seen.peek(), "path")) is None)
        believed, seen = site.believed.take(), site.seen.take()
        why = disagreement(of_probe(believed, "uri"), of_probe(seen, "path"))
        if fence not in fenced or b" 404 " not in fenced.split(b"\r\n")[0]:
            why = f"the next one's request was answered {fenced[:200]}"
        passed += len(passed_on(of_probe(believed, "uri")))
        if why:
            wrong.append(f"{name}: {why}; {believed} {seen} {answer[:60]}")
    print(f"{kind}: {count} probes, {passed} requests passed on, {len(wrong)} disagreements")
    assert not wrong, "\n".join(wrong)
    assert passed > 10
