"""The server is killed at random moments while clients write: each time the next one has everything that was acknowledged.

make test takes a few rounds, make fault 200. Seeds are printed; ATTUNE_FAULT_SEED takes one back."""
import contextlib
import os
import random
import threading
import time

import pytest
from service import FULL, GONE, Ledger, Service, chat_lines, check_disk

SEED = int(os.environ.get("ATTUNE_FAULT_SEED", random.SystemRandom().randrange(1 << 30)))
ROUNDS, CLIENTS = 200 if FULL else 6, 3


def write(service, ledger, rng, acknowledged):
    """One client, until the server is gone."""
    own = []
    with contextlib.suppress(*GONE):
        while True:
            what = rng.randrange(6)
            if what < 2:
                own.append(ledger.upload(service, chat_lines(rng.randint(1, 40))))
            elif what == 2:
                own.append(ledger.upload_in_parts(service, [chat_lines(rng.randint(1, 9)) for _ in range(rng.randint(1, 3))]))
            elif what == 3 and own:
                ledger.delete(service, own.pop(rng.randrange(len(own))))
            elif own:
                ledger.cancel(service, ledger.create(service, rng.choice(own)))
            acknowledged.append(what)


@pytest.fixture
def service(tmp_path):
    return Service(tmp_path, model={"hidden": 32, "layers": 2})


def test_a_server_killed_while_clients_write_has_kept_its_word(service):
    print(f"seed {SEED}")
    rng, ledger, acknowledged = random.Random(SEED), Ledger(), []
    for _ in range(ROUNDS):
        clients = [threading.Thread(target=write, args=(service, ledger, random.Random(rng.random()), acknowledged)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(rng.uniform(0.02, 0.5))
        service.kill()
        for client in clients:
            client.join()
        service.start()
        for job in service.list("/v1/fine_tuning/jobs"):  # created, and the cancel was cut off
            if job["status"] not in ("succeeded", "failed", "cancelled"):
                ledger.cancel(service, job["id"])
        files = {file["id"] for file in service.call("GET", "/v1/files?limit=10000")["data"]}
        assert ledger.files.keys() <= files and not ledger.deleted & files
    ledger.check(service)
    service.stop()
    check_disk(service.data)
    print(f"{ROUNDS} kills, {len(acknowledged)} operations acknowledged, {len(ledger.files)} files and {len(ledger.jobs)} jobs at the end")
