"""Several tuned models on one base: they answer at once from one worker; one that cannot share its base gets a worker of its own."""
import concurrent.futures
import json
import pathlib
import subprocess

import pytest
from conftest import BINARY, Server, chat_lines, make_client, wait_for_job

MESSAGES = [{"role": "user", "content": "Say red."}]
LORA = {"n_epochs": 1, "lora": True, "learning_rate": 5e-2}


@pytest.fixture(scope="module")
def service(tmp_path_factory, models):
    running = Server(tmp_path_factory.mktemp("adapters") / "data", models, "--no-auth").start()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def tuned(service):
    """Names of two adapters, one with DoRA, and a whole model, all made from the same base."""
    client = make_client(service)
    file = client.files.create(file=("train.jsonl", chat_lines(24).encode()), purpose="fine-tune")
    jobs = []
    for seed, options in ((1, LORA | {"lora_r": 4}), (2, LORA | {"lora_r": 8}), (3, LORA), (4, {"n_epochs": 1, "lora": False, "learning_rate": 1e-2})):
        body = {"hyperparameters": options} | ({"use_dora": True} if seed == 3 else {})
        jobs.append(client.fine_tuning.jobs.create(model="test/tiny", training_file=file.id, seed=seed, extra_body=body).id)
    done = [wait_for_job(client, job) for job in jobs]
    assert [job.status for job in done] == ["succeeded"] * 4
    return [job.fine_tuned_model for job in done]


def workers_of(server):
    """Command lines of the server's inference workers."""
    return [path.read_bytes().decode().split("\0")[1:-1] for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")
            if path.parent.joinpath("stat").exists() and b"\0infer\0" in path.read_bytes()
            and path.parent.joinpath("stat").read_text().rpartition(")")[2].split()[1] == str(server.process.pid)]


def said(client, model):
    reply = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=16, temperature=0, logprobs=True).choices[0]
    return [(token.token, token.logprob) for token in reply.logprobs.content]


def test_two_adapters_and_their_base_answer_at_once_from_one_worker(service, tuned):
    client = make_client(service)
    names = ["test/tiny", tuned[0], tuned[1]]
    alone = {name: said(client, name) for name in names}
    assert len({json.dumps(tokens) for tokens in alone.values()}) == 3
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        together = list(pool.map(lambda name: (name, said(client, name)), names * 3))
    for name, tokens in together:
        assert tokens == alone[name], name
    assert len(workers_of(service)) == 1


def test_an_adapter_says_what_it_says_alone_on_its_base(service, tuned, models):
    """The worker with the adapter for itself, without a server."""
    worker = [line for line in workers_of(service) if "--adapter-memory" in line]
    assert len(worker) == 1 and worker[0][worker[0].index("--model") + 1] == str(models / "test/tiny")
    client = make_client(service)
    folder = next(path.parent for path in sorted(service.data.glob("**/adapter_config.json"))
                  if json.loads(path.read_text())["r"] == 4 and "checkpoint" in str(path.parent))
    request = {"id": 1, "messages": MESSAGES, "max_tokens": 16, "temperature": 0, "logprobs": 0}
    answer = subprocess.run([BINARY, "infer", "--model", models / "test/tiny", "--adapter", folder], input=json.dumps(request) + "\n",
                            capture_output=True, text=True, check=True).stdout.splitlines()
    tokens = [token for line in map(json.loads, answer) for token in line.get("tokens", [])]
    assert [(token["token"], token["logprob"]) for token in tokens] == said(client, tuned[0])


def test_what_cannot_share_its_base_gets_a_worker_of_its_own(service, tuned):
    client = make_client(service)
    before = len(workers_of(service))
    assert said(client, tuned[2]) == said(client, tuned[2])
    workers = workers_of(service)
    assert len(workers) == before + 1 and sum("--adapter" in line for line in workers) == 1
    assert said(client, tuned[3])  # tuned as a whole: a base
    assert len(workers_of(service)) == before + 2


def test_a_deleted_model_is_gone_while_its_neighbours_answer(service, tuned):
    client = make_client(service)
    before = said(client, tuned[1])
    stream = client.chat.completions.create(model=tuned[0], messages=MESSAGES, stream=True, max_tokens=100, temperature=1)
    next(iter(stream))
    assert client.models.delete(tuned[0]).deleted
    assert all(chunk.choices for chunk in stream)
    with pytest.raises(Exception, match="404"):
        said(client, tuned[0])
    assert said(client, tuned[1]) == before
