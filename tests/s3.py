"""A real S3 server for the tests, and a proxy before it that fails as networks do."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


class FaultyProxy:
    """Hands requests on to a server, but for those that it refuses or cuts.

    Args:
        server: Its URL.
        seed: Decides which requests.

    Attributes:
        unavailable: Share of requests that are answered with 503.
        cut_down: Share of answers that end in the middle of the body.
        cut_up: Share of requests with a body whose connection ends in the middle of it.
        denied: Whether all are answered with 403.
        counts: What was done how often.
        asked: The requests, as `GET /bucket/name`.
        url: Where it listens.
    """

    def __init__(self, server: str, seed: int = 0) -> None:
        self.unavailable = self.cut_down = self.cut_up = 0.0
        self.denied = False
        self.counts: Counter[str] = Counter()
        self.asked: list[str] = []
        self._random, self._lock = random.Random(seed), threading.Lock()
        self.server = urlsplit(server).netloc
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def draw(self, what: str, share: float) -> bool:
        with self._lock:
            drawn = self._random.random() < share
            self.counts[what] += drawn
            return drawn


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"
    timeout = 20

    def _any(self) -> None:
        proxy, size = self.proxy, int(self.headers.get("Content-Length", 0))
        if size and proxy.draw("cut up", proxy.cut_up):
            self.rfile.read(size // 2)
            self.close_connection = True
            return
        body = self._body(size)
        proxy.counts["requests"] += 1
        proxy.asked.append(f"{self.command} {self.path}")
        if proxy.denied:
            self._answer(403, {}, _DENIED)
        elif proxy.draw("unavailable", proxy.unavailable):
            self._answer(503, {}, _SLOW_DOWN)
        else:
            self._hand_on(body)

    def _body(self, size: int) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            chunks = []
            while length := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(length))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(chunks)
        return self.rfile.read(size)

    def _hand_on(self, body: bytes) -> None:
        with contextlib.closing(http.client.HTTPConnection(self.proxy.server, timeout=20)) as server:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP | {"expect"}}
            server.request(self.command, self.path, body, headers)
            answer = server.getresponse()
            data = answer.read()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
        if self.command == "HEAD":
            kept["Content-Length"] = answer.getheader("Content-Length", "0")
        self._answer(answer.status, kept, data)

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        proxy = self.proxy
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if status < 300 and data and proxy.draw("cut down", proxy.cut_down):
            data, self.close_connection = data[: len(data) // 2], True
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@contextlib.contextmanager
def faulty(server: str, seed: int = 0) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(server, seed)
    try:
        yield proxy
    finally:
        proxy.close()
