"""A small MLflow tracking server that refuses what the real one refuses (REST 2.0), and can be told to misbehave.

tests/track holds the same jobs against the real one."""
import http.server
import json
import re
import ssl
import threading
import time
import urllib.parse
import uuid

KEY = re.compile(r"^[A-Za-z0-9_./ :-]{1,250}$")


class Refused(Exception):
    def __init__(self, status, code):
        self.status, self.code = status, code


class FakeMlflow:
    """misbehave: a list of what the next requests get instead of an answer: a status, "cut" (the request is done, the answer is lost), "killed" (the same, and
    the sender with it), "garbage"."""

    def __init__(self, authorization=None, certificate=None):
        self.experiments, self.runs, self.requests, self.misbehave, self.authorization = {"Default": "0"}, {}, [], [], authorization
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self):
                fake.answer(self)

            do_GET = do_POST = do

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate:  # a PEM file with its key
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        path, _, query = handler.path.partition("?")
        name = path.removeprefix("/prefix").removeprefix("/api/2.0/mlflow/")
        self.requests.append((handler.command, name, dict(handler.headers), body))
        fault = self.misbehave.pop(0) if self.misbehave else None
        status, answer = (fault, {"error_code": "INTERNAL_ERROR", "message": "told to"}) if isinstance(fault, int) else (200, None)
        if fault in ("cut", "killed") or not fault:
            try:
                if self.authorization and handler.headers.get("Authorization") != self.authorization:
                    raise Refused(401, "UNAUTHENTICATED")
                fields = json.loads(body) if body else dict(urllib.parse.parse_qsl(query))
                answer = getattr(self, handler.command.lower() + "_" + re.sub("[-/]", "_", name))(fields)
            except Refused as refused:
                status, answer = refused.status, {"error_code": refused.code, "message": f"refused, and you said {handler.headers.get('Authorization')}"}
        if fault == "killed":
            self.kill()
        if fault in ("cut", "killed"):
            handler.close_connection = True
            return
        content = b"<html>" if fault == "garbage" else json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def run(self, fields):
        if fields.get("run_id") not in self.runs:
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST")
        return self.runs[fields["run_id"]]

    def get_experiments_get_by_name(self, fields):
        if fields["experiment_name"] not in self.experiments:
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST")
        return {"experiment": {"experiment_id": self.experiments[fields["experiment_name"]], "name": fields["experiment_name"], "lifecycle_stage": "active"}}

    def post_experiments_create(self, fields):
        if fields["name"] in self.experiments:
            raise Refused(400, "RESOURCE_ALREADY_EXISTS")
        self.experiments[fields["name"]] = str(len(self.experiments))
        return {"experiment_id": self.experiments[fields["name"]]}

    def post_runs_create(self, fields):
        if fields["experiment_id"] not in self.experiments.values():
            raise Refused(404, "RESOURCE_DOES_NOT_EXIST")
        run_id = uuid.uuid4().hex
        self.runs[run_id] = {"experiment_id": fields["experiment_id"], "name": fields["run_name"], "start_time": fields["start_time"], "status": "RUNNING",
                             "tags": {tag["key"]: tag["value"] for tag in fields["tags"]}, "params": {}, "metrics": []}
        return {"run": {"info": {"run_id": run_id, "run_uuid": run_id, "status": "RUNNING"}, "data": {}}}

    def post_runs_search(self, fields):
        tag, value = re.fullmatch(r"tags\.`([^`]+)` = '([^']*)'", fields["filter"]).groups()
        found = [run_id for run_id, run in self.runs.items() if run["experiment_id"] in fields["experiment_ids"] and run["tags"].get(tag) == value]
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
        run["metrics"] += [(metric["key"], metric["step"], float(metric["value"]), metric["timestamp"]) for metric in metrics]
        return {}

    def get_metrics_get_history(self, fields):
        rows = [{"key": key, "step": step, "value": value, "timestamp": timestamp} for key, step, value, timestamp in self.run(fields)["metrics"]
                if key == fields["metric_key"]]
        begin = int(fields.get("page_token", 0))
        page = {"metrics": rows[begin:begin + 3]}  # pages so small that there are several
        return {**page, "next_page_token": str(begin + 3)} if begin + 3 < len(rows) else page

    def post_runs_update(self, fields):
        self.run(fields).update(status=fields["status"], end_time=fields["end_time"])
        return {"run_info": {}}

    def wait(self, condition, timeout=60):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if condition(self):
                return
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout} s: {self.runs} {[(r[0], r[1]) for r in self.requests]}")
