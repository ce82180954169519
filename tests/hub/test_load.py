"""transformers and PEFT load what attune fetched, and attune finds what transformers fetched. Needs the stack of `make
parity` (build/venv-parity)."""
import json
import os
import subprocess

import pytest
from conftest import ROOT
from test_download import Pull, gets
from tiny_model import adapter_for, make_tiny_model, sharded

PYTHON = ROOT / "build/venv-parity/bin/python"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="build/venv-parity is not there: make parity makes it")

LOAD = """
import json, sys, torch, transformers
name, prompt = sys.argv[1], "Say red."
model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype="float32")
if len(sys.argv) > 2:
    import peft
    model = peft.PeftModel.from_pretrained(model, sys.argv[2])
ids = transformers.AutoTokenizer.from_pretrained(name)(prompt, return_tensors="pt").input_ids
print(json.dumps({"parameters": sum(p.numel() for p in model.parameters()), "logit": float(model(ids).logits[0, -1].abs().sum())}))
"""


def load(hub, home, *names, **environment):
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
           "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **environment}
    run = subprocess.run([PYTHON, "-c", LOAD, *map(str, names)], env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture
def tiny(tmp_path):
    folder = make_tiny_model(tmp_path / "tiny")
    return folder, {f.name: f.read_bytes() for f in folder.iterdir()}


def test_transformers_loads_what_we_fetched_after_an_interruption(hub, tmp_path, tiny):
    folder, files = tiny
    hub.put("org/tiny", sharded(files))
    for kind in ("", "cut"):
        hub.fault("model-00002-of-00002.safetensors", kind, at=10_000)
    Pull(hub, tmp_path / "hf")("org/tiny")
    assert [e.status for e in hub.served("cdn", "model-00002")] == [200, 206]
    before = len(gets(hub))
    found = load(hub, tmp_path / "hf", "org/tiny", HF_HUB_OFFLINE="1")
    assert found == load(hub, tmp_path / "hf", folder, HF_HUB_OFFLINE="1")
    assert found == load(hub, tmp_path / "hf", "org/tiny")
    assert len(gets(hub)) == before  # and asked whether it is the newest


def test_we_use_what_transformers_fetched(hub, tmp_path, tiny):
    hub.put("org/tiny", sharded(tiny[1]))
    load(hub, tmp_path / "hf", "org/tiny")
    asked = len(hub.log)
    snapshot = Pull(hub, tmp_path / "hf")("org/tiny", "--offline")
    assert (snapshot / "model-00001-of-00002.safetensors").exists() and len(hub.log) == asked


def test_peft_loads_an_adapter_that_came_with_its_base(hub, tmp_path, tiny):
    hub.put("org/tiny", tiny[1])
    hub.put("me/adapter", adapter_for(tmp_path, "org/tiny"))
    adapter = Pull(hub, tmp_path / "hf")("me/adapter")
    assert load(hub, tmp_path / "hf", "org/tiny", adapter, HF_HUB_OFFLINE="1")["parameters"] > load(hub, tmp_path / "hf", "org/tiny", HF_HUB_OFFLINE="1")["parameters"]
