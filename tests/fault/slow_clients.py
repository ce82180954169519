#!/usr/bin/env python3
"""slowhttptest's slow heads (-H), slow bodies (-B) and slow reads (-X) against the server, beside a healthy client: slow_clients.py [SECONDS] [CONNECTIONS]

Each attack twice: with the limit of one address lifted and as it is. The healthy client asks from another loopback address every 20 ms, on a new connection
each time, and its longest wait counts: under 100 ms, or no longer than without an attack where the machine is busy with other things. Each slow connection
has to be gone a second after its deadline: by that time /proc/net/tcp shows it established no more. Last, what an idle connection costs after a request with
a large head, plainly and through TLS: at most 24 KiB. Exits with 1 when one of these does not hold."""
import collections
import os
import pathlib
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS, CONNECTIONS = (int(sys.argv[at]) if len(sys.argv) > at else value for at, value in ((1, 60), (2, 900)))
WAIT_MS_MAX, IDLE_KIB_MAX = 100, 24
ATTACKS = {  # what it is, its options, the deadline of such a connection in seconds
    "slow head": (["-H", "-i", "5", "-t", "GET"], 10),
    "slow body": (["-B", "-i", "5", "-t", "POST", "-s", "1000000"], 30),
    "slow read": (["-X", "-n", "5", "-z", "32", "-w", "512", "-y", "1024", "-k", "1"], 15),
}


class Server:
    def __init__(self, folder, *options):
        (folder / "models").mkdir(exist_ok=True)
        self.process = subprocess.Popen([ROOT / "build/attune", "serve", "--data", folder / "data", "--models", folder / "models", "--port", "0", "--no-auth", *options],
                                        stdout=subprocess.PIPE, text=True)
        self.port = int(re.search(r":(\d+)$", self.process.stdout.readline().strip()).group(1))

    def ask(self, request, source="127.0.0.2"):
        with socket.create_connection(("127.0.0.1", self.port), timeout=30, source_address=(source, 0)) as connection:
            connection.sendall(request)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        return answer

    def upload(self, megabytes):
        parts = [b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n',
                 os.urandom(1 << 20) * megabytes, b"\r\n--b--\r\n"]
        head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {sum(map(len, parts))}\r\n\r\n"
        return re.search(rb'"id": ?"([^"]+)"', self.ask(head.encode() + b"".join(parts))).group(1).decode()

    def resident_kib(self):
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{self.process.pid}/status").read_text()).group(1))


class Healthy(threading.Thread):
    """Waits of a client that behaves, in milliseconds."""

    def __init__(self, server):
        super().__init__()
        self.server, self.waits_ms, self.is_over = server, [], False

    def run(self):
        while not self.is_over:
            began = time.monotonic()
            answer = self.server.ask(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            self.waits_ms.append((time.monotonic() - began) * 1000 if answer.startswith(b"HTTP/1.1 200") else float("inf"))
            time.sleep(0.02)


class Lives(threading.Thread):
    """How long each connection of the attacker's address stays established at the server's end."""

    def __init__(self, server):
        super().__init__()
        self.wanted = re.compile(rf" 0100007F:{server.port:04X} (0100007F:[0-9A-F]{{4}}) 01 ")
        self.server, self.first, self.last, self.is_over, self.most, self.most_kib = server, {}, collections.Counter(), False, 0, 0

    def run(self):
        while not self.is_over:
            now = time.monotonic()
            peers = self.wanted.findall(pathlib.Path("/proc/net/tcp").read_text())
            for peer in peers:
                self.first.setdefault(peer, now)
                self.last[peer] = now
            self.most, self.most_kib = max(self.most, len(peers)), max(self.most_kib, self.server.resident_kib())
            time.sleep(0.2)

    def longest(self):
        return max((self.last[peer] - self.first[peer] for peer in self.first), default=0)


def quiet_wait_ms(server):
    healthy = Healthy(server)
    healthy.start()
    time.sleep(SECONDS / 4)
    healthy.is_over = True
    healthy.join()
    print(f"no attack: {len(healthy.waits_ms)} requests, p100 {max(healthy.waits_ms):.1f} ms", flush=True)
    return max(healthy.waits_ms)


def attack(name, server, path, wait_ms_max):
    options, deadline = ATTACKS[name]
    healthy, lives = Healthy(server), Lives(server)
    healthy.start(), lives.start()
    before = server.resident_kib()
    subprocess.run(["slowhttptest", *options, "-c", str(CONNECTIONS), "-r", "300", "-l", str(SECONDS), "-p", "3", "-u", f"http://127.0.0.1:{server.port}{path}"],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lives.is_over = healthy.is_over = True
    healthy.join(), lives.join()
    waits = sorted(healthy.waits_ms)
    holds = waits[-1] < wait_ms_max and lives.longest() <= deadline + 1
    print(f"{name}: {lives.most} connections at once, the longest lived {lives.longest():.1f} s (deadline {deadline}), {len(waits)} healthy requests: "
          f"p50 {waits[len(waits) // 2]:.1f} ms, p99 {waits[len(waits) * 99 // 100]:.1f} ms, p100 {waits[-1]:.1f} ms, "
          f"{lives.most_kib - before:+} KiB{'' if holds else '  FAILED'}", flush=True)
    return holds


def idle_cost(folder, is_tls):
    """KiB of resident memory for each of many connections that asked once and went silent."""
    options, context = [], ssl._create_unverified_context()
    if is_tls:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost", "-keyout", folder / "key.pem",
                        "-out", folder / "cert.pem"], check=True, capture_output=True)
        options = ["--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem"]
    server = Server(folder, "--connections-per-address", "0", *options)

    def ask_once():
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        connection = context.wrap_socket(connection) if is_tls else connection
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 8000 + b"\r\nX-B: " + b"b" * 20000 + b"\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        return connection

    first = ask_once()
    before = server.resident_kib()
    connections = [ask_once() for _ in range(CONNECTIONS)]
    cost = (server.resident_kib() - before) / CONNECTIONS
    for connection in (first, *connections):
        connection.close()
    server.process.terminate()
    server.process.wait(timeout=30)
    print(f"idle connection{' of TLS' if is_tls else ''}: {cost:.1f} KiB{'' if cost <= IDLE_KIB_MAX else '  FAILED'}", flush=True)
    return cost <= IDLE_KIB_MAX


def main():
    held = []
    for said, options in (("limit of an address lifted", ["--connections-per-address", "0"]), ("limit of an address on", [])):
        print(said)
        with tempfile.TemporaryDirectory() as folder:
            server = Server(pathlib.Path(folder), *options)
            try:
                file, wait_ms_max = server.upload(16), max(WAIT_MS_MAX, quiet_wait_ms(server))
                for name, path in (("slow head", "/healthz"), ("slow body", "/v1/fine_tuning/jobs"), ("slow read", f"/v1/files/{file}/content")):
                    held.append(attack(name, server, path, wait_ms_max))
            finally:
                server.process.terminate()
                server.process.wait(timeout=30)
    for is_tls in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            held.append(idle_cost(pathlib.Path(folder), is_tls))
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
