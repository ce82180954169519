import io

import openai
import pytest
from conftest import chat_lines


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
    import urllib.error
    import urllib.request
    file = client.files.create(file=("r.jsonl", chat_lines(2).encode()), purpose="fine-tune")
    url = f"{server.url}/v1/files/{file.id}/content"
    part = urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=5-9"}))
    assert part.status == 206 and part.read() == chat_lines(2).encode()[5:10]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=99999-"}))
    assert refused.value.code == 416
