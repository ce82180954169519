"""Where a sender's connections go: `attune send` in a network of its own, with a resolver that answers what a case
says, and strace for every connect(). The probes are those of ../shared/data/probes/ssrf.jsonl when they are at hand,
and a few of our own; redirects and names that change their address besides."""
import ipaddress
import json
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.parse

from fake_mlflow import FakeMlflow

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("ATTUNE_BIN",
                        ROOT / ("build/test/attune" if (ROOT / "build/test/attune").exists() else "build/attune"))
SHARED = pathlib.Path(os.environ.get("ATTUNE_SHARED", ROOT.parent / "shared"))
KEY = "CANARY" + "k" * 40
PUBLIC = "9.9.9.9"  # an address of the loopback device here, where nothing else is
OURS = [{"url": "https://127.0.0.1/", "expect": "refuse"}, {"url": "https://[::1]/", "expect": "refuse"},
        {"url": "https://169.254.169.254/", "expect": "refuse"},
        {"url": "https://0x7f000001/", "expect": "refuse"},
        {"url": "https://a.example.com/", "expect": "refuse", "resolves": ["10.0.0.5"]},
        {"url": "https://b.example.com/", "expect": "refuse", "resolves": [PUBLIC, "127.0.0.1"]},
        {"url": "https://c.example.com/", "expect": "accept", "resolves": [PUBLIC]},
        {"url": "https://hooks.example.com/", "expect": "refuse", "redirect_to": "https://127.0.0.1/"},
        {"url": "https://hooks.example.com/", "expect": "refuse", "redirect_to": "http://10.0.0.5/"}]


class Resolver:
    """A DNS server for one table: name → lists of addresses, one list an answer, the last one for ever."""

    def __init__(self):
        self.table, self.asked = {}, []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            query, whom = self.socket.recvfrom(512)
            at, labels = 12, []
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode())
                at += 1 + query[at]
            kind, = struct.unpack(">H", query[at + 1:at + 3])
            name, family = ".".join(labels).lower(), {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
            self.asked.append((name, kind))
            answers = self.table.get(name, [[]])
            addresses = answers[0] if kind != 1 or len(answers) == 1 else answers.pop(0)
            packed = [socket.inet_pton(family, a)
                      for a in addresses if family == (socket.AF_INET6 if ":" in a else socket.AF_INET)]
            reply = query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(packed), 0, 0) + query[12:at + 5]
            self.socket.sendto(reply + b"".join(struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(p)) + p for p in packed),
                               whom)


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


def enter(folder):
    """This process is root of a network of its own with its own resolver."""
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (folder / "hosts").write_text("")
    for name in ("resolv.conf", "hosts"):
        run("mount", "--bind", folder / name, f"/etc/{name}")
    run("ip", "link", "set", "lo", "up")
    run("ip", "addr", "add", f"{PUBLIC}/32", "dev", "lo")
    run("ip", "-6", "addr", "add", "2620:fe::fe/128", "dev", "lo")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=test", "-addext",
        "subjectAltName=DNS:hooks.example.com", "-keyout", folder / "k.pem", "-out", folder / "c.pem")
    (folder / "server.pem").write_text((folder / "c.pem").read_text() + (folder / "k.pem").read_text())


class Elsewhere(FakeMlflow):
    """On the public address; with a location it only ever redirects, and it keeps no connection open."""
    location = None

    def answer(self, handler):
        handler.close_connection = True
        if not self.location:
            return super().answer(handler)
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.requests.append(handler.path)
        handler.send_response(307)
        handler.send_header("Location", self.location.encode().decode("latin-1"))
        handler.send_header("Content-Length", "0")
        handler.end_headers()


def connects(folder, document):
    """Where `attune send` went with the document, without its questions to the resolver, and how it ended."""
    trace = folder / "trace"
    told = subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=connect", "-e", "signal=none", "-o", trace, BINARY, "send"],
        input=json.dumps(document), capture_output=True, text=True,
                          timeout=120, env=dict(os.environ, ASAN_OPTIONS="detect_leaks=0"))
    found = re.findall(r'htons\((\d+)\).*?"([0-9a-f.:]+)"', trace.read_text())
    assert told.returncode == 0, told.stderr
    return [(address, int(port)) for port, address in found if port not in ("0", "53")], json.loads(told.stdout.splitlines()[-1])  # 0: glibc sorts addresses so


def canonical(host):
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def document(url, origins, certificate=None):
    return {"kind": "mlflow",
            "job": {"id": "ftjob-1", "state": "running", "started_ms": 1, "model": "m", "hyperparameters": {}},
            "config": {"tracking_uri": url},
            "external": None, "after_seq": 0, "is_uncertain": False, "is_last": False, "operator": {"origins": origins},
            "secrets": {"token": KEY, **({"certificate_file": certificate} if certificate else {})}, "events": []}


def inside(folder):
    enter(folder)
    resolver, certificate = Resolver(), (folder / "c.pem").read_text()
    secure = Elsewhere(certificate=folder / "server.pem", at=(PUBLIC, 443))
    plain = Elsewhere(at=(PUBLIC, 8080))
    path = SHARED / "data/probes/ssrf.jsonl"
    probes = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else OURS
    wrong = []
    for probe in probes:
        host = re.sub(r"^https?://([^/:?]*).*", r"\1", probe["url"]).lower().rstrip(".")
        redirect = probe.get("redirect_to")
        resolver.table = {host: [probe.get("resolves",
                                           [PUBLIC] if redirect or probe["expect"] == "accept" else ["127.0.0.1"])],
                          "loop.example.com": [probe.get("redirect_resolves", ["127.0.0.1"])]}
        secure.location, before = redirect or "https://127.0.0.1/", len(secure.requests)
        went, end = connects(folder, document(probe["url"], "https://anywhere", certificate))
        allowed = set(resolver.table[host][0]) if redirect or probe["expect"] == "accept" else set()
        if probe["expect"] == "accept":
            allowed.add(canonical(urllib.parse.urlsplit(probe["url"]).hostname))
        if not all(address in allowed for address, _ in went) or end["end"] == "ok" or KEY in json.dumps(end) or (
            redirect and len(secure.requests) != before + 1):
            wrong.append((probe, went, end))
    print(f"{len(probes)} probes")
    resolver.table, resolver.asked = {"rebind.example.com": [[PUBLIC], ["10.0.0.5"], ["127.0.0.1"]]}, []
    went, end = connects(folder, document("http://rebind.example.com:8080", "http://rebind.example.com:8080"))
    if end["end"] != "ok" or {address for address, _ in went} != {PUBLIC} or len(went) < 2 or resolver.asked.count(("rebind.example.com", 1)) != 1:
        wrong.append(("asked once and kept to", went, end, resolver.asked))
    went, end = connects(folder, document("http://rebind.example.com:8080", "http://rebind.example.com:8080"))
    if went or end["end"] != "failed":
        wrong.append(("the next sender, to the inside now", went, end))
    plain.close()
    for each in wrong:
        print(each)
    sys.exit(1 if wrong else 0)


def test_no_connection_leaves_the_list_whatever_a_name_a_redirect_or_a_resolver_says():
    import pytest  # not inside, where nothing but the fake is needed

    tools = [tool for tool in ("strace", "unshare", "ip", "openssl") if not shutil.which(tool)]
    if tools or subprocess.run(["unshare", "-rmn", "true"], capture_output=True).returncode != 0:
        pytest.skip(f"needs namespaces and {', '.join(tools) or 'the right to make them'}")
    told = subprocess.run(["unshare", "-rmn", sys.executable, __file__], capture_output=True, text=True, timeout=900)
    print(told.stdout)
    assert told.returncode == 0, told.stdout + told.stderr


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        inside(pathlib.Path(made))
