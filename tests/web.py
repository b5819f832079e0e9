"""A server of the web page for tests: `polymode serve` as a process, or the page alone in this one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from app.jobs.index import Index
from app.web.options import Serve
from app.web.serve import launch, uploads_folder

STARTS = 120.0  # seconds, on a busy machine
# the page's own address is never asked for through any of these; nobody listens at port 9
PROXIES = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
PROXIES |= {"ALL_PROXY": "socks5://127.0.0.1:9", "SSL_CERT_FILE": "/nowhere/cert.pem"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@dataclass
class Served:
    """A running page."""

    url: str
    runs: Path
    process: subprocess.Popen[str] | None = None


@contextlib.contextmanager
def page_alone(runs: Path, **flags: object) -> Iterator[Served]:
    """The page without workers: jobs wait."""
    with uploads_folder():
        from app.web.site import Site

        a = Serve(runs=runs, port=free_port(), **flags)  # pyright: ignore[reportArgumentType]
        page, url = launch(Site(Index(runs), a.max_queue), a)
        try:
            yield Served(url, runs)
        finally:
            page.close(verbose=False)


@contextlib.contextmanager
def serving(runs: Path, *flags: str) -> Iterator[Served]:
    """`polymode serve` with its workers."""
    port = free_port()
    command = [sys.executable, "-m", "app.cli", "serve", "--runs", str(runs), "--port", str(port), "--device", "cpu"]
    log = runs.parent / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen([*command, *flags], stdout=out, stderr=out, text=True, env=os.environ | PROXIES)
        try:
            ends = time.monotonic() + STARTS
            while "Polymode:" not in log.read_text():
                assert process.poll() is None and time.monotonic() < ends, log.read_text()
                time.sleep(0.1)
            yield Served(f"http://127.0.0.1:{port}/", runs, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def raw(url: str, name: str, data: Any) -> dict[str, Any]:
    """Call an endpoint as a browser does, whatever the data. Returns the last event: {"output"} or {"error"}."""
    with httpx.Client(base_url=url, timeout=60) as http:
        config = http.get("config").json()
        number = next(d["id"] for d in config["dependencies"] if d["api_name"] == name)
        return event(http, number, data)


def event(http: httpx.Client, number: int, data: Any, **more: Any) -> dict[str, Any]:
    session = f"s{time.monotonic_ns()}"
    body = json.dumps({"fn_index": number, "data": data, "session_hash": session} | more)
    answer = http.post("gradio_api/queue/join", content=body, headers={"Content-Type": "application/json"})
    if answer.status_code != 200:
        return {"error": answer.text, "status": answer.status_code}
    with http.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as lines:
        for line in lines.iter_lines():
            message = json.loads(line[5:]) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                return message["output"] | {"success": message["success"]}
    return {"error": "no answer"}
