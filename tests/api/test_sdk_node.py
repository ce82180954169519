"""The stock Node client, one of each major version, against the running server: tests/node/sdk.test.mjs, each of its tests one here."""
import json
import os
import re
import shutil
import subprocess

import pytest
from conftest import ROOT, chat_lines
from sdk_world import World

SOURCE, BUILT = ROOT / "tests/node", ROOT / "build/node"
MAJORS = ["openai4", "openai5", "openai6", "openai7"]


def names_of_tests():
    text = (SOURCE / "sdk.test.mjs").read_text()
    sources = re.findall(r'^  "([^"]+)": ', text, re.M)
    for name in re.findall(r'^ *test\(["`](.+?)["`],', text, re.M):
        yield from [name.replace("${name}", source) for source in sources] if "${name}" in name else [name]


NAMES = list(names_of_tests())


@pytest.fixture(scope="module")
def node():
    """Node's path, with the clients of tests/node/package-lock.json under build/node."""
    found = shutil.which("node")
    if not found or not shutil.which("npm"):
        pytest.skip("node and npm are not installed")
    stamp = BUILT / "installed.json"
    if not stamp.exists() or stamp.read_text() != (SOURCE / "package-lock.json").read_text():
        shutil.rmtree(BUILT, ignore_errors=True)
        shutil.copytree(SOURCE, BUILT)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", "--loglevel=error"], cwd=BUILT, check=True, timeout=600)
        shutil.copy(SOURCE / "package-lock.json", stamp)
    shutil.copy(SOURCE / "sdk.test.mjs", BUILT)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("node")
    world = World(folder / "data", models)
    world.release_queue()
    tuned = [world.tuned_model() for _ in MAJORS]
    world.hold_queue()
    (folder / "data.jsonl").write_text(chat_lines(24))
    world.told = json.dumps({"job": world.done.id, "model": world.model, "file": world.file, "project": world.project, "path": str(folder / "data.jsonl"), "models": tuned})
    yield world
    world.stop()


@pytest.fixture(scope="module", params=MAJORS)
def results(request, node, world):
    """Of each test of one major version: None, or what Node says of its failure."""
    run = subprocess.run([node, "--test-reporter=tap", "sdk.test.mjs"], cwd=BUILT, capture_output=True, text=True, timeout=300,
                         env={**os.environ, "SDK": request.param, "ATTUNE_URL": world.server.url, "WORLD": world.told, "NO_PROXY": "127.0.0.1"})
    found = re.findall(r"^ *(not )?ok \d+ - (.+?)\n((?: +---\n.*?\n +\.\.\.)?)", run.stdout, re.M | re.S)
    results = {name.replace("\\", ""): (told or "failed") if bad else None for bad, name, told in found}
    assert set(results) >= set(NAMES), f"Node ran {sorted(results)}\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
    return results


@pytest.mark.parametrize("name", NAMES)
def test_the_stock_node_client_finds_that(results, name):
    assert results[name] is None, results[name]
