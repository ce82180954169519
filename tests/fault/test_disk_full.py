"""A full disk refuses work and loses nothing: the server stays up, reads go on, writes answer 507, and everything works again within
five seconds of there being room, without a restart. The data folder is a small tmpfs, which only root may mount."""
import contextlib
import http.client
import json
import os
import subprocess
import time

import pytest
from service import Service, chat_lines

MIB = 1 << 20
SIZE, FLOOR = 48 * MIB, 8 * MIB


def mount(folder, size=SIZE):
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    mount(folder / "data")
    try:
        running = Service(folder, "--disk-free-min", str(FLOOR))
        yield running
        running.stop()
    finally:
        subprocess.run(["umount", "-l", str(folder / "data")], check=True)


@contextlib.contextmanager
def full(data, leave=0):
    """Another program takes all the room but `leave` bytes."""
    filler = data / "filler"
    with open(filler, "wb", buffering=0) as out:
        room = os.statvfs(data)
        block = b"x" * room.f_frsize
        with contextlib.suppress(OSError):
            while os.statvfs(data).f_bavail * room.f_frsize > leave:
                out.write(block)
    try:
        yield
    finally:
        filler.unlink(missing_ok=True)


def connect(service):
    return http.client.HTTPConnection(service.url[7:], timeout=30)


def ask(service, method, path, body=None, **headers):
    connection = connect(service)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def form(content, filename="train.jsonl"):
    head = (f'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
            f'--x\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n').encode()
    return head + content + b"\r\n--x--\r\n"


FORM = {"Content-Type": "multipart/form-data; boundary=x"}
LINE = b'{"text": "' + b"word " * 200 + b'"}\n'


def upload(service, content):
    return ask(service, "POST", "/v1/files", form(content), **FORM)


def is_no_space(status, content):
    error = json.loads(content)["error"]
    assert status == 507 and error["code"] == "no_space" and error["message"] and set(error) == {"message", "type", "param", "code"}, (status, content)
    return True


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def eventually_created(service):
    """An upload works again, at most five seconds from now."""
    deadline = time.monotonic() + 5
    while True:
        status, content = upload(service, LINE)
        if status == 200:
            return json.loads(content)["id"]
        assert time.monotonic() < deadline, content
        time.sleep(0.1)


def test_an_upload_that_cannot_fit_is_refused_before_its_first_byte(service):
    connection = connect(service)
    connection.putrequest("POST", "/v1/files")
    for name, value in {**FORM, "Content-Length": str(SIZE), "Expect": "100-continue"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert is_no_space(answer.status, answer.read())
    connection.close()
    body = json.dumps({"filename": "a.jsonl", "purpose": "fine-tune", "bytes": 30 * MIB, "mime_type": "text/jsonl"})
    assert is_no_space(*ask(service, "POST", "/v1/uploads", body))  # the parts and the file that they become


def test_a_job_whose_checkpoints_can_never_fit_is_refused(service):
    file = eventually_created(service)
    job = {"model": "test/tiny", "training_file": file, "hyperparameters": {"n_epochs": 100}}
    status, content = ask(service, "POST", "/v1/fine_tuning/jobs", json.dumps(job))
    assert is_no_space(status, content) and "keep_checkpoints" in json.loads(content)["error"]["message"]
    status, content = ask(service, "POST", "/v1/fine_tuning/jobs", json.dumps({**job, "keep_checkpoints": 1}))
    assert status == 200, content
    assert ask(service, "POST", f"/v1/fine_tuning/jobs/{json.loads(content)['id']}/cancel")[0] == 200


def test_a_body_of_unknown_length_ends_at_the_floor(service):
    def chunks():
        for _ in range(SIZE // len(LINE)):
            yield LINE

    connection = connect(service)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Content-Type", FORM["Content-Type"])
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    with contextlib.suppress(OSError):  # the answer comes before the end of the body
        connection.send(b"%x\r\n%s\r\n" % (len(head := form(b"")[:-len(b"\r\n--x--\r\n")]), head))
        for chunk in chunks():
            connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    answer = connection.getresponse()
    assert is_no_space(answer.status, answer.read())
    connection.close()
    wait_until(lambda: os.statvfs(service.data).f_bavail * os.statvfs(service.data).f_frsize > SIZE - FLOOR)  # the answer comes first
    assert list((service.data / "tmp").iterdir()) == []


def test_uploads_side_by_side_are_not_promised_the_same_room(service):
    connections = []
    for _ in range(3):
        connection = connect(service)
        connection.putrequest("POST", "/v1/files")
        connection.putheader("Content-Type", FORM["Content-Type"])
        connection.putheader("Content-Length", str(15 * MIB))
        connection.endheaders()
        connection.send(form(LINE)[:-9])
        time.sleep(0.1)
        connections.append(connection)
    answer = connections[2].getresponse()  # the first two have 30 of 40 MiB
    assert is_no_space(answer.status, answer.read())
    for connection in connections:
        connection.close()
    eventually_created(service)


def test_reads_go_on_while_the_disk_is_full(service):
    runs = set((service.data / "runs").iterdir())
    file_id = json.loads(upload(service, LINE)[1])["id"]
    with full(service.data):
        assert ask(service, "GET", "/readyz")[0] == 200
        assert ask(service, "GET", "/v1/files")[0] == 200
        assert ask(service, "GET", f"/v1/files/{file_id}/content") == (200, LINE)
        assert ask(service, "GET", "/v1/fine_tuning/jobs")[0] == 200
        assert is_no_space(*upload(service, LINE))
        job = {"model": "test/tiny", "training_file": file_id}
        assert is_no_space(*ask(service, "POST", "/v1/fine_tuning/jobs", json.dumps(job)))
        assert set((service.data / "runs").iterdir()) == runs
    eventually_created(service)


def test_a_disk_that_fills_up_in_the_middle_of_an_upload(service):
    content = LINE * (4 * MIB // len(LINE))
    body = form(content)
    connection = connect(service)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Content-Type", FORM["Content-Type"])
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    connection.send(body[:MIB])
    time.sleep(0.2)
    with full(service.data):
        with contextlib.suppress(OSError):
            connection.send(body[MIB:])
        answer = connection.getresponse()
        assert is_no_space(answer.status, answer.read())
        connection.close()
        assert ask(service, "GET", "/v1/files")[0] == 200
    wait_until(lambda: not list((service.data / "tmp").iterdir()))
    eventually_created(service)


def test_writes_to_the_database_fail_and_work_again(service):
    """Small writes until the database finds no room in a commit: each is kept or refused, and what was kept is there."""
    acknowledged = set()
    with full(service.data, leave=MIB):
        for _ in range(2000):
            body = json.dumps({"filename": "a.jsonl" + "x" * 200, "purpose": "fine-tune", "bytes": 0, "mime_type": "text/jsonl"})
            status, content = ask(service, "POST", "/v1/uploads", body, **{"Idempotency-Key": os.urandom(8).hex()})
            if status != 200:
                assert is_no_space(status, content)
                break
            acknowledged.add(json.loads(content)["id"])
        else:
            pytest.fail("the database never ran out of room")
    assert ask(service, "GET", "/v1/files")[0] == 200
    eventually_created(service)
    service.kill()
    service.start()
    for upload_id in acknowledged:
        assert ask(service, "POST", f"/v1/uploads/{upload_id}/cancel", b"")[0] == 200


def test_a_server_starts_on_a_full_disk(service):
    file_id = json.loads(upload(service, LINE)[1])["id"]
    with full(service.data):
        service.kill()
        service.start()
        assert ask(service, "GET", f"/v1/files/{file_id}/content") == (200, LINE)
        assert is_no_space(*upload(service, LINE))
    eventually_created(service)


def create(service, file_id, epochs=3, **more):
    body = {"model": "test/tiny", "training_file": file_id, "seed": 5,
            "hyperparameters": {"n_epochs": epochs, "batch_size": 2, "learning_rate": 1e-3, "packing": False, "context_length": 64}, **more}
    return service.call("POST", "/v1/fine_tuning/jobs", body)["id"]


def told(service, job_id, kind):
    """The job's events of a kind in the trainer's own file, which the server reads a moment later."""
    lines = []
    for events in sorted((service.data / "runs" / job_id / "attempts").glob("*/events.jsonl")):
        lines += [json.loads(line) for line in events.read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1)), "one attempt, every event once"
    return [line for line in lines if line["kind"] == kind]


def codes(service, job_id):
    return [line["code"] for line in told(service, job_id, "message")]


def checkpoints(service, job_id):
    return service.call("GET", f"/v1/fine_tuning/jobs/{job_id}/checkpoints?limit=100")["data"]


def test_a_checkpoint_waits_for_room_and_the_ones_before_it_stay(service):
    job_id = create(service, service.upload(chat_lines(40)), epochs=6)
    wait_until(lambda: len(checkpoints(service, job_id)) >= 1)
    with full(service.data, leave=3 * MIB):
        wait_until(lambda: "waiting_for_disk" in codes(service, job_id))
        wait_until(lambda: len(checkpoints(service, job_id)) == len(told(service, job_id, "checkpoint")))
        before = checkpoints(service, job_id)
        for file_id in before[-1]["result_files"]:
            assert ask(service, "GET", f"/v1/files/{file_id}/content")[0] == 200
        assert service.job(job_id)["status"] == "running"
        time.sleep(1.5)  # and it goes on waiting
        assert checkpoints(service, job_id) == before
        assert not list((service.data / "runs" / job_id / "attempts").glob("*/checkpoints/*.tmp"))
    wait_until(lambda: len(checkpoints(service, job_id)) > len(before), seconds=5)
    service.wait(job_id)
    assert len(checkpoints(service, job_id)) == 6
    messages = [event["message"] for event in service.call("GET", f"/v1/fine_tuning/jobs/{job_id}/events?limit=1000")["data"]]
    assert any("waits for room" in message for message in messages)


def test_a_run_on_a_disk_without_a_byte_left_goes_on_when_there_is_room(service):
    file_id = service.upload(chat_lines(40))
    reference = create(service, file_id)
    service.wait(reference)
    job_id = create(service, file_id)
    wait_until(lambda: service.job(job_id)["trained_steps"] and service.job(job_id)["status"] == "running")
    with full(service.data):
        time.sleep(2)
        assert service.job(job_id)["status"] == "running"
    service.wait(job_id)
    codes(service, job_id)
    assert service.checkpoint_files(job_id) == service.checkpoint_files(reference)
    assert service.steps(job_id) == service.steps(reference)


def test_a_job_that_waits_for_room_can_be_cancelled(service):
    job_id = create(service, service.upload(chat_lines(40)), epochs=20)
    with full(service.data, leave=3 * MIB):
        wait_until(lambda: "waiting_for_disk" in codes(service, job_id))
        service.call("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel")
        wait_until(lambda: list((service.data / "runs" / job_id / "attempts").glob("*/exit.json")), seconds=5)
    assert service.job(job_id)["status"] == "cancelled"
    eventually_created(service)
