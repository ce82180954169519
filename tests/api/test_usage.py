"""What projects used: counted in the store, told by the day."""
import sqlite3
import time

import openai
import pytest
from conftest import Server, chat_lines, make_client, make_key, wait_for_job
from test_tenants import call, new_project

USAGE = "/v1/organization/usage/"
DAY = 86400


@pytest.fixture(scope="module")
def used(tmp_path_factory, models):
    """A server, an admin's key, and two projects of which the first trained and chatted."""
    data = tmp_path_factory.mktemp("usage") / "data"
    admin = make_key(data, "--scopes", "admin")
    server = Server(data, models).start()
    (busy, key), (idle, _) = new_project(server, admin, "busy"), new_project(server, admin, "idle")
    client = make_client(server, key["value"])
    file = client.files.create(file=("t.jsonl", chat_lines(8).encode()), purpose="fine-tune")
    job = wait_for_job(client, client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 2}).id)
    assert job.status == "succeeded", job.error
    said = client.chat.completions.create(model="test/tiny", max_tokens=5, messages=[{"role": "user", "content": "Say red."}])
    assert server.stop() == 0  # what models answered is in the store at the latest now
    yield server.start(), admin, busy["id"], idle["id"], job, said.usage
    assert server.stop() == 0


def today(server, admin, kind, query=""):
    page = call(server, admin, "GET", f"{USAGE}{kind}?start_time={int(time.time())}{query}")
    assert len(page["data"]) == 1 and not page["has_more"] and page["next_page"] is None
    bucket = page["data"][0]
    assert bucket["start_time"] % DAY == 0 and bucket["end_time"] == bucket["start_time"] + DAY
    return bucket["results"]


def test_jobs_are_counted_with_their_tokens_steps_and_time(used):
    server, admin, busy, idle, job, _ = used
    (result,) = today(server, admin, "fine_tuning", "&group_by[]=project_id")
    assert (result["project_id"], result["jobs"], result["trained_tokens"], result["trained_steps"]) == (busy, 1, job.trained_tokens, job.trained_steps)
    assert 0 < result["device_seconds"] < 120
    assert today(server, admin, "fine_tuning") == [result | {"project_id": None}]
    assert today(server, admin, "fine_tuning", f"&project_ids[]={idle}") == []
    assert today(server, admin, "fine_tuning", f"&group_by=project_id&project_ids={idle}&project_ids={busy}") == [result]


def test_answers_of_models_are_counted(used):
    server, admin, busy, _, _, said = used
    (result,) = today(server, admin, "completions", "&group_by[]=project_id")
    assert result == {"object": "organization.usage.completions.result", "project_id": busy, "model": None, "input_tokens": said.prompt_tokens, "output_tokens": said.completion_tokens,
                      "num_model_requests": 1}


def test_models_are_told_apart(used):
    server, admin, busy, _, job, said = used
    (result,) = today(server, admin, "completions", "&group_by[]=model")
    assert (result["model"], result["project_id"], result["input_tokens"]) == ("test/tiny", None, said.prompt_tokens)
    assert today(server, admin, "completions", f"&group_by=model&group_by=project_id&models=test/tiny") == [result | {"project_id": busy}]
    assert today(server, admin, "completions", "&models[]=another") == []
    (result,) = today(server, admin, "fine_tuning", "&group_by[]=model&group_by[]=project_id")
    assert (result["model"], result["project_id"], result["trained_tokens"]) == ("test/tiny", busy, job.trained_tokens)


def test_the_sdk_reads_completions(used):
    server, admin, busy, *_ = used
    page = openai.OpenAI(base_url=server.url + "/v1", api_key=admin, admin_api_key=admin).admin.organization.usage.completions(
        start_time=int(time.time()), group_by=["project_id", "model"], project_ids=[busy], models=["test/tiny"])
    (result,) = page.data[0].results
    assert (result.num_model_requests, result.project_id, result.model) == (1, busy, "test/tiny")


def test_storage_is_what_the_project_holds(used):
    server, admin, busy, *_ = used
    (result,) = today(server, admin, "storage", "&group_by[]=project_id")
    held = call(server, admin, "GET", f"/v1/organization/projects/{busy}")["usage"]["storage_bytes"]
    assert result["project_id"] == busy and result["storage_bytes"] == held > 0


def test_pages_go_on_with_next_page(used):
    server, admin, *_ = used
    now = int(time.time())
    path = f"{USAGE}fine_tuning?start_time={now - 9 * DAY}&limit=4"
    first = call(server, admin, "GET", path)
    second = call(server, admin, "GET", f"{path}&page={first['next_page']}")
    third = call(server, admin, "GET", f"{path}&page={second['next_page']}")
    starts = [bucket["start_time"] for page in (first, second, third) for bucket in page["data"]]
    assert starts == [(now // DAY - 9 + i) * DAY for i in range(10)]
    assert [page["has_more"] for page in (first, second, third)] == [True, True, False] and len(third["data"][-1]["results"]) == 1
    closed = call(server, admin, "GET", f"{USAGE}fine_tuning?start_time={now - 9 * DAY}&end_time={now - 8 * DAY}&limit=31")
    assert [len(closed["data"]), closed["has_more"]] == [2, False] and not closed["data"][0]["results"]
    assert call(server, admin, "GET", f"{USAGE}storage?start_time={now + 5 * DAY}")["data"] == []


@pytest.mark.parametrize("query", ["", "start_time=", "start_time=x", "start_time=-1", "start_time=1&limit=0", "start_time=1&limit=32", "start_time=1&bucket_width=1h",
                                   "start_time=1&group_by[]=user_id", "start_time=1&end_time=1e9", "start_time=1&page=next", "start_time=1&limit=9223372036854775807", "start_time=1&start_time=2"])
@pytest.mark.parametrize("kind", ["completions", "fine_tuning", "storage"])
def test_wrong_queries_are_refused(used, kind, query):
    server, admin, *_ = used
    assert call(server, admin, "GET", f"{USAGE}{kind}?{query}", status=422)["detail"]


@pytest.mark.parametrize("query", ["group_by[]=model", "models[]=x", "models=x"])
def test_storage_has_no_models(used, query):
    server, admin, *_ = used
    assert call(server, admin, "GET", f"{USAGE}storage?start_time=1&{query}", status=422)["detail"]


def test_what_is_deleted_stays_counted_and_storage_shrinks(used):
    server, admin, _, idle, *_ = used
    key = call(server, admin, "POST", f"/v1/organization/projects/{idle}/api_keys", {})
    client = make_client(server, key["value"])
    held = lambda: sum(result["storage_bytes"] for result in today(server, admin, "storage", f"&project_ids[]={idle}"))
    file = client.files.create(file=("t", b"x" * 1000), purpose="user_data")
    upload = client.uploads.create(filename="u", purpose="batch", bytes=10, mime_type="text/plain")
    part = client.uploads.parts.create(upload.id, data=b"0123456789")
    assert held() == 1010
    done = client.uploads.complete(upload.id, part_ids=[part.id])
    assert held() == 1010
    client.files.delete(file.id)
    client.files.delete(done.file.id)
    assert held() == 0
    with sqlite3.connect(server.data / "attune.db") as database:
        days = database.execute("SELECT bytes FROM storage_days WHERE project_id = ?", [idle]).fetchall()
    assert days == [(0,)]
