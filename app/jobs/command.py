"""`polymode jobs`: the runs of a folder, from the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from app.errors import DiskError, UsageError
from app.jobs import state
from app.jobs.index import Index
from app.jobs.options import Jobs
from app.jobs.state import Job
from app.run.folder import OUTPUTS
from app.run.signals import stop_signals
from app.text import to_json

MOST_LISTED = 1_000_000


def run_jobs(a: Jobs) -> int:
    """The command's body. Returns the exit code."""
    needs = a.action in ("show", "cancel", "resume", "open")
    if needs and not a.id:
        raise UsageError(f"Say which run: `polymode jobs {a.action} ID`; `polymode jobs list` shows them.")
    if not needs and a.id:
        raise UsageError(f"`polymode jobs {a.action}` takes no ID; leave {a.id!r} out.")
    if not 0 <= a.limit <= MOST_LISTED:
        raise UsageError(f"--limit {a.limit} is out of range; use 0 to {MOST_LISTED}.")
    if a.action != "work" and not a.runs.is_dir():
        raise UsageError(f"There is no folder {a.runs}; give the folder of your runs with --runs.")
    index = Index(a.runs)
    if a.action == "rescan":
        return _say(a, {"runs": index.rescan()}, lambda v: f"{v['runs']} runs in {a.runs}")
    index.sync()
    with contextlib.suppress(DiskError):  # a list can be read from a full disk too
        index.recover()
    id = Path(a.id.rstrip("/")).name if a.id else ""
    if a.action == "list":
        return _list(a, index)
    if a.action == "show":
        return _say(a, described(index, id), _show)
    if a.action == "cancel":
        return _say(a, dataclasses.asdict(index.cancel(id)), lambda v: f"{v['id']}: {v['state']}")
    if a.action == "resume":
        text = "queued; a running `polymode serve` takes it, or `polymode jobs work`"
        return _say(a, dataclasses.asdict(index.resume(id)), lambda v: f"{v['id']}: {text}")
    if a.action == "open":
        return _open(index.folder(id))
    return _work(a, index)


def _say(a: Jobs, value: dict[str, Any], text: Any) -> int:
    if a.json:
        _print(value)
    else:
        sys.stdout.write(text(value) + "\n")
    return 0


def _print(value: Any, indent: int | None = 1) -> None:
    sys.stdout.write(to_json(value, indent, sys.stdout.encoding) + "\n")


def described(index: Index, id: str) -> dict[str, Any]:
    """A job, where it is, and its files."""
    folder = index.folder(id)
    job = dataclasses.asdict(index.get(id))
    progress = state.read_json(folder / state.PROGRESS) if job["state"] in state.ACTIVE else None
    files = {n: str(folder / n) for n in OUTPUTS if (folder / n).is_file()}
    notes = state.notes(folder, job["state"])
    return job | {"folder": str(folder), "progress": progress, "notes": notes, "files": files}


def duration(job: Job) -> str:
    """Seconds that a run has taken, or nothing for one that waits."""
    if job.started is None or job.state == state.QUEUED:
        return ""
    return f"{(job.ended or time.time()) - job.started:.0f} s"


def _list(a: Jobs, index: Index) -> int:
    jobs = index.list(state.STATES if a.state == "all" else (a.state,), a.search, a.limit)
    if a.json:
        _print([dataclasses.asdict(j) for j in jobs])
        return 0
    for j in jobs:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(j.created))
        sys.stdout.write(f"{j.state:<10} {when}  {duration(j):>6}  {j.method:<8} {j.id}  {j.title}\n")
    if not jobs:
        sys.stdout.write(f"No runs in {a.runs}.\n")
    return 0


def _show(v: dict[str, Any]) -> str:
    when = {
        k: time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(v[k])) for k in ("created", "started", "ended") if v[k]
    }
    lines = [f"{v['title']}  ({v['kind']}, {v['method']})", f"state: {v['state']}"]
    if v["reason"]:
        lines.append(v["reason"])
    if p := v["progress"]:
        left = "" if p["eta"] is None else f", about {p['eta']:.0f} s left"
        lines.append(f"stage {p['number']}/{p['stages']} {p['stage']}: step {p['step']}/{p['steps']}{left}")
    lines += v["notes"]
    lines += [f"{k}: {t}" for k, t in when.items()] + [f"folder: {v['folder']}"] + list(v["files"].values())
    return "\n".join(lines)


def _open(folder: Path) -> int:
    """Print the folder, and show it in the desktop's file manager where there is one."""
    sys.stdout.write(f"{folder.resolve()}\n")
    if os.name == "nt":
        os.startfile(folder)  # pyright: ignore[reportAttributeAccessIssue]
        return 0
    opener = shutil.which("open" if sys.platform == "darwin" else "xdg-open")
    if opener and (sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        subprocess.Popen([opener, str(folder.resolve())], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return 0


def _work(a: Jobs, index: Index) -> int:
    """Run the queue until it is empty, and say of each run what became of it."""
    from app.jobs.supervisor import Supervisor, empty, slots

    supervisor = Supervisor(a.runs, slots(a.workers), idle=5.0)
    seen: dict[str, str] = {}
    trouble = ""

    def over() -> bool:
        nonlocal trouble
        news = {j.id: j for j in index.list((state.QUEUED, *state.ACTIVE))}
        for id in seen.keys() - news.keys():
            with contextlib.suppress(UsageError):  # moved away meanwhile
                news[id] = index.get(id)
        for id, job in news.items():
            if seen.get(id, state.QUEUED) != job.state:
                what = f" after {duration(job)}" if job.state == state.DONE else job.reason and f": {job.reason}"
                sys.stderr.write(f"{id}: {job.state}{what}\n")
            seen[id] = job.state
        for id in [id for id, s in seen.items() if s in state.FINISHED]:
            done.append(id)
            del seen[id]
        if supervisor.trouble != trouble:
            trouble = supervisor.trouble
            sys.stderr.write(f"{trouble or 'It goes on.'}\n")
        if trouble and not any(s in state.ACTIVE for s in seen.values()):
            index.check_writable()
        return empty(index) or supervisor.stuck()

    done: list[str] = []
    with stop_signals(lambda *_: supervisor.stop()) as interrupted:
        supervisor.run(over)
    if a.json:
        _print([dataclasses.asdict(index.get(id)) for id in done], None)
    if supervisor.stuck():
        raise UsageError(supervisor.trouble)
    return 130 if interrupted() else 0
