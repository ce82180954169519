"""A small W&B: GraphQL and the file stream, strict about what it is asked. It keeps lines of files by their numbers, as
the real one's own tests rebuild runs.

test_wandb_sdk.py holds it against the real client."""
import base64
import json
import re
import urllib.parse

from fake_service import FakeService, Refused

PROJECT = re.compile(r"^[^/\\#?%:]{1,128}$")
RUN_ID = re.compile(r"^[^:;,#?/' ][^:;,#?/']*$")
STREAM = re.compile(r"^/files/([^/]+)/([^/]+)/([^/]+)/file_stream$")
ENTITY = "the-key-s-own"


class Run:
    def __init__(self, number, variables):
        self.id, self.number, self.name, self.tags, self.config = variables["name"], number, None, [], {}
        self.files, self.state, self.uploaded = {}, "running", []

    def update(self, variables):
        self.name = variables.get("displayName") or self.name or self.id
        self.tags = variables["tags"] if variables.get("tags") is not None else self.tags
        if variables.get("config") is not None:
            config = json.loads(variables["config"])
            if any(not isinstance(entry, dict) or "value" not in entry for entry in config.values()):
                raise Refused(400, "UNWRAPPED_CONFIG")
            self.config = {key: entry["value"] for key, entry in config.items()}

    def write(self, name, offset, content):
        lines = self.files.setdefault(name, {})
        if name == "wandb-summary.json":
            lines.clear()
        elif offset > len(lines):
            raise Refused(400, "GAP")
        for i, line in enumerate(content):
            if name != "output.log" and lines.setdefault(offset + i, line) != line:
                raise Refused(400, "ANOTHER_LINE_IS_THERE")
            lines[offset + i] = line

    def lines(self, name):
        lines = self.files.get(name, {})
        assert sorted(lines) == list(range(len(lines))), f"{name} has a gap"
        return [lines[i] for i in range(len(lines))]

    def history(self):
        return [json.loads(line) for line in self.lines("wandb-history.jsonl")]

    def summary(self):
        return json.loads(self.lines("wandb-summary.json")[0])

    def console(self):
        """The text of each line, without its time."""
        found = [re.fullmatch(r"(ERROR )?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}) (.*?)\n?", line)
                 for line in self.lines("output.log")]
        return [match[3] for match in found]

    def times(self):
        return [re.match(r"(?:ERROR )?(\S+) ", line)[1] for line in self.lines("output.log")]


class FakeWandb(FakeService):
    def __init__(self, key=None, **options):
        self.runs, self.strange, self.is_stopped = {}, [], False  # by entity, project and id; what it was asked and does not know; whether somebody pressed Stop
        super().__init__(key and "Basic " + base64.b64encode(f"api:{key}".encode()).decode(), **options)

    def name(self, path):
        """What a request is about, whatever run it is for."""
        return "file_stream" if STREAM.match(path) else path

    def is_open(self, path):
        """Where the SDK looks whether it may send telemetry, and the store, whose URLs are signed."""
        return path.startswith(("/sdk/otel/", "/storage/"))

    def reply(self, handler, method, path, query, body):
        stream = STREAM.match(path)
        if (method, path) == ("POST", "/graphql"):
            asked = json.loads(body)
            answer = getattr(self, "graphql_" + asked["operationName"], None)
            if answer and asked["operationName"] in asked["query"]:
                return {"data": answer(asked.get("variables") or {})}
            self.strange.append(asked)
            raise Refused(400, "UNKNOWN_OPERATION")
        if method == "POST" and stream:
            return self.file_stream(self.find(*map(urllib.parse.unquote, stream.groups())), json.loads(body))
        if method == "PUT" and path.startswith("/storage/"):
            return {}
        if not self.is_open(path):
            self.strange.append((method, path))
        raise Refused(404, "NOT_FOUND")

    def find(self, entity, project, run_id):
        if (entity, project, run_id) not in self.runs:
            raise Refused(404, "NO_SUCH_RUN")
        return self.runs[entity, project, run_id]

    def graphql_Viewer(self, variables):
        return {"viewer": {"id": "user", "entity": ENTITY, "username": "someone", "email": "", "flags": "{}",
                           "teams": {"edges": []}}}

    def graphql_ServerFeaturesQuery(self, variables):
        return {"serverInfo": {"features": []}}

    def graphql_RunResumeStatus(self, variables):
        return {"model": None}

    def graphql_UpsertBucket(self, variables):
        entity = variables.get("entity") or ENTITY
        place = (entity, variables["project"], variables["name"])
        if not PROJECT.match(variables["project"]) or not RUN_ID.match(variables["name"]) or any(
            not 1 <= len(tag) <= 64 for tag in variables.get("tags") or []):
            raise Refused(400, "INVALID")
        inserted = place not in self.runs
        run = self.runs.setdefault(place, Run(len(self.runs) + 1, variables))
        run.update(variables)
        return {"upsertBucket": {"inserted": inserted, "bucket": {
            "id": f"storage-{run.number}", "name": run.id, "displayName": run.name, "description": None, "config": "{}",
            "sweepName": None,
            "historyLineCount": len(run.files.get("wandb-history.jsonl", {})),
            "project": {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": entity}}}}}

    def graphql_CreateRunFiles(self, variables):
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [],
                                   "files": [{"name": name, "uploadUrl": f"{self.url}/storage/{i}"}
                                             for i, name in enumerate(variables["files"])]}}

    def file_stream(self, run, fields):
        if set(fields) - {"files", "uploaded", "preempting", "complete", "exitcode", "dropped"}:
            raise Refused(400, "UNKNOWN_FIELD")
        if run.state != "running" and fields.get("files") and not fields.get("complete"):
            raise Refused(400, "RUN_IS_OVER")
        for name, chunk in (fields.get("files") or {}).items():
            run.write(name, chunk.get("offset", 0), chunk["content"])
        run.uploaded += fields.get("uploaded") or []
        if fields.get("complete"):
            run.state = {0: "finished", 255: "killed"}.get(fields["exitcode"], "failed")
        return {"stopped": True} if self.is_stopped else {}
