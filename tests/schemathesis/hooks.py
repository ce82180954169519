"""What schemathesis cannot guess: which models and files there are, and that a key of idempotency is for one request."""
import itertools
import os
import pathlib
import urllib.parse

import requests
import schemathesis
from hypothesis import strategies

known = dict(item.split("=", 1) for item in os.environ["ATTUNE_KNOWN"].split())
unique = itertools.count()


def one_of(*names):
    return strategies.one_of(strategies.sampled_from(names), strategies.text(min_size=1, alphabet=strategies.characters(exclude_characters="\0", codec="utf-8")))


schemathesis.openapi.format("model-name", one_of("test/tiny", "test/tiny", known["model"]))
schemathesis.openapi.format("file-id", one_of(known["file"], known["file"], known["pairs"]))


@schemathesis.hook
def map_headers(context, headers):
    if headers and headers.get("Idempotency-Key") and len(headers["Idempotency-Key"]) < 200:
        headers["Idempotency-Key"] += f"-{os.getpid()}-{next(unique)}"
    return headers


def is_empty(value):
    if isinstance(value, dict):
        return all(is_empty(item) for item in value.values())
    if isinstance(value, list):
        return all(is_empty(item) for item in value)
    return value is None or value == ""


@schemathesis.hook
def filter_query(context, query):
    """What is empty on the wire counts as absent, on every route: an object without members that was meant to be wrong is not, nor
    is one with a member without a name, of which the wire has the names."""
    sent = urllib.parse.urlsplit(requests.Request("GET", "http://x", params=query).prepare().url).query
    return not query or not any(is_empty(value) for value in [*query.values(), *dict(reversed(urllib.parse.parse_qsl(sent, True))).values()])


@schemathesis.hook
def filter_body(context, body):
    """The same of a form's fields."""
    is_form = context.operation is not None and context.operation.path == "/v1/files"
    return not is_form or not isinstance(body, dict) or not any(is_empty(value) for value in body.values())


@schemathesis.hook
def before_call(context, case, kwargs):
    """As many replies as a slow build makes in time; what is out of range stays so."""
    body = case.body
    if isinstance(body, dict):
        if type(body.get("n")) is int and 4 < body["n"] <= 128:
            body["n"] = body["n"] % 4 + 1
        if isinstance(body.get("prompt"), list) and 4 < len(body["prompt"]) <= 128 and all(isinstance(prompt, str) for prompt in body["prompt"]):
            body["prompt"] = body["prompt"][:4]


@schemathesis.hook
def after_call(context, case, response):
    """Counts: one line a request for the log of the run."""
    with open(pathlib.Path(os.environ["ATTUNE_CASES"]), "a") as log:
        log.write(f"{case.method} {case.operation.path} {response.status_code}\n")
