"""Secrets: written and never read, sealed in the database, and found nowhere else."""
import json
import os
import pathlib
import re
import resource
import signal
import sqlite3
import subprocess
import time

import pytest
from conftest import BINARY, Server, ask, chat_lines, make_client, make_key, wait_for_job

SECRETS = "/v1/organization/projects/proj-default/secrets"
KEY_A, KEY_B = "0123456789abcdef" * 4, "fedcba9876543210" * 4


def canary(kind):
    return f"CANARY{kind}{os.urandom(12).hex()}"


def keyed_server(folder, models, *options):
    """A server with its own key file, and an admin's key."""
    data, key_file = folder / "data", folder / "master.key"
    admin = make_key(data, "--scopes", "read write admin")
    return Server(data, models, "--secret-key-file", key_file, *options), admin, key_file


def call(server, key, method, path, body=None, status=200):
    answer = ask(server, method, path, json.dumps(body).encode() if body is not None else None, Authorization=f"Bearer {key}")
    assert answer[0] == status, answer
    return json.loads(answer[2])


@pytest.fixture(scope="module")
def keyed(tmp_path_factory, models):
    server, admin, key_file = keyed_server(tmp_path_factory.mktemp("secrets"), models)
    server.start()
    yield server, admin, key_file
    assert server.stop() == 0


def test_a_secret_is_written_listed_by_name_and_deleted(keyed):
    server, admin, key_file = keyed
    assert key_file.stat().st_mode & 0o777 == 0o600
    value = canary("Token")
    made = call(server, admin, "POST", SECRETS, {"name": "HF_TOKEN", "value": value})
    assert (made["name"], made["last4"]) == ("HF_TOKEN", value[-4:])
    again = call(server, admin, "POST", SECRETS, {"name": "HF_TOKEN", "value": "short"})
    assert again["last4"] is None and again["created_at"] == made["created_at"]
    call(server, admin, "POST", SECRETS, {"name": "A_CERTIFICATE", "value": "-----BEGIN\nline \"two\"\n-----END"})
    assert [secret["name"] for secret in call(server, admin, "GET", SECRETS)["data"]] == ["A_CERTIFICATE", "HF_TOKEN"]
    assert call(server, admin, "DELETE", SECRETS + "/HF_TOKEN")["deleted"] is True
    call(server, admin, "DELETE", SECRETS + "/HF_TOKEN", status=404)
    assert [secret["name"] for secret in call(server, admin, "GET", SECRETS)["data"]] == ["A_CERTIFICATE"]


@pytest.mark.parametrize("body", [
    {}, [], "x", {"name": "A"}, {"value": "x"}, {"name": "A", "value": ""}, {"name": "A", "value": 5}, {"name": "A", "value": None}, {"name": "", "value": "x"},
    {"name": "1A", "value": "x"}, {"name": "A B", "value": "x"}, {"name": "A" * 65, "value": "x"}, {"name": 7, "value": "x"}, {"name": "A", "value": "a\0b"},
    {"name": "A", "value": "x" * 65537}, {"name": "A", "value": "x", "last4": "y"}])
def test_what_is_no_secret_is_refused(keyed, body):
    server, admin, _ = keyed
    assert call(server, admin, "POST", SECRETS, body, status=422)["detail"]


def test_what_a_route_does_not_know_or_cannot_hold_is_refused(keyed):
    server, admin, _ = keyed
    call(server, admin, "GET", SECRETS + "?limit=1", status=422)
    call(server, admin, "DELETE", SECRETS + "/A?limit=1", status=422)
    call(server, admin, "POST", SECRETS, {"name": "A", "value": "x" * (5 << 20)}, status=413)


def test_secrets_are_for_admins_and_belong_to_their_project(keyed):
    server, admin, _ = keyed
    other = call(server, admin, "POST", "/v1/organization/projects", {"name": "other"})
    writer = call(server, admin, "POST", f"/v1/organization/projects/{other['id']}/api_keys", {"scopes": ["read", "write"]})["value"]
    call(server, writer, "GET", SECRETS, status=403)
    call(server, writer, "POST", SECRETS, {"name": "A", "value": "x"}, status=403)
    call(server, admin, "POST", f"/v1/organization/projects/{other['id']}/secrets", {"name": "THEIRS", "value": "x"})
    assert "THEIRS" not in [secret["name"] for secret in call(server, admin, "GET", SECRETS)["data"]]
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/A")):
        call(server, admin, method, f"/v1/organization/projects/proj-nowhere/secrets{path}", {"name": "A", "value": "x"} if method == "POST" else None, status=404)


def test_the_command_line_takes_the_value_from_standard_input(keyed):
    server, admin, _ = keyed
    environment = dict(os.environ, ATTUNE_API_KEY=admin, ATTUNE_BASE_URL=server.url)

    def run(*words, value=""):
        return subprocess.run([BINARY, "secrets", *words], input=value, env=environment, capture_output=True, text=True)

    value = canary("Cli")
    assert run("set", "WANDB_API_KEY", value=value + "\n").returncode == 0
    assert re.search(rf"^WANDB_API_KEY +{value[-4:]}$", run("list").stdout, re.M) and value not in run("list").stdout
    assert run("delete", "WANDB_API_KEY").returncode == 0 and "WANDB_API_KEY" not in run("list").stdout
    assert run("set", "X Y", value="v").returncode == 1 and run("set", "X").returncode == 1 and run("sell").returncode == 2


def test_a_secret_does_not_stay_in_the_servers_memory(keyed):
    """What a request brought is erased: read through /proc as root, where the kernel lets us."""
    server, admin, _ = keyed
    value = canary("Memory")
    call(server, admin, "POST", SECRETS, {"name": "MEMORY", "value": value})
    call(server, admin, "DELETE", SECRETS + "/MEMORY")
    call(server, admin, "POST", "/v1/fine_tuning/jobs", {"model": "test/tiny", "integrations": [{"wandb": {"project": "p", "api_key": value + "\n"}}]}, status=422)
    copies = 0
    try:
        with open(f"/proc/{server.process.pid}/maps") as maps, open(f"/proc/{server.process.pid}/mem", "rb") as memory:
            for begin, end in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw", maps.read(), re.M):
                if int(end, 16) - int(begin, 16) < 1 << 32:  # not a sanitizer's shadow
                    memory.seek(int(begin, 16))
                    try:
                        copies += memory.read(int(end, 16) - int(begin, 16)).count(value.encode())
                    except OSError:
                        continue
    except PermissionError:
        pytest.skip("the memory of a server that is not dumpable is root's to read")
    assert copies == 0


def test_the_wrong_key_stops_the_start_and_a_rotated_one_opens(tmp_path, models):
    server, admin, key_file = keyed_server(tmp_path, models)
    server.start()
    call(server, admin, "POST", SECRETS, {"name": "HF_TOKEN", "value": "hf_0123456789abcdefWXYZ"})
    assert server.stop() == 0

    def refusal(*options, **environment):
        run = subprocess.run([BINARY, "serve", "--data", server.data, "--port", "0", *options], capture_output=True, text=True, timeout=60,
                             env=dict(os.environ, **environment))
        assert run.returncode in (1, 2) and not run.stdout, run
        return run.stderr

    (tmp_path / "wrong.key").write_text(KEY_A)
    (tmp_path / "wrong.key").chmod(0o600)
    assert "1 secrets in the database are sealed under the key" in refusal("--secret-key-file", tmp_path / "wrong.key")
    assert "is not the right master key" in refusal(ATTUNE_SECRET_KEY=KEY_B)
    assert "master key is missing" in refusal("--secret-key-file", tmp_path / "absent.key")
    assert not (tmp_path / "absent.key").exists()
    assert "lies in the data folder" in refusal("--secret-key-file", server.data / "runs/deep/a.key")
    (tmp_path / "wrong.key").write_text("no key")
    assert "is not a keyring" in refusal("--secret-key-file", tmp_path / "wrong.key")
    (tmp_path / "wrong.key").chmod(0o644)
    assert "can be read by others" in refusal("--secret-key-file", tmp_path / "wrong.key")

    old = key_file.read_text()
    rotated = subprocess.run([BINARY, "secrets", "rotate", "--data", server.data, "--secret-key-file", key_file], capture_output=True, text=True)
    assert rotated.returncode == 0 and rotated.stdout.startswith("1 secrets are sealed under the key "), rotated
    assert key_file.read_text() != old and len(key_file.read_text().split()) == 1
    server.start()
    assert [(secret["name"], secret["last4"]) for secret in call(server, admin, "GET", SECRETS)["data"]] == [("HF_TOKEN", "WXYZ")]
    busy = subprocess.run([BINARY, "secrets", "rotate", "--data", server.data, "--secret-key-file", key_file], capture_output=True, text=True)
    assert busy.returncode == 1 and "a server uses this data folder" in busy.stderr
    assert server.stop() == 0


def test_the_key_may_come_from_the_environment_or_a_descriptor(tmp_path, models, monkeypatch):
    monkeypatch.setenv("ATTUNE_SECRET_KEY", KEY_A)
    server = Server(tmp_path / "data", models, "--no-auth").start()
    call(server, "none", "POST", SECRETS, {"name": "A", "value": "hf_0123456789abcdefWXYZ"})
    assert KEY_A.encode() not in pathlib.Path(f"/proc/{server.process.pid}/environ").read_bytes()
    assert server.stop() == 0
    monkeypatch.setenv("ATTUNE_SECRET_KEY", f"{KEY_B} {KEY_A}")
    assert "the keys behind it can go" in subprocess.run([BINARY, "secrets", "rotate", "--data", server.data], capture_output=True, text=True).stdout
    monkeypatch.delenv("ATTUNE_SECRET_KEY")
    reader, writer = os.pipe()
    os.write(writer, KEY_B.encode())
    os.close(writer)
    process = subprocess.Popen([BINARY, "serve", "--no-auth", "--data", server.data, "--port", "0", "--secret-key-fd", str(reader)], pass_fds=[reader],
                               stdout=subprocess.PIPE, text=True)
    server.url = re.search(r"http://[\d.:]+", process.stdout.readline()).group()
    assert call(server, "none", "GET", SECRETS)["data"][0]["last4"] == "WXYZ"
    process.terminate()
    assert process.wait(timeout=30) == 0


def test_a_server_without_a_place_for_a_key_says_so_and_takes_no_secret(tmp_path, models, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("HOME")
    server = Server(tmp_path / "data", models, "--no-auth").start()
    assert "no secrets can be kept" in (tmp_path / "server.log").read_text()
    refused = call(server, "none", "POST", SECRETS, {"name": "A", "value": "x"}, status=422)
    assert "--secret-key-file" in refused["error"]["message"]
    assert call(server, "none", "GET", SECRETS)["data"] == []
    assert server.stop() == 0


# --- the sweep ---

def process_tree(pid):
    found = [pid]
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found += process_tree(int(stat.parent.name))
        except (OSError, IndexError):
            continue
    return found


def note_processes(pid, seen):
    """Command line and environment of the server and all that it started."""
    for each in process_tree(pid):
        for name in ("cmdline", "environ"):
            try:
                seen[each, name] = seen.get((each, name), b"") + pathlib.Path(f"/proc/{each}/{name}").read_bytes()
            except OSError:
                pass


def hits(name, content, canaries):
    return [(name, kind) for kind, value in canaries.items() if value.encode() in content]


def test_canaries_are_found_nowhere_but_sealed(tmp_path, models):
    """Every secret that can be sent, in every place that takes one; then everything that the service said or wrote."""
    resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
    server, admin, key_file = keyed_server(tmp_path, models, "--access-log", tmp_path / "access.log")
    server.start()
    said, seen, canaries = [], {}, {"Admin": admin}

    def send(method, path, body=None, key=admin, **headers):
        answer = ask(server, method, path, json.dumps(body).encode() if body is not None else None, Authorization=f"Bearer {key}", **headers)
        said.append((path, str(answer[1].items()).encode() + answer[2]))
        return answer[0], json.loads(answer[2])

    def new(kind):
        canaries[kind] = canary(kind)
        return canaries[kind]

    project = send("POST", "/v1/organization/projects", {"name": "p"})[1]
    value = call(server, admin, "POST", f"/v1/organization/projects/{project['id']}/api_keys", {"scopes": ["read", "write"]})["value"]  # shown once
    canaries["Writer"] = value
    for name in ("HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD"):
        assert send("POST", SECRETS, {"name": name, "value": new(name)})[0] == 200
    assert send("POST", SECRETS, {"name": "not a name", "value": new("BadName")})[0] == 422
    assert send("POST", SECRETS, {"name": "A", "value": {"deep": new("Deep")}})[0] == 422
    client = make_client(server, admin)
    file = client.files.create(file=("t.jsonl", chat_lines(8).encode()), purpose="fine-tune")
    job = {"model": "test/tiny", "training_file": file.id, "hyperparameters": {"n_epochs": 1}}
    integrations = [{"type": "wandb", "wandb": {"project": "p", "api_key": new("Wandb")}},
                    {"type": "mlflow", "mlflow": {"tracking_uri": "https://192.0.2.1", "experiment_name": None, "run_name": None, "username": new("User"),
                                                  "password": new("Password"), "token": new("Token"), "certificate_file": f"-----\n{new('Certificate')}\n-----"}},
                    {"type": "hf", "hf": {"output_repo_name": "r", "api_token": new("Hub")}}]
    for body in ({**job, "integrations": integrations}, {**job, "from_checkpoint": {"type": "hf", "repo": "r", "token": new("From")}},
                 {**job, "extra_body": {"integrations": integrations}}, {**job, "integrations": [{"wandb": {"api_key": [new("Listed")]}}]}):
        send("POST", "/v1/fine_tuning/jobs", body)
        send("POST", "/v1/fine_tuning/jobs", body, Idempotency_Key=os.urandom(8).hex())
    note_processes(server.process.pid, seen)
    for key in (new("WrongKey"), "at_" + new("NearKey"), value):
        send("GET", "/v1/files", key=key)
    made = client.fine_tuning.jobs.create(**job, extra_headers={"Idempotency-Key": "k"})
    while client.fine_tuning.jobs.retrieve(made.id).status not in ("succeeded", "failed"):
        note_processes(server.process.pid, seen)
        time.sleep(0.02)
    assert wait_for_job(client, made.id).status == "succeeded"
    client.chat.completions.create(model="test/tiny", messages=[{"role": "user", "content": "x"}], max_tokens=2)
    note_processes(server.process.pid, seen)
    for path in ("/v1/fine_tuning/jobs", f"/v1/fine_tuning/jobs/{made.id}/events", SECRETS, "/v1/organization/projects", "/v1/files", "/v1/models"):
        send("GET", path)
    assert len({pid for pid, _ in seen}) >= 3, "no child was seen"
    pid = server.process.pid
    assert re.search(r"Max core file size +0 +0 ", pathlib.Path(f"/proc/{pid}/limits").read_text())
    os.kill(pid, signal.SIGABRT)  # which dumps core where it is allowed, and which no shell ignores in the background
    assert not os.WCOREDUMP(os.waitpid(pid, 0)[1])

    found = []
    for name, content in said:
        found += hits(name, content, canaries)
    for name, content in seen.items():
        found += hits(name, content, canaries)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != key_file]
    assert len(files) > 10 and not [path for path in files if path.name.startswith("core")]
    for path in files:
        found += hits(path, path.read_bytes(), canaries)
    for path in pathlib.Path.cwd().glob("core*"):
        found.append(path)
    assert not found
    assert hits("", b"".join(path.read_bytes() for path in files), {"control": file.id}), "the sweep finds what is there"
    master = key_file.read_text().strip()
    assert not [path for path in files if master.encode() in path.read_bytes() or bytes.fromhex(master) in path.read_bytes()]
    with sqlite3.connect(server.data / "attune.db") as database:
        assert database.execute("SELECT COUNT(*) FROM secrets").fetchone() == (3,)
