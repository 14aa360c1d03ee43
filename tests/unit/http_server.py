# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real HTTP server that remembers what came, and answers as a test tells it to."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Callable
from typing import Any


class Server:
    """A real HTTP server; ``answer`` decides what it says: status and body, or writes it itself and returns None."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answer: Callable[[http.server.BaseHTTPRequestHandler], tuple[int, bytes] | None] = lambda request: (200, b"{}")
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        ours = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                ours.seen.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                found = ours.answer(self)
                if found is not None:
                    self.send_response(found[0])
                    if found[0] == 302:
                        self.send_header("Location", "/elsewhere")
                    self.send_header("Content-Length", str(len(found[1])))
                    self.end_headers()
                    self.wfile.write(found[1])

            do_GET = do_POST = respond

            def log_message(self, *_arguments: Any) -> None:
                """Nothing: the tests look at what came."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = int(self._server.server_address[1])
        self.url = "http://127.0.0.1:%d" % self.port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def says(self, status: int, body: Any) -> None:
        """From now on; ``body`` as JSON unless it is bytes."""
        said = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answer = lambda request: (status, said)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
