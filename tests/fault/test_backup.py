"""attune backup beside a server at work: what the copied database lists is in the copy, and a server starts on it and goes on."""
import hashlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest
from service import BIN, Service, chat_lines, examine

SEED = int(os.environ.get("ATTUNE_FAULT_SEED", random.SystemRandom().randrange(1 << 30)))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = Service(tmp_path_factory.mktemp("backup"), model={"hidden": 32, "layers": 2})
    yield running
    running.stop()


def attune(*words):
    return subprocess.run([BIN, *map(str, words)], capture_output=True, text=True)


def backup(service, to, *options):
    made = attune("backup", "--data", service.data, to, *options)
    assert made.returncode == 0, made.stderr
    folders = sorted(path for path in to.iterdir() if path.is_dir())
    assert not [path for path in folders if path.suffix == ".tmp"]
    return folders[-1], made.stdout


def verify(folder):
    verified = attune("backup", "verify", folder, "--hashes")
    assert verified.returncode == 0, verified.stderr


class Load:
    """Uploads and deletes for as long as it is entered; knows what there is for certain."""

    def __init__(self, service):
        self.service, self.files, self.stopped = service, {}, threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        rng = random.Random(SEED)
        while not self.stopped.is_set():
            content = chat_lines(rng.randrange(1, 40))
            self.files[self.service.upload(content)] = hashlib.sha256(content).hexdigest()
            if len(self.files) > 5:
                file_id = rng.choice(sorted(self.files))
                del self.files[file_id]
                self.service.call("DELETE", f"/v1/files/{file_id}")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()


def restored(service, folder, place):
    """A server on a copy of the backup, in another place."""
    shutil.copytree(folder, place / "data")
    other = Service.__new__(Service)
    other.folder, other.data, other.models, other.options, other.process = place, place / "data", service.models, service.options, None
    other.start()
    return other


def check_whole(other):
    """Everything that the server lists loads."""
    files = {file["id"]: file for file in other.list("/v1/files")}
    for file_id, file in files.items():
        assert len(other.content(file_id)) == file["bytes"]
    for job in other.list("/v1/fine_tuning/jobs"):
        other.wait(job["id"])
        assert other.checkpoint_files(job["id"])
    examine(other.data, "--hashes")


def test_backups_under_load_are_whole_and_a_server_goes_on_with_them(service, tmp_path):
    print(f"seed {SEED}")
    kept = service.upload(chat_lines(30))
    done = service.create(kept, epochs=1)
    service.wait(done)
    with Load(service):
        running = service.create(kept, epochs=4)
        folders = []
        for _ in range(3):
            begin = time.monotonic()
            folder, told = backup(service, tmp_path / "to")
            print(f"{time.monotonic() - begin:.2f} s: {told.strip()}")
            folders.append(folder)
            time.sleep(0.3)
    for folder in folders:
        verify(folder)
    whole = service.content(kept)
    service.wait(running)
    for i, folder in enumerate(folders[::2]):
        other = restored(service, folder, tmp_path / f"restored-{i}")
        try:
            assert other.content(kept) == whole
            check_whole(other)
            assert other.checkpoint_files(done) == service.checkpoint_files(done)
            if running in {job["id"] for job in other.list("/v1/fine_tuning/jobs")}:
                assert other.checkpoint_files(running) == service.checkpoint_files(running)
        finally:
            other.stop()


def test_a_second_backup_copies_only_what_is_new(service, tmp_path):
    service.upload(chat_lines(4000))
    backup(service, tmp_path / "to", "--independent")
    folder, told = backup(service, tmp_path / "to", "--independent")
    copied = int(told.split(", ")[-1].split()[0])
    assert copied < 100000, told
    verify(folder)


def test_what_a_trainer_appends_to_is_no_hard_link(service, tmp_path):
    service.wait(service.create(service.upload(chat_lines(8)), epochs=1))
    folder, _ = backup(service, tmp_path / "to")
    copies = [path for path in folder.rglob("*") if path.is_file() and (service.data / path.relative_to(folder)).exists()]
    shared = {path.name for path in copies if path.samefile(service.data / path.relative_to(folder))}
    assert shared and not [name for name in shared if name.startswith("events.") or name == "log.txt"]
    assert [path for path in copies if path.name.startswith("events.out.tfevents.")]


def test_a_backup_that_is_killed_leaves_no_folder_that_looks_complete(service, tmp_path):
    rng = random.Random(SEED)
    for _ in range(5):
        process = subprocess.Popen([BIN, "backup", "--data", service.data, tmp_path / "to"], stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for folder in (tmp_path / "to").glob("*Z"):
            verify(folder)
    verify(backup(service, tmp_path / "to")[0])


def test_damage_is_found(service, tmp_path):
    folder, _ = backup(service, tmp_path / "to", "--independent")
    victim = max((folder / "files").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0xff
    victim.write_bytes(content)
    found = attune("backup", "verify", folder, "--hashes")
    assert found.returncode == 1 and victim.name in found.stderr
    victim.unlink()
    assert attune("backup", "verify", folder).returncode == 1


def test_what_is_not_a_data_folder_or_lies_in_one_is_refused(service, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is not a data folder" in attune("backup", "--data", tmp_path / "empty", tmp_path / "to").stderr
    assert "outside" in attune("backup", "--data", service.data, service.data / "backups").stderr
    assert attune("backup", "verify", tmp_path).returncode == 1
