"""What the demo promises: the behaviour comes from the data, and the bundled model speaks its own grammar."""
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = os.environ.get("ATTUNE_BIN", str(ROOT / "build/attune"))
sys.path.insert(0, str(ROOT / "tools"))
from world.grammar import accepts, sentences  # noqa: E402


def demo(*options):
    run = subprocess.run([sys.executable, ROOT / "tools/demo.py", "--quiet", *options], check=True, capture_output=True,
                         text=True, timeout=600)
    figures = json.loads(run.stdout.splitlines()[-1])
    print(figures)
    return figures


def test_the_demo_teaches_its_behaviour():
    figures = demo()
    assert figures["prompts"] == 50
    assert figures["shown_before"] <= 0.05 and figures["shown_after"] >= 0.9
    assert (ROOT / "build/demo/weights/model.safetensors").exists()


def test_shuffled_answers_do_not_teach_it():
    assert demo("--shuffled")["shown_after"] < 0.2


def test_the_base_model_speaks_its_grammar():
    """200 sentences drawn at temperature 1."""
    asked = ["Tell me a story.", "Tell me a story about a dog.", "Can you tell me a short story?",
             "I am Mia. Where is my kite?"]
    requests = [json.dumps({"id": i, "messages": [{"role": "user", "content": asked[i % 4]}], "temperature": 1.0,
                            "max_tokens": 120, "seed": i}) for i in range(64)]
    run = subprocess.run([BIN, "infer", "--model", ROOT / "models/attune/world-3m"], input="\n".join(requests) + "\n",
                         check=True, capture_output=True, text=True, timeout=300)
    replies = {}
    for line in map(json.loads, run.stdout.splitlines()):
        assert "error" not in line, line
        if "finish_reason" in line and line["finish_reason"] == "length":
            replies[line["id"]] = replies[line["id"]].rpartition(".")[0] + "."  # the last sentence was cut
        replies[line.get("id")] = replies.get(line.get("id"), "") + line.get("text", "")
    drawn = [sentence for i in range(64) for sentence in sentences(replies[i])][:200]
    accepted = sum(map(accepts, drawn))
    print(f"grammar accepts {accepted} of {len(drawn)} sampled sentences")
    assert len(drawn) == 200 and accepted >= 190
