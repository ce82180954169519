"""What ends in the middle of a reply: the worker, the client, the model, the server. Askers are told, nothing stays behind."""
import concurrent.futures
import json
import os
import pathlib
import signal
import socket
import time

import openai
import pytest
from conftest import Server, ask, chat_lines, make_client, wait_for, wait_for_job
from test_chat import MESSAGES, worker_of

LONG = {"model": "test/tiny", "messages": MESSAGES, "max_tokens": 200, "n": 64, "temperature": 1}


@pytest.fixture
def own(tmp_path, models):
    running = Server(tmp_path / "data", models, "--no-auth").start()
    yield running
    if running.process.poll() is None:
        assert running.stop() == 0


def begun(server, **options):
    """A stream of which the first piece has come."""
    stream = iter(make_client(server).chat.completions.create(**LONG | options, stream=True))
    next(stream)
    return stream


def ticks(process_id):
    """Processor time so far."""
    fields = pathlib.Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def is_idle(process_id):
    before = ticks(process_id)
    time.sleep(0.3)
    return ticks(process_id) == before


def descriptors(server):
    return len(list(pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir()))


def reply_of(server, **options):
    return make_client(server).chat.completions.create(**LONG | {"n": 1, "max_tokens": 2} | options)


def test_a_worker_killed_before_a_whole_answer_is_a_503_that_says_so(own):
    reply_of(own)
    worker = worker_of(own)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(reply_of, own, n=128, max_tokens=200) for _ in range(2)]
        wait_for(lambda: not is_idle(worker))
        os.kill(worker, signal.SIGKILL)
        for answer in answers:
            with pytest.raises(openai.InternalServerError, match="ended unexpectedly") as told:
                answer.result()
            assert told.value.status_code == 503
    assert reply_of(own).choices


def test_a_worker_that_stands_still_takes_only_its_own_askers_along(own):
    """Stopped, not ended: who asks something else is answered, and who leaves is gone."""
    stream = begun(own)
    worker = worker_of(own)
    os.kill(worker, signal.SIGSTOP)
    try:
        assert ask(own, "GET", "/v1/models")[0] == 200
        with pytest.raises(openai.APITimeoutError):
            make_client(own).with_options(timeout=1, max_retries=0).chat.completions.create(**LONG)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert sum(len(chunk.choices) for chunk in stream) > 0
    assert reply_of(own).choices


def test_clients_that_leave_leave_nothing_behind(own):
    reply_of(own)
    worker, before = worker_of(own), descriptors(own)
    body = json.dumps(LONG | {"stream": True}).encode()
    for _ in range(8):
        with socket.create_connection(own.url.removeprefix("http://").split(":"), timeout=60) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert connection.recv(10).startswith(b"HTTP/1.1 2")
    wait_for(lambda: is_idle(worker))
    wait_for(lambda: descriptors(own) == before)
    assert worker_of(own) == worker and reply_of(own).choices


def test_a_whole_model_deleted_in_the_middle_of_its_reply_says_the_rest(own):
    client = make_client(own)
    file = client.files.create(file=("t.jsonl", chat_lines(24).encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, extra_body={"hyperparameters": {"n_epochs": 1, "lora": False}})
    model = wait_for_job(client, job.id).fine_tuned_model
    stream = begun(own, model=model)
    assert client.models.delete(model).deleted
    reasons = [choice.finish_reason for chunk in stream for choice in chunk.choices if choice.finish_reason]
    assert len(reasons) == LONG["n"]
    with pytest.raises(openai.NotFoundError):
        reply_of(own, model=model)
    assert reply_of(own).choices


def test_a_drain_lets_replies_end_and_new_ones_begin(own):
    stream = begun(own)
    assert ask(own, "POST", "/v1/organization/drain", b"{}")[0] == 200
    reasons = [choice.finish_reason for chunk in stream for choice in chunk.choices if choice.finish_reason]
    assert len(reasons) == LONG["n"]
    assert reply_of(own).choices


def test_a_server_that_stops_tells_those_who_wait(own):
    stream = begun(own)
    worker = worker_of(own)
    os.kill(worker, signal.SIGSTOP)  # the reply does not end within the grace, however fast the machine is
    own.process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIError) as told:
        for _ in stream:
            pass
    assert "stopping" in str(told.value)
    assert own.process.wait(timeout=30) == 0
    wait_for(lambda: not pathlib.Path(f"/proc/{worker}").exists())
