"""What runs in the pods that are elected; needs nothing but Python.

Whoever leads writes into a ledger with every request that it answers, and with the token of its
term. It learns its token from the operator, and never notices that its term is over: what the
ledger refuses is what an old leader would have spoilt.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

POD = os.environ["POD"]
ELECTION = os.environ["ELECTION"]
"""The address of the election at the operator."""
LEDGER = urlsplit(os.environ["LEDGER"])
LAME_DUCK = 2.0
"""Seconds for which it serves on after SIGTERM, as programs behind Services have to."""


class Reconciler:
    """What the program knows about itself."""

    token = 0
    ready = True


def follow() -> None:
    """Take each token that is given to this pod, for ever."""
    while True:
        try:
            request = Request(ELECTION, headers={"Accept": "text/event-stream"})
            with urlopen(request, timeout=30) as stream:
                for line in stream:
                    if line.startswith(b"data:"):
                        found = json.loads(line[5:])
                        if (found.get("leader") or {}).get("podName") == POD:
                            Reconciler.token = int(found["token"])
        except (OSError, ValueError, http.client.HTTPException):
            time.sleep(0.2)


def write(local: threading.local) -> str:
    """Write into the ledger; return what became of it."""
    if not Reconciler.token:
        return "none"
    try:
        if not hasattr(local, "ledger"):
            local.ledger = http.client.HTTPConnection(LEDGER.hostname or "", LEDGER.port, timeout=1)
        local.ledger.request(
            "POST", LEDGER.path, json.dumps({"pod": POD, "token": Reconciler.token})
        )
        with local.ledger.getresponse() as answer:
            answer.read()
            return "accepted" if answer.status == http.HTTPStatus.OK else "refused"
    except (OSError, http.client.HTTPException):
        local.ledger.close()
        del local.ledger
        return "failed"


class Handler(BaseHTTPRequestHandler):
    """GET / works, /who only answers, /ready is the probe, which PUT /ready/false makes fail."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    local = threading.local()

    def do_GET(self) -> None:
        """Answer."""
        if self.path == "/ready":
            self.answer(200 if Reconciler.ready else 503, {})
        else:
            done = "none" if self.path == "/who" else write(self.local)
            self.answer(200, {"pod": POD, "token": Reconciler.token, "write": done})

    def do_PUT(self) -> None:
        """Change the answer of the probe."""
        Reconciler.ready = self.path == "/ready/true"
        self.answer(200, {})

    def answer(self, status: int, found: dict[str, object]) -> None:
        """Send an answer."""
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until SIGTERM, and a little longer."""
    server = ThreadingHTTPServer(("", 8080), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Timer(LAME_DUCK, server.shutdown).start())
    threading.Thread(target=follow, daemon=True).start()
    server.serve_forever()
    os._exit(0)


main()
