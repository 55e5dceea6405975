"""An S3 server on loopback, and a proxy before it that fails and dawdles as asked: what real object stores do."""

from __future__ import annotations

import http.client
import random
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "plumbline"
SET_ANEW = ("transfer-encoding", "connection", "content-length", "date", "server")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIALOOPBACKTEST", "AWS_SECRET_ACCESS_KEY": "loopback-secret-4711"}


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a fresh server with the bucket :data:`BUCKET`."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST"))
    urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"))
    try:
        yield address
    finally:
        server.stop()


@dataclass
class Faults:
    """What the proxy does to requests.

    Attributes:
        fail: share that is answered 503.
        slow: share whose answer comes ``slow_s`` late.
        only: part of the path of those that are touched at all.
        seen: method and path of all requests, in order.
    """

    fail: float = 0.0
    slow: float = 0.0
    slow_s: float = 0.3
    only: str = ""
    failed: int = 0
    seen: list[str] = field(default_factory=list)
    draw: random.Random = field(default_factory=lambda: random.Random(7))


@contextmanager
def proxy(address: str, faults: Faults) -> Iterator[str]:
    """The address of a proxy before ``address``."""
    host = address.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.body()
            faults.seen.append(f"{self.command} {self.path}")
            lot = faults.draw.random() if faults.only in self.path else 1.0
            if lot < faults.fail:
                faults.failed += 1
                self.reply(503, {}, b"")
                return
            if lot < faults.fail + faults.slow:
                time.sleep(faults.slow_s)
            upstream = http.client.HTTPConnection(host, timeout=30)
            upstream.request(self.command, self.path, body=body, headers={
                name: value for name, value in self.headers.items() if name.lower() not in SET_ANEW
            })  # fmt: skip
            reply = upstream.getresponse()
            self.reply(reply.status, dict(reply.getheaders()), reply.read())
            upstream.close()

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in SET_ANEW:
                    self.send_header(name, value)
            length = headers.get("Content-Length", len(body)) if self.command == "HEAD" else len(body)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
