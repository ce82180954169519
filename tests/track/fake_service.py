"""What the fake services share: an HTTP server in a thread that keeps what it was asked, and can be told to misbehave
or to be away."""
import contextlib
import http.server
import json
import os
import pathlib
import ssl
import threading
import time


def senders(parent):
    """The senders that a server has running."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if b"\0send\0" in (process / "cmdline").read_bytes() and int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(process.name))
        except OSError:
            continue
    return found


class Refused(Exception):
    def __init__(self, status, code):
        self.status, self.code = status, code


class FakeService:
    """reply(handler, method, path, query, body) does a request and gives the answer's JSON, or raises Refused.
    misbehave: a list of what the next requests get instead: a status; "garbage"; "half" of an answer; "cut" (the
    request is done, the answer is lost); and with kill_senders_of set, what happens as the sender is killed: "killed
    before" anything is done, "killed" with the answer lost, "killed after" the answer was sent."""

    def __init__(self, authorization=None, certificate=None, at=("127.0.0.1", 0)):
        self.authorization, self.certificate, self.requests, self.misbehave, self.parent = authorization, certificate, [], [], None
        self.host, self.port = at
        self.start()

    def start(self):
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self):
                with contextlib.suppress(ConnectionError):
                    fake.answer(self)

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except ConnectionError:  # somebody was killed
                    self.close_connection = True

            do_GET = do_POST = do_PUT = do

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            allow_reuse_address = daemon_threads = True

        self.server = Server((self.host, self.port), Handler)
        self.port = self.server.server_port
        if self.certificate:  # a PEM file with its key
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if self.certificate else ''}://{self.host}:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        """Away; start() brings it back, on the same port and with what it knew."""
        self.server.shutdown()
        self.server.server_close()

    def kill_senders_of(self, server):
        self.parent = server.process.pid

    def answer(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        path, _, query = handler.path.partition("?")
        self.requests.append((handler.command, self.name(path), dict(handler.headers), body))
        fault = self.misbehave.pop(0) if self.misbehave else None
        killed = isinstance(fault, str) and fault.startswith("killed")
        if fault == "killed before":
            self.kill()
        status, answer = (fault, {"error_code": "INTERNAL_ERROR", "message": "told to"}) if isinstance(fault, int) else (200, None)
        if not fault or fault in ("cut", "killed", "killed after"):
            try:
                if self.authorization and not self.is_open(path) and handler.headers.get("Authorization") != self.authorization:
                    raise Refused(401, "UNAUTHENTICATED")
                answer = self.reply(handler, handler.command, path, query, body)
            except Exception as wrong:  # noqa: BLE001 - what a fake does not understand is a request that is not right
                refused = wrong if isinstance(wrong, Refused) else Refused(400, "MALFORMED_REQUEST")
                status, answer = refused.status, {"error_code": refused.code,
                                                  "message": f"refused, and you said {handler.headers.get('Authorization')}"}
        if fault == "killed":
            self.kill()
        if fault == "cut" or (killed and fault != "killed after"):
            handler.close_connection = True
            return
        content = b"<html>" if fault == "garbage" else json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content) + (100 if fault == "half" else 0)))
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = fault == "half"
        if fault == "killed after":
            handler.wfile.flush()
            self.kill()

    def name(self, path):
        return path

    def is_open(self, path):
        return False

    def kill(self):
        for pid in senders(self.parent):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    def wait(self, condition, timeout=60):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if condition(self):
                return
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout} s: {self.runs} {[(r[0], r[1]) for r in self.requests]}")
