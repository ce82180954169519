"""Every call of the stock Python client with the arguments of its own suite, against the running server: plain, raw and
streamed, synchronous and not. The clients are strict: an answer that does not fit the SDK's types raises."""
import asyncio
import functools
import inspect
import io
import pathlib

import openai
import pytest
from conftest import Server, chat_lines, check_response, make_client
from sdk_world import World

AUTO = {"batch_size": "auto", "learning_rate_multiplier": "auto", "n_epochs": "auto"}
GRADER = {"input": "input", "name": "name", "operation": "eq", "reference": "reference", "type": "string_check"}
EXPIRES = {"anchor": "created_at", "seconds": 3600}
MESSAGES = [{"role": "developer", "content": "string", "name": "name"}, {"role": "user", "content": "string"}]


@pytest.fixture(scope="module")
def world(tmp_path_factory, models):
    world = World(tmp_path_factory.mktemp("sdk") / "data", models)
    yield world
    world.stop()


def create_job(w, **options):
    return {"model": "test/tiny", "training_file": w.file, **options}


# (resource, method, its arguments, name of the type of the answer)
CALLS = [
    ("fine_tuning.jobs", "create", create_job, "FineTuningJob"),
    ("fine_tuning.jobs", "create", lambda w: create_job(
        w, hyperparameters=AUTO, metadata={"foo": "string"}, seed=42, suffix="x", validation_file=w.file,
        method={"type": "supervised", "dpo": {"hyperparameters": {**AUTO, "beta": "auto"}}, "supervised": {"hyperparameters": AUTO}, "reinforcement": {
            "grader": GRADER, "hyperparameters": {**AUTO, "compute_multiplier": "auto", "eval_interval": "auto", "eval_samples": "auto",
                                                  "reasoning_effort": "default"}}}), "FineTuningJob"),
    ("fine_tuning.jobs", "create", lambda w: create_job(
        w, validation_file=None, suffix=None, seed=None, metadata=None, integrations=None, method={"type": "supervised"}), "FineTuningJob"),
    ("fine_tuning.jobs", "create", lambda w: create_job(
        w, integrations=[{"type": "wandb", "wandb": {"project": "my-wandb-project", "entity": "entity", "name": "name", "tags": ["custom-tag"]}}]), "FineTuningJob"),
    ("fine_tuning.jobs", "retrieve", lambda w: {"fine_tuning_job_id": w.done.id}, "FineTuningJob"),
    ("fine_tuning.jobs", "list", lambda w: {}, "CursorPage[FineTuningJob]"),
    ("fine_tuning.jobs", "list", lambda w: {"after": "string", "limit": 0, "metadata": {"foo": "string"}}, "CursorPage[FineTuningJob]"),
    ("fine_tuning.jobs", "cancel", lambda w: {"fine_tuning_job_id": w.job()}, "FineTuningJob"),
    ("fine_tuning.jobs", "pause", lambda w: {"fine_tuning_job_id": w.job()}, "FineTuningJob"),
    ("fine_tuning.jobs", "resume", lambda w: {"fine_tuning_job_id": w.job(paused=True)}, "FineTuningJob"),
    ("fine_tuning.jobs", "list_events", lambda w: {"fine_tuning_job_id": w.done.id}, "CursorPage[FineTuningJobEvent]"),
    ("fine_tuning.jobs", "list_events", lambda w: {"fine_tuning_job_id": w.done.id, "after": "string", "limit": 0}, "CursorPage[FineTuningJobEvent]"),
    ("fine_tuning.jobs.checkpoints", "list", lambda w: {"fine_tuning_job_id": w.done.id}, "CursorPage[FineTuningJobCheckpoint]"),
    ("fine_tuning.jobs.checkpoints", "list", lambda w: {"fine_tuning_job_id": w.done.id, "after": "string", "limit": 0}, "CursorPage[FineTuningJobCheckpoint]"),
    ("fine_tuning.checkpoints.permissions", "create", lambda w: {"fine_tuned_model_checkpoint": w.model, "project_ids": [w.project]}, "Page[PermissionCreateResponse]"),
    ("fine_tuning.checkpoints.permissions", "retrieve", lambda w: {"fine_tuned_model_checkpoint": w.model}, "PermissionRetrieveResponse"),
    ("fine_tuning.checkpoints.permissions", "retrieve", lambda w: {
        "fine_tuned_model_checkpoint": w.model, "after": "after", "limit": 0, "order": "ascending", "project_id": "project_id"}, "PermissionRetrieveResponse"),
    ("fine_tuning.checkpoints.permissions", "list", lambda w: {"fine_tuned_model_checkpoint": w.model}, "ConversationCursorPage[PermissionListResponse]"),
    ("fine_tuning.checkpoints.permissions", "list", lambda w: {
        "fine_tuned_model_checkpoint": w.model, "after": "after", "limit": 0, "order": "ascending", "project_id": "project_id"},
     "ConversationCursorPage[PermissionListResponse]"),
    ("fine_tuning.checkpoints.permissions", "delete", lambda w: {"fine_tuned_model_checkpoint": w.model, "permission_id": w.permission()}, "PermissionDeleteResponse"),
    ("files", "create", lambda w: {"file": b"Example data", "purpose": "assistants"}, "FileObject"),
    ("files", "create", lambda w: {"file": b"Example data", "purpose": "assistants", "expires_after": EXPIRES}, "FileObject"),
    ("files", "retrieve", lambda w: {"file_id": w.file}, "FileObject"),
    ("files", "list", lambda w: {}, "CursorPage[FileObject]"),
    ("files", "list", lambda w: {"after": "after", "limit": 0, "order": "asc", "purpose": "purpose"}, "CursorPage[FileObject]"),
    ("files", "delete", lambda w: {"file_id": w.upload_file(1)}, "FileDeleted"),
    ("files", "retrieve_content", lambda w: {"file_id": w.file}, "str"),
    ("uploads", "create", lambda w: {"bytes": 0, "filename": "filename", "mime_type": "mime_type", "purpose": "assistants"}, "Upload"),
    ("uploads", "create", lambda w: {"bytes": 0, "filename": "filename", "mime_type": "mime_type", "purpose": "assistants", "expires_after": EXPIRES}, "Upload"),
    ("uploads", "cancel", lambda w: {"upload_id": w.upload()}, "Upload"),
    ("uploads", "complete", lambda w: w.full_upload(), "Upload"),
    ("uploads", "complete", lambda w: {**w.full_upload(), "md5": "c13b2bc2027489c3398a3113f47c800a"}, "Upload"),
    ("uploads.parts", "create", lambda w: {"upload_id": w.upload(12), "data": b"Example data"}, "UploadPart"),
    ("models", "retrieve", lambda w: {"model": w.model}, "Model"),
    ("models", "retrieve", lambda w: {"model": "test/tiny"}, "Model"),
    ("models", "list", lambda w: {}, "Page[Model]"),
    ("completions", "create", lambda w: {"model": "test/tiny", "prompt": "This is a test.", "max_tokens": 4}, "Completion"),
    ("completions", "create", lambda w: {
        "model": "test/tiny", "prompt": "This is a test.", "best_of": 1, "echo": False, "frequency_penalty": 0, "logit_bias": {}, "logprobs": 0, "max_tokens": 4,
        "n": 1, "presence_penalty": 0, "seed": 0, "stop": "\n", "stream": False, "stream_options": {"include_obfuscation": True, "include_usage": True},
        "temperature": 1, "top_p": 1, "user": "user-1234"}, "Completion"),
    ("chat.completions", "create", lambda w: {"model": w.model, "messages": MESSAGES[:1], "max_tokens": 4}, "ChatCompletion"),
    ("chat.completions", "create", lambda w: {
        "model": "test/tiny", "messages": MESSAGES, "frequency_penalty": 0, "logit_bias": {}, "logprobs": True, "max_completion_tokens": 4,
        "metadata": {"foo": "string"}, "n": 1, "parallel_tool_calls": True, "presence_penalty": 0, "prompt_cache_key": "prompt-cache-key-1234", "prompt_cache_retention": "in_memory",
        "response_format": {"type": "text"}, "safety_identifier": "safety-identifier-1234", "seed": -9007199254740991, "service_tier": "auto", "stop": "\n",
        "store": True, "stream": False, "stream_options": {"include_obfuscation": True, "include_usage": True}, "temperature": 1, "tool_choice": "none",
        "tools": [], "top_logprobs": 0, "top_p": 1, "user": "user-1234"}, "ChatCompletion"),
]
NAMES = [f"{resource}.{method}-{sum(CALLS[j][:2] == (resource, method) for j in range(i)) + 1}" for i, (resource, method, _, _) in enumerate(CALLS)]


def resource_of(client, path, variant=None):
    resource = functools.reduce(getattr, path.split("."), client)
    return getattr(resource, variant) if variant else resource


def make_async_client(server):
    async def check_async(response):
        await response.aread()
        check_response(response)
    client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="My API Key", max_retries=0, _strict_response_validation=True)
    client._client.event_hooks = {"response": [check_async]}
    return client


def run_async(server, steps):
    async def run():
        async with make_async_client(server) as client:
            return await steps(client)
    return asyncio.run(run())


def type_name(value):
    return type(value).__name__.removeprefix("Sync").removeprefix("Async")


def settle(world, answer):
    """A job that the call left behind is cancelled: nobody waits for it."""
    if type_name(answer) == "FineTuningJob" and answer.status not in ("succeeded", "cancelled"):
        world.client.fine_tuning.jobs.cancel(answer.id)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("resource, method, arguments, answer", CALLS, ids=NAMES)
class TestEveryCall:
    def check(self, world, got, answer):
        assert type_name(got) == answer
        settle(world, got)

    def test_plain(self, world, resource, method, arguments, answer):
        self.check(world, getattr(resource_of(world.client, resource), method)(**arguments(world)), answer)

    def test_raw(self, world, resource, method, arguments, answer):
        response = getattr(resource_of(world.client, resource, "with_raw_response"), method)(**arguments(world))
        assert response.is_closed and response.http_request.headers["X-Stainless-Lang"] == "python" and response.request_id
        self.check(world, response.parse(), answer)

    def test_streamed(self, world, resource, method, arguments, answer):
        with openai.OpenAI(base_url=world.server.url + "/v1/", api_key="My API Key", max_retries=0, _strict_response_validation=True) as client:
            with getattr(resource_of(client, resource, "with_streaming_response"), method)(**arguments(world)) as response:
                assert not response.is_closed
                self.check(world, response.parse(), answer)
            assert response.is_closed

    def test_async(self, world, resource, method, arguments, answer):
        async def call(client):
            pending = getattr(resource_of(client, resource), method)(**arguments(world))
            return await pending if inspect.isawaitable(pending) else pending
        self.check(world, run_async(world.server, call), answer)

    def test_async_raw(self, world, resource, method, arguments, answer):
        async def call(client):
            return (await getattr(resource_of(client, resource, "with_raw_response"), method)(**arguments(world))).parse()
        self.check(world, run_async(world.server, call), answer)

    def test_async_streamed(self, world, resource, method, arguments, answer):
        async def call(client):
            async with getattr(resource_of(client, resource, "with_streaming_response"), method)(**arguments(world)) as response:
                return await response.parse()
        self.check(world, run_async(world.server, call), answer)


def test_a_tuned_model_is_deleted_through_both_clients(world):
    world.release_queue()
    first, second = world.tuned_model(), world.tuned_model()
    assert world.client.models.delete(first).deleted
    assert run_async(world.server, lambda client: client.models.delete(second)).deleted
    for name in (first, second):
        with pytest.raises(openai.NotFoundError):
            world.client.models.retrieve(name)


# --- files in and out ---

CONTENT = chat_lines(3).encode()


def as_path(folder):
    (folder / "data.jsonl").write_bytes(CONTENT)
    return folder / "data.jsonl"


class Handle(io.RawIOBase):
    """A reader of unknown length: the client frames it in chunks."""

    def __init__(self):
        self.left = io.BytesIO(CONTENT)

    def read(self, size=-1):
        return self.left.read(min(size, 7) if size > 0 else size)


FILES = {
    "a path": (as_path, "data.jsonl"),
    "an open file": (lambda folder: open(as_path(folder), "rb"), "data.jsonl"),
    "bytes": (lambda folder: CONTENT, "upload"),
    "a buffer": (lambda folder: io.BytesIO(CONTENT), "upload"),
    "a reader": (lambda folder: Handle(), "upload"),
    "a name and bytes": (lambda folder: ("name.jsonl", CONTENT), "name.jsonl"),
    "a name and a path": (lambda folder: ("name.jsonl", as_path(folder)), "name.jsonl"),
    "a name, a buffer and a type": (lambda folder: ("na me.jsonl", io.BytesIO(CONTENT), "application/jsonl"), "na me.jsonl"),
    "a name, bytes, a type and headers": (lambda folder: ("name.jsonl", CONTENT, "text/plain", {"X-Note": "a"}), "name.jsonl"),
    "a name that is not English": (lambda folder: ("données «1».jsonl", CONTENT), "données «1».jsonl"),
}


@pytest.mark.parametrize("make, name", FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_file_given_in_any_way_arrives_whole(world, tmp_path, make, name, way):
    if way == "sync":
        file = world.client.files.create(file=make(tmp_path), purpose="fine-tune")
    else:
        file = run_async(world.server, lambda client: client.files.create(file=make(tmp_path), purpose="fine-tune"))
    assert (file.filename, file.status, file.bytes) == (name, "processed", len(CONTENT))
    assert world.client.files.content(file.id).content == CONTENT


def test_every_way_to_read_a_download_gives_the_same_bytes(world, tmp_path):
    file = world.client.files.create(file=("x.jsonl", CONTENT), purpose="fine-tune").id
    files = world.client.files
    assert files.content(file).read() == files.content(file).content == files.content(file).text.encode() == CONTENT
    assert b"".join(files.content(file).iter_bytes(5)) == CONTENT
    assert "\n".join(files.content(file).iter_lines()) + "\n" == CONTENT.decode()
    files.content(file).write_to_file(tmp_path / "written")
    assert (tmp_path / "written").read_bytes() == files.with_raw_response.content(file).content == CONTENT
    client = openai.OpenAI(base_url=world.server.url + "/v1", api_key="none", max_retries=0)
    with client.files.with_streaming_response.content(file) as response:
        response.stream_to_file(tmp_path / "streamed")
    with client.files.with_streaming_response.content(file) as response:
        assert b"".join(response.iter_bytes(7)) == (tmp_path / "streamed").read_bytes() == CONTENT
    with client.files.with_streaming_response.content(file) as response:
        assert b"".join(response.http_response.iter_raw()) == CONTENT

    async def download(client):
        async with client.files.with_streaming_response.content(file) as response:
            await response.stream_to_file(tmp_path / "async")
        return (await client.files.content(file)).content
    assert run_async(world.server, download) == (tmp_path / "async").read_bytes() == CONTENT


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_helpers_wait_for_a_file_and_send_one_in_parts(world, tmp_path, way):
    path = as_path(tmp_path)
    parts = [{"file": path, "mime_type": "text/jsonl", "purpose": "fine-tune"},
             {"file": str(path), "mime_type": "text/jsonl", "purpose": "fine-tune", "part_size": 10, "md5": None},
             {"file": CONTENT, "filename": "data.jsonl", "bytes": len(CONTENT), "mime_type": "txt", "purpose": "batch", "part_size": 50}]
    for options in parts:
        options = {name: value for name, value in options.items() if value is not None}
        if way == "sync":
            upload = world.client.uploads.upload_file_chunked(**options)
            file = world.client.files.wait_for_processing(upload.file.id)
        else:
            async def send(client):
                upload = await client.uploads.upload_file_chunked(**options)
                return upload, await client.files.wait_for_processing(upload.file.id)
            upload, file = run_async(world.server, send)
        assert (upload.status, file.status, file.filename, file.bytes) == ("completed", "processed", "data.jsonl", len(CONTENT))
        assert world.client.files.content(file.id).content == CONTENT


# --- pages ---

def test_pages_follow_one_another_to_the_end_in_both_clients(world):
    ids = [world.client.files.create(file=(f"{i}", b"x"), purpose="user_data").id for i in range(7)][::-1]
    assert [file.id for file in world.client.files.list(limit=3, purpose="user_data")] == ids
    page, seen = world.client.files.list(limit=3, purpose="user_data"), []
    while True:
        seen += [file.id for file in page.data]
        if not page.has_next_page():
            break
        page = page.get_next_page()
    assert seen == ids
    assert sum(len(page.data) for page in world.client.files.list(limit=2, purpose="user_data").iter_pages()) == 7

    async def walk(client):
        files = [file.id async for file in client.files.list(limit=2, purpose="user_data")]
        events = [event.id async for event in client.fine_tuning.jobs.list_events(world.done.id, limit=2)]
        jobs = [job.id async for job in client.fine_tuning.jobs.list(limit=5)]
        checkpoints = [checkpoint.id async for checkpoint in client.fine_tuning.jobs.checkpoints.list(world.done.id, limit=1)]
        models = [model.id async for model in client.models.list()]
        return files, events, jobs, checkpoints, models
    files, events, jobs, checkpoints, models = run_async(world.server, walk)
    assert files == ids and world.model in models and jobs[-1] == world.done.id and len(jobs) == len(set(jobs))
    assert events == [event.id for event in world.client.fine_tuning.jobs.list_events(world.done.id)] and len(events) > 5
    assert checkpoints == [checkpoint.id for checkpoint in world.client.fine_tuning.jobs.checkpoints.list(world.done.id)] != []


# --- streams ---

@pytest.mark.parametrize("resource, options", [
    ("chat.completions", {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1}), ("completions", {"prompt": "This is a test."})])
def test_streams_end_in_every_variant(world, resource, options):
    options = {"model": world.model, "max_tokens": 5, "stream": True, "temperature": 0, "stream_options": {"include_usage": True}, **options}
    client = openai.OpenAI(base_url=world.server.url + "/v1", api_key="none", max_retries=0)

    def summary(chunks):
        return [chunk.model_dump(exclude={"id": True, "created": True, "usage": {"prompt_tokens_details"}}) for chunk in chunks]
    plain = summary(resource_of(client, resource).create(**options))
    assert plain[-1]["choices"] == [] and plain[-1]["usage"]["completion_tokens"] > 0 and plain[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert summary(resource_of(client, resource, "with_raw_response").create(**options).parse()) == plain
    with resource_of(client, resource, "with_streaming_response").create(**options) as response:
        assert summary(response.parse()) == plain

    async def read(client, variant):
        if variant is None:
            return summary([chunk async for chunk in await resource_of(client, resource).create(**options)])
        if variant == "with_raw_response":
            return summary([chunk async for chunk in (await resource_of(client, resource, variant).create(**options)).parse()])
        async with resource_of(client, resource, variant).create(**options) as response:
            return summary([chunk async for chunk in await response.parse()])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=world.server.url + "/v1", api_key="none", max_retries=0) as client:
            return [await read(client, variant) for variant in (None, "with_raw_response", "with_streaming_response")]
    assert asyncio.run(all_of_them()) == [plain] * 3


def test_the_chat_stream_helper_accumulates_a_whole_reply(world):
    client = openai.OpenAI(base_url=world.server.url + "/v1", api_key="none", max_retries=0)
    options = {"model": world.model, "messages": MESSAGES, "max_tokens": 20, "temperature": 0}
    text = client.chat.completions.create(**options).choices[0].message.content
    stops = [text[i:i + 3] for i in range(1, len(text) - 3) if text[i:i + 3].isascii() and text.index(text[i:i + 3]) == i]
    options["stop"] = stops[len(stops) // 2]  # the helper takes a reply cut by max_tokens as a failure
    with client.chat.completions.stream(**options) as stream:
        assert "content.done" in [event.type for event in stream]
        whole = stream.get_final_completion()
    assert whole.choices[0].message.content == text[:text.index(options["stop"])]


# --- what is refused, and how the client tells it ---

@pytest.mark.parametrize("change", [{"frequency_penalty": -2}, {"function_call": "none"}, {"logit_bias": {"5": 1}}, {"presence_penalty": -2},
                                    {"tools": [{"type": "function", "function": {"name": "name"}}]}, {"audio": {"format": "wav", "voice": "alloy"}},
                                    {"functions": [{"name": "name"}]}, {"web_search_options": {}}, {"verbosity": "low"}, {"max_tokens": 0}],
                         ids=lambda change: next(iter(change)))
def test_what_chat_cannot_do_is_refused_by_name(world, change):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        world.client.chat.completions.create(model="test/tiny", messages=MESSAGES, **change)
    assert refused.value.param == next(iter(change)) and refused.value.request_id


def test_reinforcement_and_its_graders_are_refused_by_name(world):
    graders = world.client.fine_tuning.alpha.graders
    for call in (lambda: graders.run(grader=GRADER, model_sample="model_sample", item={}), lambda: graders.validate(grader=GRADER),
                 lambda: world.client.fine_tuning.jobs.create(**create_job(world, method={"type": "reinforcement", "reinforcement": {"grader": GRADER}}))):
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            call()
        assert refused.value.code == "unsupported_method" and "reinforcement" in refused.value.message


def test_a_job_by_preference_takes_what_the_sdk_sends(world):
    lines = "".join('{"input": {"messages": [{"role": "user", "content": "Say red."}]}, "preferred_output": [{"role": "assistant", "content": "red"}], '
                    '"non_preferred_output": [{"role": "assistant", "content": "blue"}]}\n' for _ in range(12))
    pairs = world.client.files.create(file=("pairs.jsonl", lines.encode()), purpose="fine-tune")
    for hyperparameters in ({**AUTO, "beta": "auto"}, {"beta": 0.1, "n_epochs": 1, "batch_size": 2, "learning_rate_multiplier": 1.0}):
        job = world.client.fine_tuning.jobs.create(model="test/tiny", training_file=pairs.id, method={"type": "dpo", "dpo": {"hyperparameters": hyperparameters}})
        assert job.method.type == "dpo" and job.method.dpo.hyperparameters.beta == 0.1
        settle(world, job)


@pytest.mark.parametrize("call", [
    lambda client: client.get("/_unknown_path", cast_to=object), lambda client: client.fine_tuning.jobs.retrieve("ft-AF1WoRqd3aJAHsqc9NY7iL8F"),
    lambda client: client.files.retrieve("file-abc123"), lambda client: client.uploads.cancel("upload_abc123"), lambda client: client.models.retrieve("gpt-4o-mini"),
    lambda client: client.models.delete("ft:gpt-4o-mini:acemeco:suffix:abc123"), lambda client: client.uploads.complete("upload_abc123", part_ids=["string"])])
def test_what_is_not_there_is_not_found_for_both_clients(world, call):
    with pytest.raises(openai.NotFoundError) as refused:
        call(world.client)
    assert refused.value.message and refused.value.type == "invalid_request_error" and refused.value.request_id
    with pytest.raises(openai.NotFoundError):
        run_async(world.server, call)


def test_a_key_with_blanks_in_it_is_refused_as_a_key(tmp_path, models):
    locked = Server(tmp_path / "data", models).start()
    with pytest.raises(openai.AuthenticationError) as refused:
        make_client(locked, key="My API Key").models.list()
    assert refused.value.code == "invalid_api_key"
    first = pathlib.Path(tmp_path / "data/first-key").read_text().strip()
    assert make_client(locked, key=first, organization="org-default", project=None).models.list().data
    assert locked.stop() == 0
