#!/usr/bin/env python3
"""The demo: starts a server, fine-tunes the bundled model through the API, shows the loss and the same prompts before
and after.

usage: demo.py [--shuffled] [--quiet]     standard library only; ends with one JSON line of figures

--shuffled trains on the control data, whose answers belong to other prompts.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import demo_data  # noqa: E402
from judge_demo import shows_behaviour  # noqa: E402

MODEL = "attune/world-3m"
HYPERPARAMETERS = {"n_epochs": 4, "batch_size": 8, "learning_rate": 3e-4, "weight_decay": 0.1, "packing": False,
                   "context_length": 128}
SHOWN = 3


class Api:
    def __init__(self, url):
        self.url = url

    def call(self, method, path, body=None, headers=None):
        if isinstance(body, dict):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers or {}, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def upload(self, path):
        boundary = uuid.uuid4().hex
        body = (f"--{boundary}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n"
                f"--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; "
                f"filename=\"{path.name}\"\r\n\r\n").encode()
        body += path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        return self.call("POST", "/v1/files", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})

    def reply(self, model, prompt):
        answer = self.call("POST", "/v1/chat/completions",
                           {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0,
                            "max_tokens": 40})
        return answer["choices"][0]["message"]["content"]


def start_server(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = open(folder / "server.log", "w")
    server = subprocess.Popen([ROOT / "build/attune", "serve", "--no-auth", "--port", "0", "--data", folder / "data",
                               "--models", ROOT / "models"],
                              stdout=subprocess.PIPE, stderr=log)
    found = re.search(r"http://\S+", server.stdout.readline().decode())
    if not found:
        sys.exit(f"the server did not start, see {folder / 'server.log'}")
    return server, Api(found.group(0))


def bar(job, loss, quiet):
    if quiet or not job["total_steps"]:
        return
    done, total = job["trained_steps"], job["total_steps"]
    left = max(0, (job["estimated_finish"] or 0) - time.time())
    text = f"[{'#' * (30 * done // total):.<30}] step {done}/{total}  loss {loss:.3f}  {left:3.0f} s left"
    print(("\r" + text) if sys.stdout.isatty() else text, end="" if sys.stdout.isatty() else "\n", flush=True)


def watch(api, job_id, quiet):
    """Follows the job to its end; returns it and its loss per step."""
    losses, last, shown = [], None, 0
    while True:
        job = api.call("GET", f"/v1/fine_tuning/jobs/{job_id}")
        events = api.call("GET", f"/v1/fine_tuning/jobs/{job_id}/events?limit=1000"
                          + (f"&after={last}" if last else ""))["data"]
        for event in events:
            last = event["id"]
            if "train_loss" in event["data"] and event["type"] == "metrics":
                losses.append(event["data"]["train_loss"])
        if losses and (sys.stdout.isatty() or time.time() - shown > 5):
            bar(job, losses[-1], quiet)
            shown = time.time()
        if job["status"] in ("succeeded", "failed", "cancelled") and not events:
            if sys.stdout.isatty() and not quiet:
                print()
            return job, losses
        time.sleep(0.2)


def draw(losses, width=64, height=10):
    """The loss curve in characters."""
    if len(losses) < 2:
        return
    columns = [losses[i * len(losses) // width:(i + 1) * len(losses) // width or None] or losses[-1:]
               for i in range(min(width, len(losses)))]
    means = [sum(c) / len(c) for c in columns]
    top, low = max(means), min(means)
    rows = [["."] * 0 for _ in range(height)]
    for row in range(height):
        rows[row] = ["*" if round((top - m) / ((top - low) or 1) * (height - 1)) == row else " " for m in means]
    print("\nloss")
    for row, cells in enumerate(rows):
        label = f"{top - (top - low) * row / (height - 1):6.2f}" if row in (0, height // 2, height - 1) else " " * 6
        print(f"{label} |{''.join(cells)}")
    print(f"       +{'-' * len(means)}\n        step 1{' ' * (len(means) - 6 - len(str(len(losses))) - 5)}step "
          f"{len(losses)}\n")


def share(api, model, prompts):
    replies = [api.reply(model, prompt) for prompt in prompts]
    return sum(shows_behaviour(p, r) for p, r in zip(prompts, replies)) / len(prompts), replies


def download(api, job_id, folder):
    """The last checkpoint's files."""
    checkpoint = api.call("GET", f"/v1/fine_tuning/jobs/{job_id}/checkpoints?limit=100")["data"][-1]
    folder.mkdir(parents=True, exist_ok=True)
    for file_id in checkpoint["result_files"]:
        name = api.call("GET", f"/v1/files/{file_id}")["filename"].split("/")[-1]
        with urllib.request.urlopen(f"{api.url}/v1/files/{file_id}/content") as answer:
            with open(folder / name, "wb") as file:
                shutil.copyfileobj(answer, file)
    return checkpoint


def show_way_on(api, job, folder, weights):
    print(f"""
The weights are in {weights}: a Hugging Face folder, ready for transformers, vLLM and llama.cpp's converter.

Go on:
  build/attune serve --no-auth --data {folder / 'data'} --models models
  build/attune chat '{job['fine_tuned_model']}'

From Python:
  from openai import OpenAI
  client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
  file = client.files.create(file=open("demo/train.jsonl", "rb"), purpose="fine-tune")
  job = client.fine_tuning.jobs.create(model="{MODEL}", training_file=file.id)
""")


def run(options, folder, api):
    prompts = [json.loads(line)["prompt"] for line in open(ROOT / "demo/prompts.jsonl")]
    train, valid = ROOT / "demo/train.jsonl", ROOT / "demo/valid.jsonl"
    if options.shuffled:
        train = folder / "shuffled.jsonl"
        train.write_text("".join(json.dumps(chat) + "\n" for chat in demo_data.shuffled(demo_data.make()[0])))
    say = (lambda *_: None) if options.quiet else print
    say(f"server {api.url}, model {MODEL}")
    before, replies_before = share(api, MODEL, prompts)
    start = time.time()
    training_file, validation_file = api.upload(train), api.upload(valid)
    say(f"uploaded {training_file['filename']}: {training_file['status']}")
    job = api.call("POST", "/v1/fine_tuning/jobs",
                   {"model": MODEL, "training_file": training_file["id"], "validation_file": validation_file["id"],
                                                  "suffix": "demo", "seed": 1, "hyperparameters": HYPERPARAMETERS})
    say(f"job {job['id']}: fine-tuning")
    job, losses = watch(api, job["id"], options.quiet)
    seconds = time.time() - start
    if job["status"] != "succeeded":
        sys.exit(f"the job {job['status']}: {job['error']}")
    if not options.quiet:
        draw(losses)
    after, replies_after = share(api, job["fine_tuned_model"], prompts)
    for prompt, old, new in list(zip(prompts, replies_before, replies_after))[:SHOWN]:
        say(f"  prompt  {prompt}\n  before  {old}\n  after   {new}\n")
    checkpoint = download(api, job["id"], folder / "weights")
    if not options.quiet:
        show_way_on(api, job, folder.relative_to(ROOT), folder.relative_to(ROOT) / "weights")
    return {"model": job["fine_tuned_model"], "steps": job["total_steps"], "trained_tokens": job["trained_tokens"],
            "seconds": round(seconds, 1),
            "loss_first": round(losses[0], 4), "loss_last": round(losses[-1], 4),
            "valid_loss": checkpoint["metrics"].get("full_valid_loss"),
            "shown_before": before, "shown_after": after, "prompts": len(prompts)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args()
    folder = ROOT / ("build/demo-shuffled" if options.shuffled else "build/demo")
    os.chdir(ROOT)
    server, api = start_server(folder)
    try:
        figures = run(options, folder, api)
    finally:
        server.terminate()
        server.wait()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
