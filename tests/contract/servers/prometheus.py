# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Prometheus with a folder and a port of its own, which scrapes one small HTTP server of the test's."""

from __future__ import annotations

import subprocess
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.contract.servers.redis import free_port
from tests.unit.conftest import wait_for

#: Seconds between two scrapes.
SCRAPE_S = 0.2


class Exporter:
    """What is scraped; ``page`` writes it anew each time, in Prometheus' text format."""

    def __init__(self, page: Callable[[], str]) -> None:
        self.page = page
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = ours.page().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: Any) -> None:
                """Nothing: five lines a second would hide what a test says."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Prometheus:
    """The server; ``url`` is where it is asked."""

    def __init__(self, folder: Path, exporter: Exporter) -> None:
        self.port = free_port()
        self.url = "http://127.0.0.1:%d" % self.port
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: %dms, scrape_timeout: %dms}\n" % (1000 * SCRAPE_S, 1000 * SCRAPE_S)
            + "scrape_configs: [{job_name: app, static_configs: [{targets: ['127.0.0.1:%d']}]}]\n" % exporter.port
        )

    def start(self) -> None:
        command = ["prometheus", "--config.file", str(self._folder / "prometheus.yml"), "--storage.tsdb.path", str(self._folder / "data")]
        command += ["--web.listen-address", "127.0.0.1:%d" % self.port]
        with open(self._folder / "prometheus.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._ready, limit=60, what="Prometheus")

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
        try:
            with urllib.request.urlopen(self.url + "/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None
