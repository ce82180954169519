import json
import os
import pathlib
import signal
import socket

import openai
import pytest
from conftest import Server, ask, make_client, wait_for

MESSAGES = [{"role": "user", "content": "Say red."}]


@pytest.fixture(scope="module", params=["base", "tuned", "checkpoint"])
def model(request, client, finished_job):
    if request.param == "base":
        return "test/tiny"
    if request.param == "tuned":
        return finished_job.fine_tuned_model
    return client.fine_tuning.jobs.checkpoints.list(finished_job.id).data[0].fine_tuned_model_checkpoint


def test_models_are_listed_and_found_by_name(client, finished_job):
    names = [m.id for m in client.models.list()]
    assert "test/tiny" in names and finished_job.fine_tuned_model in names
    assert f"{finished_job.fine_tuned_model}:ckpt-step-6" in names
    for name in ("test/tiny", finished_job.fine_tuned_model):
        assert client.models.retrieve(name).id == name


def test_a_reply_streamed_is_the_reply_whole(client, contract, model):
    options = {"model": model, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**options)
    assert whole.object == "chat.completion" and whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    text, finish, usage = "", None, None
    for chunk in client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}):
        contract.check_chunk("ChatChunk", chunk.model_dump(exclude_unset=True))
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
        usage = chunk.usage or usage
    assert (text, finish) == (whole.choices[0].message.content, whole.choices[0].finish_reason)
    assert usage.model_dump(exclude={"prompt_tokens_details"}) == whole.usage.model_dump(exclude={"prompt_tokens_details"})


def test_a_chat_that_goes_on_runs_what_is_new(client, contract):
    def reply(messages):
        return client.chat.completions.create(model="test/tiny", messages=messages, max_tokens=8, temperature=0)
    opening = [{"role": "system", "content": "You know seven colours and name one. Blue is best."}, MESSAGES[0]]
    first = reply(opening)
    again = reply(opening)
    assert again.choices[0].message.content == first.choices[0].message.content
    assert again.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens - 1
    onward = reply([*opening, {"role": "assistant", "content": first.choices[0].message.content}, {"role": "user", "content": "Another."}])
    assert first.usage.prompt_tokens <= onward.usage.prompt_tokens_details.cached_tokens + 2 < onward.usage.prompt_tokens
    contract.check_chunk("Usage", onward.usage.model_dump(exclude_unset=True))


def test_sampling_repeats_under_a_seed(client):
    def reply(seed):
        return client.chat.completions.create(model="test/tiny", messages=MESSAGES, max_tokens=8, temperature=1.5, seed=seed, n=3)
    first, again, other = reply(1), reply(1), reply(2)
    texts = [c.message.content for c in first.choices]
    assert texts == [c.message.content for c in again.choices] and texts != [c.message.content for c in other.choices]
    assert len(set(texts)) > 1 and [c.index for c in first.choices] == [0, 1, 2]


def test_log_probabilities(client):
    reply = client.chat.completions.create(model="test/tiny", messages=MESSAGES, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3)
    tokens = reply.choices[0].logprobs.content
    assert len(tokens) == reply.usage.completion_tokens or reply.choices[0].finish_reason == "stop"
    for token in tokens:
        assert len(token.top_logprobs) == 3 and token.logprob == token.top_logprobs[0].logprob <= 0
        assert bytes(token.bytes).decode(errors="replace") == token.token


def complete_in_pieces(server, contract, **options):
    """The SDK's types know no finish_reason of null, which every server sends until the last piece: not strict here."""
    text, reasons, usage = "", [], None
    for chunk in openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0).completions.create(stream=True, **options):
        contract.check_chunk("Completion", chunk.model_dump(exclude_unset=True))
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.text
            reasons.append(choice.finish_reason)
    return text, reasons, usage


def test_a_completion_streamed_is_the_completion_whole(client, server, contract, model):
    options = {"model": model, "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**options)
    text, reasons, usage = complete_in_pieces(server, contract, stream_options={"include_usage": True}, **options)
    assert text == whole.choices[0].text and usage.total_tokens == whole.usage.total_tokens
    assert reasons[-1] == whole.choices[0].finish_reason and set(reasons[:-1]) == {None}


def test_completions_take_text_lists_and_tokens(client):
    whole = client.completions.create(model="test/tiny", prompt=["Once", "There was"], max_tokens=5, temperature=0, n=2)
    assert [c.index for c in whole.choices] == [0, 1, 2, 3]
    echo = client.completions.create(model="test/tiny", prompt="Once", max_tokens=5, temperature=0, echo=True)
    assert echo.choices[0].text == "Once" + whole.choices[0].text
    ids = client.completions.create(model="test/tiny", prompt=[5, 6, 7], max_tokens=3, temperature=0, logprobs=2)
    assert len(ids.choices[0].logprobs.tokens) <= 3


def test_a_stop_string_ends_the_reply(client):
    free = client.completions.create(model="test/tiny", prompt="Once", max_tokens=30, temperature=0).choices[0].text
    stop = free[len(free) // 2:len(free) // 2 + 2]
    cut = client.completions.create(model="test/tiny", prompt="Once", max_tokens=30, temperature=0, stop=[stop]).choices[0]
    assert cut.text == free[:free.index(stop)] and cut.finish_reason == "stop"


@pytest.mark.parametrize("change, param", [
    ({"temperature": 3}, "temperature"), ({"n": 0}, "n"), ({"frequency_penalty": 1}, "frequency_penalty"), ({"unheard_of": 1}, "unheard_of"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"), ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"messages": []}, "messages"), ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"), ({"top_logprobs": 2}, "top_logprobs"),
])
def test_what_is_not_honoured_is_refused_by_name(client, change, param):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.post("/chat/completions", body={"model": "test/tiny", "messages": MESSAGES, **change}, cast_to=object)
    assert refused.value.param == param


def test_prompts_past_the_context_are_refused(client):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.chat.completions.create(model="test/tiny", messages=[{"role": "user", "content": "long " * 2000}])
    assert "256" in refused.value.message
    with pytest.raises(openai.UnprocessableEntityError):
        client.completions.create(model="test/tiny", prompt=[99999999])


def test_unknown_models_are_404(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="no/model", messages=MESSAGES)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="no/model", prompt="x")


def test_a_client_that_leaves_does_not_hurt_the_next(client, server):
    for _ in range(5):
        stream = client.chat.completions.create(model="test/tiny", messages=MESSAGES, stream=True, max_tokens=200, temperature=1)
        next(iter(stream))
        stream.close()
    assert client.chat.completions.create(model="test/tiny", messages=MESSAGES, max_tokens=2).choices


def worker_of(server):
    """Process id of the server's only inference worker."""
    found = [int(path.parent.name) for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")
             if path.parent.joinpath("stat").exists() and b"\0infer\0" in path.read_bytes()
             and path.parent.joinpath("stat").read_text().rpartition(")")[2].split()[1] == str(server.process.pid)]
    assert len(found) == 1
    return found[0]


def test_a_worker_that_dies_is_told_and_replaced(tmp_path, models):
    server = Server(tmp_path / "data", models, "--no-auth").start()
    client = make_client(server)
    stream = iter(client.chat.completions.create(model="test/tiny", messages=MESSAGES, stream=True, max_tokens=200, n=100, temperature=1))
    next(stream)
    os.kill(worker_of(server), signal.SIGKILL)
    with pytest.raises(openai.APIError) as told:
        for _ in stream:
            pass
    assert "ended unexpectedly" in told.value.message
    assert client.chat.completions.create(model="test/tiny", messages=MESSAGES, max_tokens=2).choices
    assert server.stop() == 0


def is_running(process_id):
    stat = pathlib.Path(f"/proc/{process_id}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("how, status", [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_server_that_ends_takes_its_workers_along(tmp_path, models, how, status):
    server = Server(tmp_path / "data", models, "--no-auth").start()
    stream = iter(make_client(server).chat.completions.create(model="test/tiny", messages=MESSAGES, stream=True, max_tokens=200, n=128, temperature=1))
    next(stream)
    worker = worker_of(server)
    assert server.stop(how) == status
    wait_for(lambda: not is_running(worker))


def test_a_client_that_does_not_read_is_let_go(client, server):
    """More comes for it than the server keeps for one client; others are answered meanwhile."""
    body = json.dumps({"model": "test/tiny", "messages": MESSAGES, "stream": True, "max_tokens": 64, "n": 128, "logprobs": True, "top_logprobs": 20}).encode()
    with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=60) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        reply = client.chat.completions.create(model="test/tiny", messages=MESSAGES, max_tokens=5)
    assert reply.choices


def test_the_stream_ends_with_done(server):
    body = json.dumps({"model": "test/tiny", "messages": MESSAGES, "stream": True, "max_tokens": 3}).encode()
    status, headers, stream = ask(server, "POST", "/v1/chat/completions", body, Content_Type="application/json")
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream")
    events = stream.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""] and all(event.startswith("data: {") for event in events[:-2])
