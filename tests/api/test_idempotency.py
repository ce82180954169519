"""A request sent again under the same Idempotency-Key makes nothing twice."""
import concurrent.futures
import re
import sqlite3
import uuid

import openai
import pytest
from conftest import Server, chat_lines, make_client, wait_for_job


def key():
    return {"Idempotency-Key": f"test {uuid.uuid4()}"}


def makers(client, training_file):
    """Each makes one thing; the same arguments each time, whatever the multipart boundary."""
    content = chat_lines(2).encode()
    upload = client.uploads.create(filename="u.jsonl", purpose="fine-tune", bytes=len(content), mime_type="text/jsonl")
    return {
        "job": lambda **options: client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, hyperparameters={"n_epochs": 1}, **options),
        "file": lambda **options: client.files.create(file=("f.jsonl", content), purpose="fine-tune", **options),
        "upload": lambda **options: client.uploads.create(filename="x", purpose="batch", bytes=5, mime_type="text/plain", **options),
        "part": lambda **options: client.uploads.parts.create(upload.id, data=content, **options),
    }


@pytest.mark.parametrize("what", ["job", "file", "upload", "part"])
def test_the_same_request_again_gets_the_first_answer(client, training_file, what):
    make, header = makers(client, training_file)[what], key()
    first, again, other = make(extra_headers=header), make(extra_headers=header), make(extra_headers=key())
    assert again == first and other.id != first.id
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        header = key()
        ids = {made.id for made in pool.map(lambda _: make(extra_headers=header), range(24))}
    assert len(ids) == 1 and ids.isdisjoint({first.id, other.id})


def test_an_upload_is_completed_once(client):
    content = chat_lines(2).encode()
    upload = client.uploads.create(filename="u.jsonl", purpose="fine-tune", bytes=len(content), mime_type="text/jsonl")
    part = client.uploads.parts.create(upload.id, data=content)
    header = key()
    first = client.uploads.complete(upload.id, part_ids=[part.id], extra_headers=header)
    assert client.uploads.complete(upload.id, part_ids=[part.id], extra_headers=header) == first
    with pytest.raises(openai.BadRequestError):
        client.uploads.complete(upload.id, part_ids=[part.id])


def test_a_key_belongs_to_one_request(client, training_file):
    header = key()
    client.files.create(file=("a", b"{}"), purpose="user_data", extra_headers=header)
    for act in (lambda: client.files.create(file=("a", b"{ }"), purpose="user_data", extra_headers=header),
                lambda: client.files.create(file=("b", b"{}"), purpose="user_data", extra_headers=header),
                lambda: client.uploads.create(filename="x", purpose="batch", bytes=5, mime_type="text/plain", extra_headers=header)):
        with pytest.raises(openai.UnprocessableEntityError, match="another request"):
            act()
    with pytest.raises(openai.BadRequestError, match="255"):
        client.files.create(file=("a", b"{}"), purpose="user_data", extra_headers={"Idempotency-Key": "k" * 256})


def test_what_failed_may_be_tried_again_under_its_key(client, training_file):
    header = key()
    for _ in range(2):
        with pytest.raises(openai.NotFoundError):
            client.fine_tuning.jobs.create(model="no/such", training_file=training_file.id, extra_headers=header)
    assert client.fine_tuning.jobs.create(model="test/tiny", training_file=training_file.id, extra_headers=header).status == "queued"


@pytest.mark.parametrize("what", ["job", "file", "upload", "part"])
def test_a_server_that_died_before_its_answer_makes_nothing_twice(models, tmp_path, what):
    """The row as it stands when the process dies behind the effect, and when it dies before it."""
    server = Server(tmp_path / "data", models, "--no-auth").start()
    client = make_client(server)
    training_file = client.files.create(file=("t.jsonl", chat_lines(4).encode()), purpose="fine-tune")
    make, behind, before = makers(client, training_file)[what], key(), key()
    made, other = make(extra_headers=behind), make(extra_headers=before)
    with sqlite3.connect(tmp_path / "data/attune.db") as database:
        database.execute("UPDATE idempotency_keys SET status = 0, body = NULL")
        head = re.match("[a-z]+[-_]", other.id).end()
        new_id = other.id[:head] + ("1" if other.id[head] != "1" else "2") + other.id[head + 1:]
        database.execute("UPDATE idempotency_keys SET resource_id = ? WHERE resource_id = ?", (new_id, other.id))
    assert make(extra_headers=behind).id == made.id
    assert make(extra_headers=before).id == new_id
    assert make(extra_headers=before).id == new_id
    if what == "job":
        for job_id in (made.id, other.id, new_id):
            wait_for_job(client, job_id)
    assert server.stop() == 0
