import io
import json

import openai
import pytest
from conftest import ask, chat_lines, wait_for_job


def test_a_file_goes_up_and_comes_back_unchanged(client):
    content = chat_lines(3).encode()
    file = client.files.create(file=("my data.jsonl", content), purpose="fine-tune")
    assert (file.object, file.bytes, file.filename, file.purpose, file.status) == ("file", len(content), "my data.jsonl", "fine-tune", "processed")
    assert client.files.retrieve(file.id).id == file.id
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert client.files.content(file.id).read() == content
    assert file.id in [f.id for f in client.files.list()]
    deleted = client.files.delete(file.id)
    assert deleted.deleted and deleted.id == file.id
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_a_stream_of_unknown_length_is_taken(client):
    class Endless(io.RawIOBase):
        def __init__(self):
            self.left = [chat_lines(1).encode()] * 50

        def readable(self):
            return True

        def read(self, size=-1):
            return self.left.pop() if self.left else b""

    file = client.files.create(file=("s.jsonl", Endless()), purpose="fine-tune")
    assert file.bytes == len(chat_lines(1)) * 50


@pytest.mark.parametrize("content, said", [
    (b"not json\n", "Line 1"),
    (b'{"messages": []}\n', "Line 1"),
    (b'{"messages": [{"role": "user", "content": "x"}, {"role": "wizard", "content": "y"}]}\n', "role"),
    (b'{"text": "a"}\n{"text": 5}\n', "Line 2"),
    (b"", "no example"),
])
def test_a_bad_file_is_kept_with_its_errors(client, content, said):
    file = client.files.create(file=("bad.jsonl", content), purpose="fine-tune")
    assert file.status == "error"
    assert said in file.status_details
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id)
    assert refused.value.param == "training_file"
    assert file.status_details in refused.value.message


def test_lists_page_by_the_last_id(client):
    ids = [client.files.create(file=(f"{i}.jsonl", chat_lines(1).encode()), purpose="fine-tune").id for i in range(5)]
    page = client.files.list(limit=2)
    assert [f.id for f in page.data] == ids[:2:-1] and page.has_more
    page = client.files.list(limit=2, after=page.data[-1].id)
    assert [f.id for f in page.data] == ids[2:0:-1]
    assert client.files.list(limit=1, order="asc", after=ids[0]).data[0].id == ids[1]
    assert client.files.list(limit=0).data == []
    assert client.files.list(after="file-nowhere").data == []
    assert [f.id for f in client.files.list(limit=2, purpose="fine-tune") if f.id in ids] == ids[::-1]


@pytest.mark.parametrize("query", [{"limit": -1}, {"limit": "many"}, {"order": "up"}])
def test_wrong_list_queries_are_refused(client, query):
    with pytest.raises(openai.UnprocessableEntityError):
        client.files.list(extra_query=query)


def test_wrong_uploads_are_refused(client):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.files.create(file=("x.jsonl", b"{}"), purpose="fun")
    assert refused.value.param == "purpose"
    with pytest.raises(openai.BadRequestError):
        client.post("/files", body={"purpose": "fine-tune"}, cast_to=object)


def test_one_range_of_a_file(client, server):
    content = chat_lines(2).encode()
    file = client.files.create(file=("r.jsonl", content), purpose="fine-tune")
    path = f"/v1/files/{file.id}/content"
    status, headers, part = ask(server, "GET", path, Range="bytes=5-9")
    assert (status, part) == (206, content[5:10]) and headers["Content-Range"] == f"bytes 5-9/{len(content)}"
    assert ask(server, "GET", path, Range="bytes=-3")[2] == content[-3:]
    assert ask(server, "GET", path, Range="bytes=99999-")[0] == 416
    assert 'filename="r.jsonl"' in ask(server, "GET", path)[1]["Content-Disposition"]


def test_a_job_keeps_its_data_when_the_file_is_deleted(client):
    file = client.files.create(file=("gone.jsonl", chat_lines(4).encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 1})
    assert client.files.delete(file.id).deleted
    job = wait_for_job(client, job.id)
    assert job.status == "succeeded", job.error


@pytest.mark.parametrize("body, said", [
    (b"--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n--b--\r\n", "'file' is a required property"),
    (b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nx\r\n--b--\r\n", "'purpose' is a required property"),
    (b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nx", ""),
    (b"--c\r\n\r\n", ""),
    (b"", ""),
    (b"--b\r\nContent-Disposition: form-data; name=\"color\"\r\n\r\nred\r\n--b--\r\n", "color"),
    (b"--b\r\nContent-Disposition: form-data; name=\"expires_after[seconds]\"\r\n\r\n5\r\n--b--\r\n", "3600"),
])
def test_broken_forms_are_refused(server, body, said):
    status, _, answer = ask(server, "POST", "/v1/files", body, Content_Type="multipart/form-data; boundary=b")
    assert status == 400 and said in json.loads(answer)["error"]["message"], answer


def test_files_expire_when_they_are_told_to(client):
    file = client.files.create(file=("x.jsonl", chat_lines(1).encode()), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at - file.created_at == 3600
