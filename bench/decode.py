#!/usr/bin/env python3
"""Replies per second beside transformers' generate, and what a client of the server sees, on one shape with random
weights: `make bench`.

usage: decode.py [--shape 15M|135M] [--part engine,nf4,http] [--at-once 1,2,4,8,16] [--rounds N] [--prompt N]
                 [--reply N] [--seconds S] [--no-peer] [--compile]
                 [--out FILE.csv]

engine: `attune bench decode` gives tokens per second for so many replies at once, the share of a read loop's speed that
the reading of the weights reaches (each step beside the loop right before it), and the share of the peak loop that
prompts reach, both loops alternating with what they measure. The peer runs behind it on the same cores: generate of the
same shape, the same numbers of prompt and reply tokens, greedy, SDPA attention, in bf16 and in f32, each with a growing
and with a static cache (--compile: the static one compiled, too); the fastest counts. Ours runs --rounds times for each
number of replies, all numbers in turn: rows have the medians.
nf4: the same with linear layers as codes of four bits, without a peer.
http: so many clients at once stream chat completions from `attune serve`: milliseconds from the request to the first
piece of text, and from one token to the next, medians over all replies. Rows go to bench/results with machine and date;
compare only what one run printed.
"""
import argparse
import http.client
import json
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time

import material

ROUNDS = 3
PEER_PROGRAM = """
import json, sys, time, torch, transformers
folder, prompt, reply, counts, compiles = (sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]),
                                           sys.argv[5] == "1")
config = transformers.AutoConfig.from_pretrained(folder)
for name in ("bfloat16", "float32"):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, name),
                                                          attn_implementation="sdpa").eval()
    model.generation_config.eos_token_id = None
    for cache in ("growing", "static", "compiled")[:3 if compiles else 2]:
        kind = {"growing": {}, "static": {"cache_implementation": "static", "disable_compile": True},
                "compiled": {"cache_implementation": "static"}}[cache]
        if cache == "compiled":
            model.forward = torch.compile(model.forward)
        for count in counts:
            ids = torch.randint(0, config.vocab_size, (count, prompt))
            def run(tokens):
                begin = time.perf_counter()
                with torch.inference_mode():
                    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens,
                                   min_new_tokens=tokens, do_sample=False, pad_token_id=0, **kind)
                return time.perf_counter() - begin
            run(2)
            first, whole = run(1), run(reply)
            print(json.dumps({"setting": f"{name}, {cache} cache", "at_once": count,
                              "tokens_per_s": count * (reply - 1) / (whole - first),
                              "prompt_per_s": count * prompt / first}), flush=True)
"""


def ours(folder, count, options, *more):
    text = subprocess.run([material.ATTUNE, "bench", "decode", "--model", folder, "--sequences", str(count),
                           "--prompt", str(options.prompt), "--reply", str(options.reply),
                           "--seconds", str(options.seconds), *more],
                          check=True, capture_output=True, text=True).stdout
    values = map(float, text.splitlines()[-1].replace("%", "").split()[1:])
    return dict(zip(("tokens_per_s", "gb_per_s", "read_gb_per_s", "share_of_read", "prompt_per_s", "share_of_peak"),
                    values))


def our_medians(folder, options, *more):
    rounds = [{count: ours(folder, count, options, *more) for count in options.at_once} for _ in range(options.rounds)]
    return {count: {key: statistics.median(row[count][key] for row in rounds) for key in rounds[0][count]}
            for count in options.at_once}


def peers(folder, options):
    """The fastest setting for each number at once."""
    if not material.PEER.exists() or options.no_peer:
        return {}
    text = subprocess.run([material.PEER, "-c", PEER_PROGRAM, folder, str(options.prompt), str(options.reply),
                           json.dumps(options.at_once), str(int(options.compile))],
                          check=True, stdout=subprocess.PIPE, text=True).stdout
    best = {}
    for row in map(json.loads, text.splitlines()):
        print(f"  peer, {row['setting']}, {row['at_once']} at once: {row['tokens_per_s']:.1f} tokens/s, prompts "
              f"{row['prompt_per_s']:.1f}/s")
        if row["tokens_per_s"] > best.get(row["at_once"], {"tokens_per_s": 0})["tokens_per_s"]:
            best[row["at_once"]] = row
    return best


def run_engine(folder, options, is_nf4=False):
    mine = our_medians(folder, options, *["--nf4"] * is_nf4)
    theirs, rows = {} if is_nf4 else peers(folder, options), []
    print(f"{'at once':>7} {'tokens/s':>9} {'of read':>8} {'prompt/s':>9} {'of peak':>8} {'peer':>7} {'ratio':>6}")
    for count, row in mine.items():
        peer = theirs.get(count, {"tokens_per_s": 0, "setting": ""})
        ratio = round(row["tokens_per_s"] / peer["tokens_per_s"], 2) if peer["tokens_per_s"] else ""
        rows.append({"shape": options.shape + ", NF4 base" * is_nf4, "at_once": count, "prompt": options.prompt,
                     "reply": options.reply, **row,
                     "peer_tokens_per_s": round(peer["tokens_per_s"], 1) or "", "peer_setting": peer["setting"],
                     "ratio": ratio})
        print(f"{count:7} {row['tokens_per_s']:9.1f} {row['share_of_read']:7.0f}% {row['prompt_per_s']:9.1f} "
              f"{row['share_of_peak']:7.0f}% "
              f"{peer['tokens_per_s']:7.1f} {ratio:>6}")
    material.record("decode", rows, options.out)


def stream_reply(port, prompt, tokens):
    """Seconds to the first piece of text, seconds from there to the last, tokens of the reply."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    body = {"model": "bench/model", "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens,
            "temperature": 1, "seed": 1,
            "stream": True, "stream_options": {"include_usage": True}}
    begin, first, last, count = time.perf_counter(), None, None, 0
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(f"chat: {answer.status} {answer.read().decode()}")
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        count = (chunk.get("usage") or {}).get("completion_tokens", count)
        if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
            last = time.perf_counter()
            first = first or last
    if not first:
        sys.exit("a reply had no text")
    return first - begin, last - first, count


def run_clients(port, clients, options):
    """Each client asks ROUNDS times, one reply behind the other; prompts are all different."""
    words = "the old house by sea has a red door and nobody knows who lives there now".split()
    replies = []

    def ask(client):
        chosen = random.Random(client)
        for _ in range(ROUNDS):
            replies.append(stream_reply(port, " ".join(chosen.choice(words) for _ in range(options.prompt)),
                                        options.reply))

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    if len(replies) < clients * ROUNDS:
        sys.exit("a client failed")
    return {"clients": clients, "prompt": options.prompt, "reply": options.reply,
            "first_ms": round(1000 * statistics.median(r[0] for r in replies), 1),
            "first_ms_most": round(1000 * max(r[0] for r in replies), 1),
            "token_ms": round(1000 * statistics.median(r[1] / max(1, r[2] - 1) for r in replies), 2),
            "tokens_per_s": round(sum(r[2] for r in replies) / seconds, 1)}


def run_http(folder, options):
    server, rows = material.Server(folder / "server", folder / "models"), []
    print(f"{'clients':>7} {'first, ms':>10} {'at most':>8} {'token, ms':>10} {'tokens/s':>9}")
    try:
        stream_reply(server.port, "warm", options.reply)
        for clients in options.at_once:
            rows.append({"shape": options.shape, **run_clients(server.port, clients, options)})
            row = rows[-1]
            print(f"{clients:7} {row['first_ms']:10.1f} {row['first_ms_most']:8.1f} {row['token_ms']:10.2f} "
                  f"{row['tokens_per_s']:9.1f}")
    finally:
        server.close()
    material.record("decode_http", rows, options.out and options.out.with_suffix(".http.csv"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=material.SHAPES, default="135M")
    parser.add_argument("--part", default="engine,nf4,http")
    parser.add_argument("--at-once", type=lambda text: [int(count) for count in text.split(",")],
                        default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--reply", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    folder = material.ROOT / f"build/bench-decode-{options.shape}"
    if not (folder / "models/bench/model/model.safetensors").exists():
        shutil.rmtree(folder, ignore_errors=True)
        material.make_model(folder / "models/bench/model", options.shape)
    print(f"{material.processor()}, {options.shape}, prompts of {options.prompt} tokens, replies of {options.reply}, "
          "random weights")
    for part in options.part.split(","):
        {"engine": lambda: run_engine(folder / "models/bench/model", options),
         "nf4": lambda: run_engine(folder / "models/bench/model", options, True),
         "http": lambda: run_http(folder, options)}[part]()


if __name__ == "__main__":
    sys.exit(main())
