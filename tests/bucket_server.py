"""A small server of the Cloud Storage JSON API, since no bucket can be reached from a test.

gcsfs finds it by STORAGE_EMULATOR_HOST, TensorStore by TENSORSTORE_GCS_HTTP_URL; what they do to a
bucket is real. It has what they use: listing, metadata, ranges, uploads in one piece, in two parts
and in many, copies, deletion, and generations with their conditions. Objects live in memory.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Stored(NamedTuple):
    """One object."""

    data: bytes
    generation: int


class BucketServer(ThreadingHTTPServer):
    """Buckets by name, each a mapping from names to objects.

    Attributes:
      buckets: what is stored.
      forbidden: names of buckets that refuse everything with code 403.
      written: names of objects in the order in which they were written.
    """

    daemon_threads = True

    def __init__(self, *buckets: str):
        super().__init__(("localhost", 0), _Handler)
        self.buckets: dict[str, dict[str, Stored]] = {name: {} for name in buckets}
        self.forbidden: set[str] = set()
        self.written: list[str] = []
        self.uploads: dict[str, tuple[str, str, bytearray]] = {}
        self.lock = threading.Lock()
        self.count = 0

    def handle_error(self, *_) -> None:
        """Clients that hang up are none of ours."""

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which gcsfs, google-cloud-storage and TensorStore come here."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_CLOUD_PROJECT": "project",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",  # Nothing waits for a server of credentials.
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # Asks for the kind of a bucket by gRPC.
        }

    @classmethod
    @contextlib.contextmanager
    def running(cls, *buckets: str) -> Iterator[BucketServer]:
        """A server that answers until the block ends."""
        server = cls(*buckets)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Head and body in one packet: otherwise the second waits for an answer.
    disable_nagle_algorithm = True
    server: BucketServer

    def log_message(self, *_):
        pass

    # ---- Answers ----

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, content: object, code: int = 200, **headers: str) -> None:
        body = json.dumps(content).encode()
        self.answer(code, body, Content_Type="application/json", **headers)

    def refuse(self, code: int, message: str) -> None:
        self.answer_json({"error": {"code": code, "message": message}}, code)

    def describe(self, bucket: str, name: str, one: Stored) -> dict[str, object]:
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(one.data)),
            "generation": str(one.generation),
            "metageneration": "1",
            "md5Hash": base64.b64encode(hashlib.md5(one.data).digest()).decode(),
            "timeCreated": "2026-01-01T00:00:00Z",
            "updated": "2026-01-01T00:00:00Z",
            "storageClass": "STANDARD",
            "contentType": "application/octet-stream",
        }

    # ---- Requests ----

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = url.path.removeprefix("/download").removeprefix("/upload")
        if found := re.fullmatch(r"/session/(\w+)", path):
            return self.chunk(found[1], body)
        found = re.fullmatch(r"/storage/v1/b/([^/]+)(/o(?:/(.*))?)?", path)
        if found is None:
            return self.refuse(404, f"no such address: {path}")
        bucket, objects, rest = found.groups()
        if bucket in self.server.forbidden:
            return self.refuse(403, "no permission for this bucket")
        if bucket not in self.server.buckets:
            return self.refuse(404, "The specified bucket does not exist.")
        if objects is None:
            return self.answer_json({"kind": "storage#bucket", "name": bucket, "id": bucket})
        if rest is None:
            if self.command == "GET":
                return self.list(bucket, query)
            return self.upload(bucket, query, body)
        if replicated := re.fullmatch(r"(.*)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.*)", rest):
            return self.copy(bucket, *(unquote(part) for part in replicated.groups()))
        if moved := re.fullmatch(r"(.*)/moveTo/o/(.*)", rest):
            return self.copy(bucket, unquote(moved[1]), bucket, unquote(moved[2]), move=True)
        if self.command == "DELETE":
            return self.delete(bucket, unquote(rest), query)
        return self.get(bucket, unquote(rest), query)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_request

    def list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        start, end = query.get("startOffset", ""), query.get("endOffset")
        items, prefixes = [], set()
        for name, one in sorted(self.server.buckets[bucket].items()):
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            inside, found, _ = name[len(prefix) :].partition(delimiter or "\0")
            if found:
                prefixes.add(prefix + inside + found)
            else:
                items.append(self.describe(bucket, name, one))
        self.answer_json({"items": items, "prefixes": sorted(prefixes)})

    def get(self, bucket: str, name: str, query: dict[str, str]) -> None:
        one = self.server.buckets[bucket].get(name)
        if one is None:
            return self.refuse(404, f"No such object: {bucket}/{name}")
        if query.get("ifGenerationNotMatch") == str(one.generation):
            return self.answer(304)
        if query.get("ifGenerationMatch", str(one.generation)) != str(one.generation):
            return self.refuse(412, "generation")
        if query.get("alt") != "media":
            return self.answer_json(self.describe(bucket, name, one))
        headers = {"x_goog_generation": str(one.generation), "x_goog_stored_content_length": "0"}
        data, code = one.data, 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first = int(asked[1])
            last = min(int(asked[2]) if asked[2] else len(data), len(data) - 1)
            if first > last:
                return self.answer(416)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
            data, code = data[first : last + 1], 206
        self.answer(code, data, Content_Type="application/octet-stream", **headers)

    def store(self, bucket: str, name: str, data: bytes, condition: str | None) -> None:
        with self.server.lock:
            objects = self.server.buckets[bucket]
            present = objects[name].generation if name in objects else 0
            if condition is not None and int(condition) != present:
                return self.refuse(412, "generation")
            self.server.count += 1
            objects[name] = Stored(bytes(data), self.server.count)
            self.server.written.append(name)
        self.answer_json(self.describe(bucket, name, objects[name]))

    def upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        kind, condition = query.get("uploadType"), query.get("ifGenerationMatch")
        if kind == "media":
            return self.store(bucket, query["name"], body, condition)
        if kind == "multipart":
            boundary = re.search(r'boundary="?([^"]+)"?', self.headers["Content-Type"])
            assert boundary is not None
            _, first, second, _ = body.split(b"--" + boundary[1].encode())
            name = json.loads(re.split(rb"\r?\n\r?\n", first, maxsplit=1)[1])["name"]
            data = re.split(rb"\r?\n\r?\n", second, maxsplit=1)[1]
            return self.store(bucket, name, data.removesuffix(b"\n").removesuffix(b"\r"), condition)
        name = query.get("name") or json.loads(body)["name"]
        with self.server.lock:
            self.server.count += 1
            session = str(self.server.count)
            self.server.uploads[session] = (bucket, name, bytearray())
        self.answer(200, Location=f"{self.server.url}/upload/session/{session}")

    def chunk(self, session: str, body: bytes) -> None:
        bucket, name, data = self.server.uploads[session]
        data += body
        total = self.headers.get("Content-Range", "/*").rpartition("/")[2]
        if total != "*" and len(data) >= int(total):
            return self.store(bucket, name, bytes(data), None)
        self.answer(308, Range=f"bytes=0-{len(data) - 1}")

    def copy(self, bucket, source, target_bucket, target, *, move: bool = False) -> None:
        one = self.server.buckets[bucket].get(source)
        if one is None:
            return self.refuse(404, f"No such object: {bucket}/{source}")
        with self.server.lock:
            self.server.count += 1
            replicated = Stored(one.data, self.server.count)
            self.server.buckets[target_bucket][target] = replicated
            self.server.written.append(target)
            if move:
                del self.server.buckets[bucket][source]
        resource = self.describe(target_bucket, target, replicated)
        self.answer_json(resource if move else {"done": True, "resource": resource})

    def delete(self, bucket: str, name: str, query: dict[str, str]) -> None:
        with self.server.lock:
            objects = self.server.buckets[bucket]
            if name not in objects:
                return self.refuse(404, f"No such object: {bucket}/{name}")
            wanted = query.get("ifGenerationMatch", str(objects[name].generation))
            if wanted != str(objects[name].generation):
                return self.refuse(412, "generation")
            del objects[name]
        self.answer(204)
