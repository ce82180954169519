import concurrent.futures
import hashlib
import json
import pathlib
import sqlite3

import openai
import pytest
from conftest import Server, ask, chat_lines, make_client


def begin(client, content, **options):
    return client.uploads.create(**{"filename": "big.jsonl", "purpose": "fine-tune", "bytes": len(content), "mime_type": "text/jsonl", **options})


def test_parts_side_by_side_become_one_checked_file(client):
    content = chat_lines(5000).encode()
    upload = begin(client, content, expires_after={"anchor": "created_at", "seconds": 3600})
    assert (upload.status, upload.bytes, upload.file) == ("pending", len(content), None)
    assert upload.expires_at - upload.created_at == 3600
    pieces = [content[start:start + 100_001] for start in range(0, len(content), 100_001)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda piece: client.uploads.parts.create(upload.id, data=piece), pieces))
    assert {part.upload_id for part in parts} == {upload.id}
    done = client.uploads.complete(upload.id, part_ids=[part.id for part in parts], md5=hashlib.md5(content).hexdigest())
    assert (done.status, done.file.status, done.file.bytes, done.file.filename) == ("completed", "processed", len(content), "big.jsonl")
    assert done.file.expires_at - done.file.created_at == 3600
    assert client.files.content(done.file.id).read() == content


def test_the_sdks_own_helper_uploads_a_file_in_chunks(client, tmp_path):
    path = tmp_path / "chunks.jsonl"
    path.write_bytes(chat_lines(2000).encode())
    upload = client.uploads.upload_file_chunked(file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=50_000)
    assert upload.status == "completed" and upload.file.filename == "chunks.jsonl"
    assert client.files.content(upload.file.id).read() == path.read_bytes()


def test_the_order_of_the_ids_decides_and_lines_may_cross_parts(client):
    content = chat_lines(2).encode()
    upload = begin(client, content)
    second = client.uploads.parts.create(upload.id, data=content[7:])
    first = client.uploads.parts.create(upload.id, data=content[:7])
    done = client.uploads.complete(upload.id, part_ids=[first.id, second.id])
    assert client.files.content(done.file.id).read() == content and done.file.status == "processed"


def test_a_bad_file_in_parts_is_kept_with_its_errors(client):
    upload = begin(client, b"not json\n")
    part = client.uploads.parts.create(upload.id, data=b"not json\n")
    done = client.uploads.complete(upload.id, part_ids=[part.id])
    assert done.file.status == "error" and "Line 1" in done.file.status_details


def test_nothing_can_be_done_with_an_upload_that_is_over(client):
    upload = begin(client, b"")
    assert client.uploads.cancel(upload.id).status == "cancelled"
    for act in (lambda: client.uploads.cancel(upload.id), lambda: client.uploads.complete(upload.id, part_ids=[]),
                lambda: client.uploads.parts.create(upload.id, data=b"x")):
        with pytest.raises(openai.BadRequestError, match="cancelled"):
            act()


@pytest.mark.parametrize("ids, md5, said", [
    ([0], None, "together"),
    ([0, 1], "0" * 32, "MD5"),
    ([0, 1], "short", "32 hexadecimal"),
    (["part_nowhere"], None, "no part"),
    ([5.5], None, "strings"),
    ("part", None, "list"),
])
def test_wrong_completions_leave_the_upload_open(client, ids, md5, said):
    upload = begin(client, b"abcdef", purpose="user_data")
    parts = [client.uploads.parts.create(upload.id, data=piece).id for piece in (b"abc", b"def")]
    named = [parts[i] if isinstance(i, int) else i for i in ids] if isinstance(ids, list) else ids
    with pytest.raises(openai.BadRequestError, match=said):
        client.uploads.complete(upload.id, part_ids=named, **({"md5": md5} if md5 else {}))
    assert client.uploads.complete(upload.id, part_ids=parts).file.purpose == "user_data"


@pytest.mark.parametrize("change, param", [
    ({"bytes": -1}, "bytes"), ({"bytes": "many"}, "bytes"), ({"purpose": "fun"}, "purpose"), ({"filename": ""}, "filename"),
    ({"mime_type": 3}, "mime_type"), ({"color": "red"}, "color"), ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor"),
    ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after.seconds"), ({"filename": None}, "filename"),
])
def test_wrong_uploads_are_refused_by_name(client, change, param):
    body = {"filename": "a", "purpose": "fine-tune", "bytes": 1, "mime_type": "text/plain", **change}
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.post("/uploads", body=body, cast_to=object)
    assert refused.value.param == param


def test_a_part_of_more_than_64_mib_is_refused(client):
    upload = begin(client, b"")
    with pytest.raises(openai.APIStatusError) as refused:
        client.uploads.parts.create(upload.id, data=bytes((64 << 20) + 1))
    assert refused.value.status_code == 413
    part = client.uploads.parts.create(upload.id, data=bytes(64 << 20))
    assert part.object == "upload.part"
    client.uploads.cancel(upload.id)


@pytest.mark.parametrize("body, said", [
    (b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx\r\n--b--\r\n", "file"),
    (b"--b--\r\n", "'data' is a required property"),
    (b"", ""),
])
def test_broken_parts_are_refused(client, server, body, said):
    upload = begin(client, b"")
    status, _, answer = ask(server, "POST", f"/v1/uploads/{upload.id}/parts", body, Content_Type="multipart/form-data; boundary=b")
    assert status == 400 and said in json.loads(answer)["error"]["message"], answer


def test_without_room_files_and_uploads_are_refused(models, tmp_path):
    server = Server(tmp_path / "data", models, "--no-auth", "--disk-free-min", str(1 << 60)).start()
    try:
        for send in (lambda: begin(make_client(server), chat_lines(5).encode()),
                     lambda: make_client(server).files.create(file=("t.jsonl", chat_lines(5).encode()), purpose="fine-tune")):
            with pytest.raises(openai.APIStatusError) as refused:
                send()
            assert refused.value.status_code == 507 and refused.value.code == "no_space"
    finally:
        assert server.stop() == 0


def test_a_restart_keeps_pending_uploads_and_removes_what_has_expired(models, tmp_path):
    server = Server(tmp_path / "data", models, "--no-auth").start()
    client = make_client(server)
    content = chat_lines(3).encode()
    pending, expired = begin(client, content), begin(client, content)
    part = client.uploads.parts.create(pending.id, data=content)
    lost = client.uploads.parts.create(expired.id, data=content)
    old = client.files.create(file=("old.jsonl", content), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600})
    server.stop()
    with sqlite3.connect(tmp_path / "data/attune.db") as database:
        database.execute("UPDATE uploads SET expires_ms = 1 WHERE id = ?", (expired.id,))
        database.execute("UPDATE files SET expires_ms = 1 WHERE id = ?", (old.id,))
    client = make_client(server.start())
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(old.id)
    with pytest.raises(openai.BadRequestError, match="expired"):
        client.uploads.complete(expired.id, part_ids=[lost.id])
    done = client.uploads.complete(pending.id, part_ids=[part.id])
    assert client.files.content(done.file.id).read() == content
    assert server.stop() == 0
    assert [path.name for path in (pathlib.Path(tmp_path) / "data/files").iterdir()] == [done.file.id]
