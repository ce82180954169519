"""Results that attune has exported, loaded from the hub by huggingface_hub, transformers and peft: `make hub`.

PEERS_PYTHON names the interpreter of the virtual environment that has them (the one of `make parity`)."""
import importlib.util
import json
import os
import pathlib
import subprocess
import time

import openai
import pytest
from conftest import ROOT
from fake_upload import UploadHub
from tiny_model import make_tiny_model

spec = importlib.util.spec_from_file_location("api_conftest", ROOT / "tests/api/conftest.py")
spec.loader.exec_module(api := importlib.util.module_from_spec(spec))
PYTHON = os.environ.get("PEERS_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON,
                                reason="PEERS_PYTHON is not set: transformers and peft are in the environment of make parity")
WIDEN = """
import sys, torch, transformers
torch.manual_seed(1)
config = transformers.AutoConfig.from_pretrained(sys.argv[1])
model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
model.save_pretrained(sys.argv[1])
print(sum(p.numel() for p in model.parameters()))
"""
LOGITS = "print(json.dumps(model(tokenizer('Hello there', return_tensors='pt')['input_ids']).logits[0, -1, :50].tolist()))"
LOAD = """
import json, sys, huggingface_hub, transformers
card = huggingface_hub.ModelCard.load(sys.argv[1])
card.validate()
print(json.dumps(card.data.to_dict()))
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
""" + LOGITS
LOAD_ADAPTER = """
import json, sys, huggingface_hub, transformers, peft
print(json.dumps(huggingface_hub.ModelCard.load(sys.argv[1]).data.to_dict()))
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
model = peft.AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).eval()
""" + LOGITS
LOAD_FOLDERS = """
import json, sys, transformers, peft
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
if len(sys.argv) > 2: model = peft.PeftModel.from_pretrained(model, sys.argv[2]).eval()
""" + LOGITS


@pytest.fixture
def hub():
    with UploadHub() as fake:
        fake.tokens = {"hf_writer": {"name": "someone", "orgs": ["org"]}}
        yield fake
        assert fake.leaks == [], "a token went to the store"


def peers(hub, home, code, *arguments):
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_writer",
                   "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                   "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    run = subprocess.run([PYTHON, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True,
                         timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return [json.loads(line) for line in run.stdout.splitlines() if line[:1] in "[{0123456789"]


@pytest.fixture
def export(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    (tmp_path / "key").chmod(0o600)
    server = api.Server(tmp_path / "data", tmp_path / "models", "--no-auth", "--secret-key-file", tmp_path / "key",
                        "--outgoing", f"internal:{hub.url} internal:{hub.cdn_url}")

    def run(model, repo, **hyperparameters):
        server.start()
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none")
        file = client.files.create(file=("t.jsonl", api.chat_lines(8).encode()), purpose="fine-tune")
        to = {"output_repo_name": repo, "api_token": "hf_writer"}
        job = client.fine_tuning.jobs.create(model=model, training_file=file.id,
                                             hyperparameters={"n_epochs": 1, "batch_size": 8, **hyperparameters},
                                             extra_body={"integrations": [{"type": "hf", "hf": to}]})
        assert api.wait_for_job(client, job.id).status == "succeeded"
        deadline = time.monotonic() + 120
        while not [event for event in client.fine_tuning.jobs.list_events(job.id, limit=100).data
                   if event.message.startswith("Exported to")]:
            assert time.monotonic() < deadline, (server.data / "send.log").read_text()
            time.sleep(0.2)
        assert server.stop() == 0
        return next((server.data / "runs" / job.id).glob("attempts/*/checkpoints/step-*"))

    yield run


def test_a_model_of_a_hundred_megabytes_is_loaded_by_transformers(hub, tmp_path, export):
    hub.part_bytes = 16 << 20
    base = make_tiny_model(tmp_path / "models/org/base")
    config = json.loads((base / "config.json").read_text())
    config.update(hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
                  num_key_value_heads=4, head_dim=64)
    (base / "config.json").write_text(json.dumps(config))
    (count,) = peers(hub, tmp_path / "home", WIDEN, base)
    assert count > 25_000_000, "four bytes each"
    folder = export("org/base", "org/full")
    card, logits = peers(hub, tmp_path / "home", LOAD, "org/full")
    assert card["base_model"] == "org/base" and card["library_name"] == "transformers"
    assert card["base_model_relation"] == "finetune"
    assert [logits] == peers(hub, tmp_path / "home", LOAD_FOLDERS, folder)
    (parts,) = [upload.parts for upload in hub.uploads.values() if upload.parts]
    print(f"\n{sum(map(len, parts.values())) / 1e6:.1f} MB in {len(parts)} parts")
    assert len(parts) >= 6 and hub.head("org/full")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_an_adapter_is_loaded_by_peft(hub, tmp_path, export):
    base = make_tiny_model(tmp_path / "models/org/base")
    hub.put("org/base", {file.name: file.read_bytes() for file in base.iterdir()})
    folder = export("org/base", "org/adapter", lora=True, lora_r=4, learning_rate=0.01)
    card, logits = peers(hub, tmp_path / "home", LOAD_ADAPTER, "org/adapter")
    assert card["base_model"] == "org/base" and card["library_name"] == "peft"
    assert "base_model:adapter:org/base" in card["tags"] and "lora" in card["tags"]
    assert [logits] == peers(hub, tmp_path / "home", LOAD_FOLDERS, base, folder)
    assert [logits] != peers(hub, tmp_path / "home", LOAD_FOLDERS, base)
    assert pathlib.Path(folder, "adapter_config.json").read_bytes() == hub.head("org/adapter")["adapter_config.json"]
