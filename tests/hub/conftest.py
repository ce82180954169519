import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/hub"), str(ROOT / "tests/api")]
from fake_hub import FakeHub  # noqa: E402


@pytest.fixture
def hub():
    with FakeHub() as fake:
        yield fake
        assert fake.leaks == [], "a token went to the CDN"


def client(hub, home, code, *arguments, token=None, check=True, **environment):
    """Runs Python with the real client against the hub, its cache under home: what it printed, or the whole run when
    check is false."""
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
           "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
           **({"HF_TOKEN": token} if token else {}), **environment}
    run = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=env, capture_output=True, text=True,
                         timeout=120)
    assert not check or run.returncode == 0, run.stdout + run.stderr
    return run.stdout.strip() if check else run
