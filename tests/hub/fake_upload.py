"""The fake hub's other half: repositories are made, large files stored, commits taken. test_fake_upload.py proves it by
the real client.

It refuses what the Hub refuses: a token that may not write there, a commit of an object that the store does not have,
one whose parent is not the newest, parts with another ETag or content than they were sent with. A store that sees an
Authorization header remembers it in hub.leaks."""
import base64
import dataclasses
import fnmatch
import hashlib
import json
import urllib.parse
import uuid

from fake_hub import LFS, REPO, FakeHub, File, Repo

LFS_TYPE = "application/vnd.git-lfs+json"
REGULAR_BYTES_MAX = 10 << 20


@dataclasses.dataclass
class Upload:
    oid: str
    size: int
    parts: dict = dataclasses.field(default_factory=dict)  # number → bytes
    is_done: bool = False


class UploadHub(FakeHub):
    ROUTES = FakeHub.ROUTES + [
        ("POST", r"/api/repos/create", "create_repo"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("POST", rf"/{REPO}\.git/info/lfs/verify", "lfs_verify"),
        ("POST", r"/api/complete_multipart/(?P<id>\w+)", "complete"),
        ("POST", rf"/api/models/{REPO}/commit/(?P<revision>[^/]+)", "take_commit"),
    ]
    CDN_ROUTES = FakeHub.CDN_ROUTES + [("PUT", r"/store/(?P<id>\w+)", "store")]

    def __init__(self):
        self.uploads, self.verified, self.summaries = {}, [], {}  # summaries: commit → (summary, parent, what it did)
        self.part_bytes = 5 << 20  # larger objects come in parts of this
        self.refused_oids = {}  # oid → what the batch says of it
        super().__init__()

    # ---- repositories

    def may_write(self, request, name):
        """Or an error was answered."""
        user = self.tokens.get(request.token())
        if user is None:
            request.error(401, "Invalid username or password.", message="Invalid credentials in Authorization header")
        elif user.get("role", "write") != "write" or name.split("/")[0] not in (user["name"], *user.get("orgs", ())):
            request.error(403, "You don't have the rights to write there")
        else:
            return True
        return False

    def create_repo(self, request, match):
        fields = json.loads(request.body)
        user = self.tokens.get(request.token(), {"name": ""})
        name = f"{fields['organization'] or user['name']}/{fields['name']}"
        if not self.may_write(request, name):
            return
        answer = {"url": f"{self.url}/{name}", "name": name, "id": name}
        if name in self.repos:
            return request.json(409, {**answer, "error": "You already created this model repo"})
        assert fields.get("type", "model") == "model" and fields.get("visibility", "public") in ("private", "public"), fields
        self.repos[name] = Repo(is_private=fields.get("visibility") == "private", readers={user["name"]})
        self.commit(name,
                    {".gitattributes": File(
                        "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS).encode(),
                        False)})
        request.json(200, answer)

    def validate_yaml(self, request, match):
        fields = json.loads(request.body)
        request.json(200, {"errors": [] if fields["content"].startswith("---\n") else [{"message": "no head"}],
                           "warnings": []})

    def find_head(self, request, match):
        found = self.may_write(request, match["repo"]) and self.find(request, match)
        return found or None

    # ---- large files

    def preupload(self, request, match):
        found = self.find_head(request, match)
        if not found:
            return
        name, repo, sha = found
        files = json.loads(request.body)["files"]
        if not 0 < len(files) <= 256:
            return request.error(413, "too many files")
        answer = []
        for file in files:
            assert len(base64.b64decode(file["sample"], validate=True)) == min(file["size"], 512), file["path"]
            there = repo.commits[sha].get(file["path"])
            is_lfs = self.is_large(file["path"]) or file["size"] > REGULAR_BYTES_MAX
            answer.append({"path": file["path"], "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False,
                           **({"oid": there.etag} if there else {})})
        request.json(200, {"files": answer})

    @staticmethod
    def is_large(path):
        return any(fnmatch.fnmatch(path.split("/")[-1], pattern) for pattern in LFS)

    def lfs_batch(self, request, match):
        if not self.may_write(request, match["repo"]):
            return
        fields = json.loads(request.body)
        if LFS_TYPE not in request.headers.get("Accept", "") or LFS_TYPE not in request.headers.get("Content-Type", ""):
            return request.error(415, "not Git LFS")
        assert fields["operation"] == "upload" and fields["hash_algo"] in ("sha256", "sha_256")
        assert len(fields["objects"]) <= 256
        objects = [self.offer(match["repo"], item["oid"], item["size"], fields["transfers"])
                   for item in fields["objects"]]
        transfer = "multipart" if any("chunk_size" in item.get("actions", {}).get("upload", {}).get("header", {}) for item in objects) else "basic"
        request.answer(200, {"Content-Type": LFS_TYPE}, json.dumps({"transfer": transfer, "objects": objects}).encode())

    def offer(self, repo, oid, size, transfers):
        item = {"oid": oid, "size": size}
        if oid in self.refused_oids:
            return {**item, "error": self.refused_oids[oid]}
        if oid in self.objects:
            return item
        upload_id = uuid.uuid4().hex
        with self.lock:
            self.uploads[upload_id] = Upload(oid, size)
        verify = {"href": f"{self.url}/{repo}.git/info/lfs/verify", "header": {}}
        if size <= self.part_bytes or "multipart" not in transfers:
            return {**item,
                    "actions": {
                        "upload": {"href": self.store_url(upload_id, "whole"), "header": {"X-Amz-Meta-Test": "1"}},
                        "verify": verify}}
        count = -(-size // self.part_bytes)
        parts = {f"{number:05}": self.store_url(upload_id, f"part-{number:05}", number)
                 for number in range(1, count + 1)}
        return {**item,
                "actions": {
                    "upload": {"href": f"{self.url}/api/complete_multipart/{upload_id}?uploadId=CANARYsignature",
                               "header": {"chunk_size": str(self.part_bytes), **parts}},
                                    "verify": verify}}

    def store_url(self, upload_id, filename, number=0):
        return f"{self.cdn_url}/store/{upload_id}?" + urllib.parse.urlencode(
            {"partNumber": number, "filename": filename, "X-Amz-Signature": "CANARYsignature"})

    def store(self, request, match):
        if request.headers.get("Authorization"):
            self.leaks.append(request.headers["Authorization"])
        upload = self.uploads.get(match["id"])
        if upload is None or upload.is_done:
            return request.answer(404, {}, b"<Error><Code>NoSuchUpload</Code></Error>")
        number = int(request.query["partNumber"])
        if not number:
            assert request.headers.get("X-Amz-Meta-Test") == "1" or "python" in request.headers.get("User-Agent", "")
            return self.keep(request, upload, request.body, 400)
        expected = min(self.part_bytes, upload.size - (number - 1) * self.part_bytes)
        assert len(request.body) == expected, (number, len(request.body))
        with self.lock:
            upload.parts[number] = request.body
        request.answer(200, {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'}, b"")

    def keep(self, request, upload, data, refusal):
        if hashlib.sha256(data).hexdigest() != upload.oid or len(data) != upload.size:
            return request.error(refusal, "BadDigest")
        with self.lock:
            self.objects[upload.oid], upload.is_done = data, True
        request.answer(200, {"ETag": '"whole"'}, b"")

    def complete(self, request, match):
        fields, upload = json.loads(request.body), self.uploads.get(match["id"])
        if upload is None or upload.is_done or fields["oid"] != upload.oid:
            return request.error(404, "NoSuchUpload")
        parts = [upload.parts.get(number) for number in range(1, -(-upload.size // self.part_bytes) + 1)]
        told = [(part["partNumber"], part["etag"]) for part in fields["parts"]]
        if None in parts or told != [(number, f'"{hashlib.md5(part).hexdigest()}"')
                                     for number, part in enumerate(parts, 1)]:
            return request.error(400, "InvalidPart")
        self.keep(request, upload, b"".join(parts), 400)

    def lfs_verify(self, request, match):
        if not self.may_write(request, match["repo"]):
            return
        fields = json.loads(request.body)
        if len(self.objects.get(fields["oid"], b"")) != fields["size"]:
            return request.error(404, "Object not found")
        self.verified.append(fields["oid"])
        request.answer(200, {}, b"")

    # ---- commits

    def take_commit(self, request, match):
        found = self.find_head(request, match)
        if not found:
            return
        name, repo, sha = found
        if "application/x-ndjson" not in request.headers.get("Content-Type", ""):
            return request.error(415, "not ndjson")
        lines = [json.loads(line) for line in request.body.decode().splitlines() if line]
        header, files, done = lines[0]["value"], dict(repo.commits[sha]), []
        assert lines[0]["key"] == "header" and header["summary"]
        if header.get("parentCommit") not in (None, sha):
            return request.error(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            done.append((line["key"], value["path"]))
            if line["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"], validate=True), False)
            elif line["key"] == "lfsFile":
                if value["algo"] != "sha256" or value["oid"] not in self.objects:
                    return request.error(400, "LFS pointer pointed to a file that does not exist")
                files[value["path"]] = File(self.objects[value["oid"]], True)
            elif line["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    return request.error(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                return request.error(400, "unknown key")
        commit = self.commit(name, files, urllib.parse.unquote(match["revision"]))
        self.summaries[commit] = (header["summary"], sha, done)
        request.json(200, {"success": True, "commitOid": commit, "commitUrl": f"{self.url}/{name}/commit/{commit}"})

    def head(self, name):
        """{path: bytes} of the newest commit."""
        repo = self.repos[name]
        return {path: file.data for path, file in repo.commits[repo.refs["main"]].items()}
