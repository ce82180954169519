"""A small MLflow tracking server that refuses what the real one refuses (REST 2.0).

test_mlflow.py holds the same jobs against the real one."""
import json
import re
import urllib.parse
import uuid

from fake_service import FakeService, Refused

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
KEY = re.compile(r"^[A-Za-z0-9_./ :-]{1,250}$")


class FakeMlflow(FakeService):
    def __init__(self, *arguments, **options):
        self.experiments, self.runs, self.artifacts, self.artifact_scheme = {"Default": "0"}, {}, {}, "mlflow-artifacts:/"
        super().__init__(*arguments, **options)

    def name(self, path):
        return path.removeprefix("/prefix").removeprefix("/api/2.0/mlflow/")

    def reply(self, handler, method, path, query, body):
        path = path.removeprefix("/prefix")
        if path.startswith(ARTIFACTS):
            return self.artifact(method, urllib.parse.unquote(path.removeprefix(ARTIFACTS).removeprefix("/")),
                                 dict(urllib.parse.parse_qsl(query)), body)
        answer = getattr(self, method.lower() + "_" + re.sub("[-/]", "_", self.name(path)))
        return answer(json.loads(body) if body else dict(urllib.parse.parse_qsl(query)))

    def artifact(self, method, path, fields, body):
        if method == "PUT":
            self.artifacts[path] = body
            return None  # the real one says nothing
        folder = fields["path"] + "/"
        return {"files": [{"path": name.removeprefix(folder), "is_dir": False, "file_size": len(data)}
                          for name, data in self.artifacts.items() if name.startswith(folder)]}

    def run(self, fields):
        if fields.get("run_id") not in self.runs:
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST")
        return self.runs[fields["run_id"]]

    def get_experiments_get_by_name(self, fields):
        if fields["experiment_name"] not in self.experiments:
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST")
        return {"experiment": {"experiment_id": self.experiments[fields["experiment_name"]],
                               "name": fields["experiment_name"], "lifecycle_stage": "active"}}

    def post_experiments_create(self, fields):
        if fields["name"] in self.experiments:
            raise Refused(400, "RESOURCE_ALREADY_EXISTS")
        self.experiments[fields["name"]] = str(len(self.experiments))
        return {"experiment_id": self.experiments[fields["name"]]}

    def post_runs_create(self, fields):
        if fields["experiment_id"] not in self.experiments.values():
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST")
        run_id = uuid.uuid4().hex
        self.runs[run_id] = {"experiment_id": fields["experiment_id"], "name": fields["run_name"],
                             "start_time": fields["start_time"], "status": "RUNNING",
                             "tags": {tag["key"]: tag["value"] for tag in fields["tags"]}, "params": {}, "metrics": []}
        return {"run": {"info": {"run_id": run_id, "run_uuid": run_id, "status": "RUNNING"}, "data": {}}}

    def post_runs_search(self, fields):
        tag, value = re.fullmatch(r"tags\.`([^`]+)` = '([^']*)'", fields["filter"]).groups()
        found = [run_id for run_id, run in self.runs.items() if run["experiment_id"] in fields["experiment_ids"]
                 and run["tags"].get(tag) == value]
        return {"runs": [{"info": {"run_id": run_id}} for run_id in found[:fields["max_results"]]]} if found else {}

    def post_runs_log_batch(self, fields):
        run = self.run(fields)
        metrics, params, tags = (fields.get(name, []) for name in ("metrics", "params", "tags"))
        if len(metrics) > 1000 or len(params) > 100 or len(tags) > 100 or len(metrics) + len(params) + len(tags) > 1000:
            raise Refused(400, "INVALID_PARAMETER_VALUE")
        for each in [*metrics, *params, *tags]:
            if not KEY.match(each["key"]) or "value" not in each:
                raise Refused(400, "INVALID_PARAMETER_VALUE")
        for param in params:
            if run["params"].setdefault(param["key"], param["value"]) != param["value"] or len(param["value"]) > 500:
                raise Refused(400, "INVALID_PARAMETER_VALUE")
        run["metrics"] += [(metric["key"], metric["step"], float(metric["value"]), metric["timestamp"])
                           for metric in metrics]
        return {}

    def get_runs_get(self, fields):
        run, newest = self.run(fields), {}
        for key, step, value, timestamp in run["metrics"]:
            newest[key] = max(newest.get(key, (step, timestamp, value)), (step, timestamp, value))
        info = {"run_id": fields["run_id"],
                "artifact_uri": f"{self.artifact_scheme}{run['experiment_id']}/{fields['run_id']}/artifacts"}
        return {"run": {"info": info, "data": {"metrics": [
            {"key": key, "step": step, "value": value, "timestamp": timestamp}
            for key, (step, timestamp, value) in newest.items()]}}}

    def post_runs_update(self, fields):
        self.run(fields).update(status=fields["status"], end_time=fields["end_time"])
        return {"run_info": {}}
