"""Jobs as processes: workers, supervisors and the command line, killed, cancelled, starved of disk and resumed, to the
same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.jobs import state
from app.jobs.command import described
from app.jobs.index import NAME, Index
from app.jobs.state import CANCELLED, CANCELLING, DONE, FAILED, QUEUED
from app.jobs.submit import submit
from app.run.folder import create_run
from tests.jobs import queued, tiny


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path / "runs")


def cli(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "app.cli", *map(str, arguments)]


def polymode(*arguments: object, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(cli(*arguments), capture_output=True, text=True, timeout=240, **options)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done


Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """`polymode jobs ARGUMENTS` in this process: its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["jobs", *map(str, arguments)])
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def wait_for(what: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first true value of `what()`, which is asked fifty times a second."""
    until = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)
    return value


@contextlib.contextmanager
def working(root: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`polymode jobs work`, ended at the end."""
    process = subprocess.Popen(cli("jobs", "work", "--runs", root), stderr=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def at_work(root: Path, id: str, file: str) -> int:
    """The pid of the job's worker, when that has written `file`."""
    wait_for((root / id / file).is_file)
    return wait_for(lambda: (state.read_json(root / id / state.JOB) or {}).get("pid"))


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int, name: str) -> list[int]:
    """Processes of the worker's session with `name` on their command line."""
    out = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            session = int((path / "stat").read_text().rsplit(")", 1)[1].split()[3])
            if session == pid and name in (path / "cmdline").read_text():
                out.append(int(path.name))
    return out


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """mesh.glb of a run that nothing interrupted, in the foreground, in a folder without an index."""
    root = tmp_path_factory.mktemp("reference")
    create_run(tiny(), root / "run")
    polymode("generate", "--resume", root / "run")
    assert state.read_json(root / "run" / state.JOB) is not None and not (root / NAME).exists()
    job = Index(root).get("run")
    assert (job.state, job.exit_code, job.attempts, job.title) == (DONE, 0, 0, "a red mushroom")
    return (root / "run" / "mesh.glb").read_bytes()


def test_killed_workers_and_supervisors_cost_no_byte(index: Index, reference: bytes) -> None:
    root = index.root
    submit(index, tiny(), name="job")
    supervisor = subprocess.Popen(cli("jobs", "work", "--runs", root), stderr=subprocess.DEVNULL)
    first = at_work(root, "job", "checkpoints/fuse1.safetensors")
    os.kill(first, signal.SIGKILL)
    second = wait_for(lambda: (pid := index.get("job").pid) != first and pid)
    assert index.get("job").attempts == 2
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not alive(second))
    put_back = index.get("job")
    assert (put_back.state, put_back.attempts, put_back.pid) == (QUEUED, 1, None)
    worked = polymode("jobs", "work", "--runs", root, "--json")
    assert [j["state"] for j in json.loads(worked.stdout)] == [DONE] and "job: done after" in worked.stderr
    assert (root / "job" / "mesh.glb").read_bytes() == reference
    events = [json.loads(line) for line in (root / "job" / "events.jsonl").read_text().splitlines()]
    assert {"resumed", "done"} <= {e["event"] for e in events}
    assert any(e["event"] == "resumed" and e["stage"] == "fuse1" and e["step"] >= 100 for e in events)
    assert (root / "job" / state.HEARTBEAT).stat().st_mtime > put_back.started  # type: ignore[operator]


def test_cancel_frees_the_cpu_and_the_run_goes_on_to_the_same_bytes(index: Index, reference: bytes) -> None:
    root = index.root
    submit(index, tiny(), name="job")
    queued(index, "broken", priority=1)
    (root / "broken" / "config.yaml").write_text("prompt: [")
    with working(root):
        worker = at_work(root, "job", "previews/fuse1-00001.png")
        broken = index.get("broken")
        assert broken.state == FAILED and broken.exit_code == 2 and "is not a Polymode recipe" in broken.reason
        began = time.monotonic()
        index.cancel("job")
        wait_for(lambda: index.get("job").state == CANCELLED)
        assert time.monotonic() - began < 2

        def calm() -> bool:
            before = cpu_seconds(worker)
            time.sleep(0.3)
            return cpu_seconds(worker) - before < 0.1

        wait_for(calm, 2)
    assert "--resume" in index.get("job").reason and not (root / "job" / "mesh.glb").exists()
    polymode("generate", "--resume", root / "job")
    assert index.get("job").state == DONE and (root / "job" / "mesh.glb").read_bytes() == reference


def test_a_worker_that_cannot_stop_is_ended_with_its_children(index: Index) -> None:
    submit(index, tiny(fit=2), name="job")
    with working(index.root):
        worker = wait_for(lambda: index.get("job").pid)
        (xatlas,) = wait_for(lambda: children(worker, "xatlas_worker"))
        os.kill(xatlas, signal.SIGSTOP)  # as slow as can be
        index.cancel("job")
        wait_for(lambda: index.get("job").state == CANCELLED, 10)
        wait_for(lambda: not alive(worker) and not alive(xatlas), 10)
    job = index.get("job")
    assert job.exit_code == 130 and "polymode jobs resume job" in job.reason


def test_a_full_disk_ends_the_run_with_6_and_loses_nothing(index: Index, reference: bytes) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    root = index.root
    submit(index, tiny(), name="job")
    polymode("jobs", "work", "--runs", root, preexec_fn=small_files)
    job = index.get("job")
    assert job.state == FAILED and job.exit_code == 6, job
    assert "cannot be written (File too large). Make room" in job.reason and "\n" not in job.reason
    again = polymode("generate", "--resume", root / "job", code=6, preexec_fn=small_files)
    assert again.stderr.strip().splitlines()[-1].startswith("polymode: ") and "Make room" in again.stderr
    assert index.get("job").exit_code == 6 and not list((root / "job" / "checkpoints").glob(".*"))
    polymode("generate", "--resume", root / "job")
    assert (root / "job" / "mesh.glb").read_bytes() == reference


def test_a_full_disk_can_be_looked_at(index: Index) -> None:
    def no_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    queued(index, "one")
    listed = polymode("jobs", "list", "--runs", index.root, "--json", preexec_fn=no_files)
    assert [(j["id"], j["state"]) for j in json.loads(listed.stdout)] == [("one", QUEUED)]
    refused = polymode("jobs", "cancel", "one", "--runs", index.root, code=6, preexec_fn=no_files)
    assert refused.stderr.count("\n") == 1 and "make room" in refused.stderr
    assert index.get("one").state == QUEUED and index.cancel("one").state == CANCELLED


def test_a_run_in_a_terminal_is_listed_and_cancelled_from_another(index: Index, said: Said) -> None:
    root = index.root
    queued(index, "other")
    create_run(tiny(fit=5000), root / "mine")
    process = subprocess.Popen(cli("generate", "--resume", root / "mine"), stderr=subprocess.PIPE, text=True)
    at_work(root, "mine", "previews/fuse1-00001.png")
    listed = json.loads(said("list", "--runs", root, "--state", "running", "--json")[1])
    assert [(j["id"], j["title"], j["pid"]) for j in listed] == [("mine", "a red mushroom", process.pid)]
    assert "is at work already" in polymode("generate", "--resume", root / "mine", code=2).stderr
    assert "cancelling" in polymode("jobs", "cancel", "mine", "--runs", root).stdout
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130 and "Cancelled at step" in stderr, stderr
    shown = json.loads(said("show", "mine", "--runs", root, "--json")[1])
    assert shown["state"] == CANCELLED and shown["exit_code"] == 130 and shown["pid"] is None
    code, _, error = said("cancel", "mine", "--runs", root)
    assert code == 2 and "nothing to cancel" in error


def test_a_run_in_a_terminal_that_cannot_stop_is_interrupted(index: Index) -> None:
    queued(index, "mine", tiny(fit=2))
    command = cli("generate", "--resume", index.root / "mine")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    (xatlas,) = wait_for(lambda: children(process.pid, "xatlas_worker"))
    os.kill(xatlas, signal.SIGSTOP)
    assert index.cancel("mine").state == CANCELLING
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130 and stderr.endswith("polymode: Interrupted.\n") and not alive(xatlas)
    job = index.get("mine")
    assert job.state == CANCELLED and job.exit_code == 130
    assert index.resume("mine").state == QUEUED and not state.cancel_asked(index.root / "mine")


def test_the_commands(index: Index, said: Said) -> None:
    root = index.root
    for name in ("one", "two"):
        queued(index, name)
    assert said("cancel", root / "one", "--runs", root) == (0, "one: cancelled\n", "")
    code, out, _ = said("resume", "one", "--runs", root)
    assert code == 0 and "queued" in out and index.get("one").state == QUEUED
    assert said("open", "one", "--runs", root) == (0, f"{(root / 'one').resolve()}\n", "")
    index.path.write_bytes(b"damaged" * 999)
    code, _, error = said("list", "--runs", root)
    assert code == 2 and "polymode jobs rescan" in error
    code, out, _ = said("rescan", "--runs", root, "--json")
    assert code == 0 and json.loads(out) == {"runs": 2}
    table = polymode("jobs", "--runs", root).stdout.splitlines()
    assert [line.split()[0] for line in table] == ["queued", "queued"] and "two" in table[0] and "one" in table[1]
    assert described(index, "two")["files"] == {"config.yaml": str(root / "two" / "config.yaml")}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("show", "none"), "There is no run 'none'"),
        (("cancel",), "Say which run"),
        (("rescan", "one"), "takes no ID"),
        (("work", "--workers", "0"), "0 workers"),
        (("list", "--runs", "nowhere"), "There is no folder nowhere"),
    ],
)
def test_commands_that_make_no_sense(index: Index, said: Said, words: tuple[str, ...], sentence: str) -> None:
    queued(index, "one")
    code, out, error = said(*words, *(() if "--runs" in words else ("--runs", index.root)))
    assert code == 2 and not out and sentence in error
    assert error.startswith("polymode: ") and error.endswith(".\n") and error.count("\n") == 1


def test_a_worker_ends_when_it_is_idle_and_when_its_parent_is_gone(index: Index) -> None:
    index.list()
    worker = [sys.executable, "-m", "app.jobs.worker", "--root", str(index.root)]
    assert subprocess.run([*worker, "--idle", "0.1"], timeout=60).returncode == 0
    assert subprocess.run([*worker, "--idle", "9999", "--parent", "1"], timeout=60).returncode == 0
