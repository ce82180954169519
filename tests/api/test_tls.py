"""attune serve --tls-cert --tls-key, as clients of all kinds meet it."""
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading

import openai
import pytest
from conftest import BINARY, Server, chat_lines, wait_for


def make_certificate(folder, name="localhost"):
    folder.mkdir(exist_ok=True)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
                   check=True, capture_output=True)
    return folder


class TlsServer(Server):
    def start(self):
        self.log = open(self.data.parent / "server.log", "ab")
        self.process = subprocess.Popen([BINARY, "serve", "--data", self.data, "--models", self.models, "--port", "0", *self.options],
                                        stdout=subprocess.PIPE, stderr=self.log)
        self.first_line = self.process.stdout.readline().decode()
        self.port = int(re.search(r"https://127\.0\.0\.1:(\d+)", self.first_line).group(1))
        self.url = f"https://127.0.0.1:{self.port}"
        return self


@pytest.fixture(scope="module")
def secure(tmp_path_factory, models):
    folder = make_certificate(tmp_path_factory.mktemp("tls") / "certificate")
    server = TlsServer(folder.parent / "data", models, "--no-auth", "--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem")
    server.certificate = folder
    server.context = ssl.create_default_context(cafile=folder / "cert.pem")
    yield server.start()
    assert server.stop() == 0


def connect(server, context=None):
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    return (context or server.context).wrap_socket(plain, server_hostname="localhost")


def read_all(connection):
    got = b""
    while piece := connection.recv(65536):
        got += piece
    return got


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=60, context=server.context)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_handshake_is_of_1_2_or_1_3_with_forward_secrecy(secure):
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        context = ssl.create_default_context(cafile=secure.certificate / "cert.pem")
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        with connect(secure, context) as connection:
            assert connection.version() == name and connection.selected_alpn_protocol() == "http/1.1"
            assert connection.cipher()[0].startswith(("ECDHE-", "TLS_")) and connection.compression() is None


@pytest.mark.parametrize("weaken", [
    lambda context: setattr(context, "maximum_version", ssl.TLSVersion.TLSv1_1),
    lambda context: (setattr(context, "maximum_version", ssl.TLSVersion.TLSv1_2), context.set_ciphers("AES128-SHA")),
    lambda context: (setattr(context, "maximum_version", ssl.TLSVersion.TLSv1_2), context.set_ciphers("ECDHE-ECDSA-AES128-SHA"))])
def test_weak_clients_are_refused(secure, weaken):
    context = ssl.create_default_context(cafile=secure.certificate / "cert.pem")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    weaken(context)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(secure, context)
    assert ask(secure, "GET", "/healthz")[0] == 200


def test_plain_text_is_told_to_speak_https(secure):
    with socket.create_connection(("127.0.0.1", secure.port), timeout=60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = read_all(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and "https" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("opening", [b"\x00" * 100, b"SSH-2.0-x\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 400])
def test_other_bytes_end_the_connection(secure, opening):
    with socket.create_connection(("127.0.0.1", secure.port), timeout=60) as connection:
        connection.sendall(opening)
        try:
            assert b"HTTP/" not in read_all(connection)
        except ConnectionResetError:
            pass


def test_renegotiation_is_refused(secure):
    """openssl s_client renegotiates on a line with R; the server goes on or ends the connection, but does not renegotiate."""
    run = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{secure.port}", "-tls1_2", "-CAfile", secure.certificate / "cert.pem"],
                         input=b"R\n", capture_output=True, timeout=60)
    text = (run.stdout + run.stderr).decode()
    assert "RENEGOTIATING" in text and re.search(r"no renegotiation|handshake failure|no_renegotiation", text), text


def test_large_uploads_and_downloads_pass_unchanged(secure):
    content = os.urandom(1 << 20) * 24
    client = openai.OpenAI(base_url=secure.url + "/v1", api_key="none", max_retries=0, http_client=openai.DefaultHttpxClient(verify=secure.context))
    file = client.files.create(file=("big.bin", content), purpose="user_data")
    assert file.bytes == len(content)
    got = client.files.content(file.id).read()
    assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()
    status, part = ask(secure, "GET", f"/v1/files/{file.id}/content", Range="bytes=1000000-1099999")
    assert status == 206 and part == content[1000000:1100000]
    assert client.files.delete(file.id).deleted


def test_a_download_through_a_slow_reader_is_whole(secure):
    content = os.urandom(1 << 20) * 2
    client = openai.OpenAI(base_url=secure.url + "/v1", api_key="none", max_retries=0, http_client=openai.DefaultHttpxClient(verify=secure.context))
    file = client.files.create(file=("slow.bin", content), purpose="user_data")
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(60)
    plain.connect(("127.0.0.1", secure.port))
    with secure.context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(f"GET /v1/files/{file.id}/content HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        got = b""
        while piece := connection.recv(1500):
            got += piece
    assert got.partition(b"\r\n\r\n")[2] == content
    client.files.delete(file.id)


def test_requests_that_share_records_are_all_answered(secure):
    """Sixty requests in a few records: what OpenSSL has decrypted and nobody has read is not forgotten."""
    with connect(secure) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 59 + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert read_all(connection).count(b"HTTP/1.1 200 OK") == 60
    body = b'{"model":"m","training_file":"f"' + b" " * 300000 + b"}"
    with connect(secure) as connection:
        connection.sendall(b"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert b"HTTP/1.1 4" in read_all(connection)


def test_events_stream_through_tls(secure):
    client = openai.OpenAI(base_url=secure.url + "/v1", api_key="none", max_retries=0, http_client=openai.DefaultHttpxClient(verify=secure.context))
    file = client.files.create(file=("t.jsonl", chat_lines(8).encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 1})
    with client._client.stream("GET", f"{client.base_url}fine_tuning/jobs/{job.id}/events?stream=true", timeout=120) as answer:
        lines = list(answer.iter_lines())
    assert "data: [DONE]" in lines and client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"


def test_the_command_line_speaks_https(secure):
    env = {**os.environ, "ATTUNE_BASE_URL": secure.url + "/v1", "SSL_CERT_FILE": str(secure.certificate / "cert.pem")}
    assert subprocess.run([BINARY, "files", "list"], env=env, capture_output=True).returncode == 0
    refused = subprocess.run([BINARY, "files", "list"], env={**env, "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"}, capture_output=True, text=True)
    assert refused.returncode != 0 and "certificate" in refused.stderr


def test_a_hangup_loads_the_certificate_anew_and_keeps_it_when_the_new_one_is_wrong(secure):
    def name():
        with connect(secure, ssl._create_unverified_context()) as connection:
            return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True))

    before, kept = name(), [(secure.certificate / file).read_bytes() for file in ("cert.pem", "key.pem")]
    with connect(secure) as old:
        make_certificate(secure.certificate, "renewed")
        secure.process.send_signal(signal.SIGHUP)
        wait_for(lambda: name() != before)
        old.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert old.recv(65536).startswith(b"HTTP/1.1 200")
    renewed = name()
    (secure.certificate / "key.pem").write_bytes(kept[1])
    secure.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "stays in use" in (secure.data.parent / "server.log").read_text()) and name() == renewed
    (secure.certificate / "cert.pem").write_bytes(kept[0])
    secure.process.send_signal(signal.SIGHUP)
    wait_for(lambda: name() == before)


@pytest.mark.parametrize("options, said", [
    (["--tls-cert", "cert.pem"], "go together"), (["--tls-cert", "none.pem", "--tls-key", "key.pem"], "none.pem"),
    (["--tls-cert", "cert.pem", "--tls-key", "cert.pem"], "cert.pem"), (["--tls-cert", "key.pem", "--tls-key", "key.pem"], "key.pem"),
    (["--tls-cert", "cert.pem", "--tls-key", "locked.pem"], "locked.pem")])
def test_wrong_certificates_are_named_at_the_start(tmp_path, models, options, said):
    make_certificate(tmp_path)
    subprocess.run(["openssl", "pkcs8", "-topk8", "-in", tmp_path / "key.pem", "-out", tmp_path / "locked.pem", "-passout", "pass:x"], check=True)
    run = subprocess.run([BINARY, "serve", "--data", tmp_path / "data", "--models", models, "--port", "0", "--no-auth", *options], cwd=tmp_path,
                         capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert run.returncode == 1 and said in run.stderr and run.stdout == ""


def test_a_server_for_everybody_without_tls_says_so(tmp_path, models):
    process = subprocess.Popen([BINARY, "serve", "--data", tmp_path / "data", "--models", models, "--port", "0", "--host", "0.0.0.0"], stdout=subprocess.PIPE)
    line = process.stdout.readline().decode()
    process.terminate()
    process.wait(timeout=30)
    assert line.startswith("attune is listening on http://0.0.0.0:") and "without TLS" in line


def test_a_hundred_handshakes_at_once_are_all_finished(secure):
    done = []

    def handshake():
        with connect(secure) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            done.append(read_all(connection).startswith(b"HTTP/1.1 200"))

    for _ in range(4):
        threads = [threading.Thread(target=handshake) for _ in range(25)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert done == [True] * 100
