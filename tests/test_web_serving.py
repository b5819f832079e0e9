"""`polymode serve` as a process with workers, and many clients at once."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client

from app.errors import UsageError
from app.export.glb import read_glb
from app.jobs.index import Index
from app.web.files import facts
from app.web.options import Serve
from app.web.serve import run_serve, without_proxies
from tests.test_web import SMALL
from tests.web import PROXIES, free_port, page_alone, serving


def test_fifty_jobs_by_four_clients(tmp_path: Path):
    """Each client queues, cancels some, and asks; in the end every job is in the state that was asked for."""
    with page_alone(tmp_path / "runs", max_queue=50) as s:

        def work(k: int) -> list[tuple[str, str]]:
            c, mine = Client(s.url, verbose=False), []
            for n in range(13 if k < 2 else 12):
                (job,) = c.predict(f"key {k} {n}", settings=SMALL, api_name="/generate")
                wanted = "queued"
                if n % 3 == 0:
                    wanted = c.predict(job["id"], api_name="/cancel")["state"]
                    assert wanted == "cancelled"
                if n % 6 == 0:
                    wanted = c.predict(job["id"], api_name="/resume")["state"]
                mine.append((job["id"], wanted))
            return mine

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            wanted = dict(x for part in pool.map(work, range(4)) for x in part)
        assert len(wanted) == 50
        index = Index(s.runs)
        assert {j.id: j.state for j in index.list()} == wanted
        assert index.rescan() == 50 and {j.id: j.state for j in index.list()} == wanted


def wait_for(c: Client, id: str, states: tuple[str, ...], seconds: float = 150) -> dict[str, Any]:
    ends = time.monotonic() + seconds
    while (job := c.predict(id, api_name="/status"))["state"] not in states:
        assert time.monotonic() < ends, job
        time.sleep(0.3)
    return job


def test_proxies_are_out_of_the_way_only_while_the_page_starts(monkeypatch: pytest.MonkeyPatch):
    """Otherwise by `serving`, which starts the page beside proxies that answer nothing."""
    for name, value in PROXIES.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), without_proxies():
        assert not os.environ.keys() & PROXIES.keys() and "PATH" in os.environ
        1 / 0  # noqa: B018
    assert dict(os.environ) == before


def test_a_run_from_end_to_end_and_again(tmp_path: Path):
    with serving(tmp_path / "runs") as s:
        c = Client(s.url, verbose=False)
        (job,) = c.predict("a red mushroom", settings=SMALL, api_name="/generate")
        (other,) = c.predict("a blue mushroom", settings=SMALL, api_name="/generate")
        assert c.predict(other["id"], api_name="/cancel")["state"] == "cancelled"
        wait_for(c, job["id"], ("done",))
        result, glb = c.predict(job["id"], api_name="/result")
        mesh = read_glb(Path(glb))
        folder = s.runs / job["id"]
        assert len(mesh.faces) == result["mesh"]["faces"] and result["mesh"]["bytes"] == Path(glb).stat().st_size
        assert result["mesh"] == facts(folder) and isinstance(result["mesh"]["watertight"], bool)
        for name, address in result["files"].items():
            answer = httpx.get(s.url + address.lstrip("/"))
            assert answer.status_code == 200 and answer.content == (folder / name).read_bytes()
        part = httpx.get(s.url + result["files"]["turntable.mp4"].lstrip("/"), headers={"Range": "bytes=0-99"})
        assert part.status_code == 206 and len(part.content) == 100
        assert list((folder / "previews").glob("*.webp"))

        second = subprocess.run(
            [sys.executable, "-m", "app.cli", "serve", "--runs", str(s.runs), "--port", str(free_port())],
            capture_output=True,
            text=True,
        )
        assert second.returncode == 2 and "Another Polymode" in second.stderr and second.stderr.count("\n") == 1
        with pytest.raises(UsageError, match="choose another with --port"):
            run_serve(Serve(runs=tmp_path / "b", port=int(s.url.split(":")[2][:-1]), device="cpu"))
        # Ctrl-C in the middle of a run puts it back
        (last,) = c.predict("a green mushroom", settings={"field.steps": 5000}, method="sds", api_name="/generate")
        wait_for(c, last["id"], ("running",))
        assert s.process is not None
        s.process.send_signal(signal.SIGINT)
        assert s.process.wait(60) == 0
        assert Index(s.runs).get(last["id"]).state == "queued"
