"""GET /metrics, read by Prometheus' own parser."""
import json

import pytest
from conftest import Server, ask, chat_lines, make_client, make_key, wait_for_job
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture(scope="module")
def measured(tmp_path_factory, models):
    data = tmp_path_factory.mktemp("metrics") / "data"
    keys = {scopes: make_key(data, "--scopes", scopes)
            for scopes in ("read write", "metrics", "admin")}
    server = Server(data, models).start()
    yield server, keys
    assert server.stop() == 0


def read_metrics(server, key):
    status, headers, body = ask(server, "GET", "/metrics", Authorization=f"Bearer {key}")
    assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8", body
    families = list(text_string_to_metric_families(body.decode()))
    assert all(family.documentation and family.type in ("counter", "gauge", "histogram") for family in families)
    names = [family.name for family in families]
    assert len(names) == len(set(names)) and all(name.startswith("attune_") for name in names)
    samples = {}
    for sample in (s for family in families for s in family.samples):
        at = (sample.name, *sorted(sample.labels.items()))
        assert at not in samples, f"{at} is there twice"
        samples[at] = sample.value
    return samples


def test_what_happens_is_counted(measured):
    server, keys = measured
    client = make_client(server, keys["read write"])
    before = read_metrics(server, keys["metrics"])
    file = client.files.create(file=("t.jsonl", chat_lines(4).encode()), purpose="fine-tune")
    job = wait_for_job(client, client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, hyperparameters={"n_epochs": 1}).id)
    ask(server, "GET", "/v1/files/file-none", Authorization=f"Bearer {keys['read write']}")
    ask(server, "GET", "/v1/nowhere")
    after = read_metrics(server, keys["admin"])
    route = lambda path, method, status: ("attune_http_requests_total", ("method", method), ("route", path), ("status", status))
    grown = {at: value - before.get(at, 0) for at, value in after.items()}
    assert grown[route("/v1/files", "POST", "2xx")] == grown[route("/v1/fine_tuning/jobs", "POST", "2xx")] == grown[route("/v1/files/{id}", "GET", "4xx")] == 1
    assert grown[("attune_http_received_bytes_total", ("method", "POST"), ("route", "/v1/files"))] > file.bytes
    assert grown[route("none", "any", "4xx")] == 1 and grown[route("/metrics", "GET", "2xx")] == 1
    assert grown[("attune_jobs", ("state", "succeeded"))] == grown[("attune_job_attempts_total",)] == grown[("attune_jobs_created_total",)] == 1
    assert grown[("attune_trained_tokens_total",)] == job.trained_tokens and grown[("attune_trained_steps_total",)] == job.trained_steps
    assert grown[("attune_device_seconds_total",)] > 0 and grown[("attune_events_stored_total",)] >= job.trained_steps
    assert grown[("attune_store_commit_seconds_count",)] >= 5 and after[("attune_disk_free_bytes",)] > 0 and after[("attune_http_connections",)] >= 1
    assert after[("attune_queue_oldest_wait_seconds",)] == 0 and after[("attune_memory_capacity_bytes",)] > after[("attune_memory_reserved_bytes",)] >= 0
    assert not any("file-" in str(at) or "ftjob-" in str(at) or "proj-" in str(at) for at in after)


def test_histograms_add_up(measured):
    server, keys = measured
    samples = read_metrics(server, keys["metrics"])
    for at, count in samples.items():
        if at[0].endswith("_count"):
            name, labels = at[0].removesuffix("_count"), at[1:]
            buckets = [(float(dict(other[1:])["le"]), value) for other, value in samples.items()
                       if other[0] == name + "_bucket" and tuple(l for l in other[1:] if l[0] != "le") == labels]
            values = [value for _, value in sorted(buckets)]
            assert len(values) == 13 and values == sorted(values) and values[-1] == count and samples[(name + "_sum", *labels)] >= 0


def test_refusals_are_counted_by_reason(measured):
    server, keys = measured
    project = json.loads(ask(server, "POST", "/v1/organization/projects", b'{"name": "slow", "limits": {"requests_per_minute": 1}}', Authorization=f"Bearer {keys['admin']}")[2])
    key = json.loads(ask(server, "POST", f"/v1/organization/projects/{project['id']}/api_keys", b"{}", Authorization=f"Bearer {keys['admin']}")[2])["value"]
    statuses = [ask(server, "GET", "/v1/files", Authorization=f"Bearer {key}")[0] for _ in range(3)]
    assert statuses == [200, 429, 429]
    assert read_metrics(server, keys["metrics"])[("attune_refused_total", ("reason", "rate_limit_exceeded"), ("status", "429"))] >= 2


def test_a_key_for_metrics_opens_nothing_else_and_others_do_not_open_it(measured):
    server, keys = measured
    for method, path in (("GET", "/v1/files"), ("POST", "/v1/fine_tuning/jobs"), ("GET", "/v1/organization/projects")):
        assert ask(server, method, path, Authorization=f"Bearer {keys['metrics']}")[0] == 403
    assert ask(server, "GET", "/metrics", Authorization=f"Bearer {keys['read write']}")[0] == 403
    assert ask(server, "GET", "/metrics")[0] == 401
    assert ask(server, "GET", "/metrics?format=json", Authorization=f"Bearer {keys['metrics']}")[0] == 422
