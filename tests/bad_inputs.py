"""Data and servers that are not as they should be."""

import gzip
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NUM_PICTURES = 24


def image_tar(*, bad: str = "") -> bytes:
    """A tar of grey 8 x 8 pictures, two classes in `train` and `test`; the member named `bad` is half a picture."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(NUM_PICTURES):
            for split in ("train", "test"):
                name = f"{split}/{number % 2}/{number:02d}.png"
                picture = io.BytesIO()
                Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(picture, "PNG")
                payload = picture.getvalue()
                payload = payload[: len(payload) // 2] if name == bad else payload
                member = tarfile.TarInfo(name)
                member.size = len(payload)
                archive.addfile(member, io.BytesIO(payload))
    return buffer.getvalue()


def cut_between_members(tar: bytes) -> bytes:
    """The first half of the members, without the end mark: every header and every payload that is left is sound."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return tar[: archive.getmembers()[NUM_PICTURES].offset]


def gzipped(tar: bytes) -> bytes:
    return gzip.compress(tar, mtime=0)


def pictures(path: Path, **fields: Any) -> dict[str, Any]:
    """The data set of such a tar, as a grid file states it."""
    return {"kind": "image_folder", "name": "pictures", "uri": str(path), "image": {"mode": "grey"}, **fields}


def s3_environment(endpoint: str) -> dict[str, str]:
    """What points a command at an S3 server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Address of a server that answers every request in the same way."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - names that the server looks for

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def refusing_s3() -> AbstractContextManager[str]:
    """Address of a server that answers every request with 403."""
    return answering(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
