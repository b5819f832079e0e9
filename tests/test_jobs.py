"""Jobs: states and the index on plain run folders; then workers and supervisors as processes that are killed,
cancelled, starved of disk and resumed, to the same bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.errors import UsageError, UserError
from app.jobs import state
from app.jobs.command import described
from app.jobs.index import NAME, Index
from app.jobs.state import CANCELLED, CANCELLING, DONE, FAILED, QUEUED, RUNNING, Job, new_job
from app.jobs.submit import submit
from app.jobs.supervisor import Slot, Supervisor
from app.recipes import Recipe, preset
from app.runs import create_run

FIT = 150  # steps of the fit: a checkpoint after 100


def tiny(fit: int = FIT, **changes: Any) -> Recipe:
    """A direct run of few seconds."""
    r = preset("draft")
    return dataclasses.replace(
        r,
        prompt="a red mushroom",
        method="direct",
        direct=dataclasses.replace(r.direct, steps=2, rounds=1, fit=fit, hull=32),
        texture=dataclasses.replace(r.texture, size=128),
        mesh=dataclasses.replace(r.mesh, faces=800),
        **changes,
    )


def queued(index: Index, name: str, recipe: Recipe | None = None, priority: int = 0, title: str = "") -> Job:
    recipe = recipe or tiny()
    return index.put(new_job(create_run(recipe, index.root / name), recipe, priority, title))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path / "runs")


def ids(index: Index, *states: str) -> list[str]:
    return [j.id for j in index.list(states or state.STATES)]


# --- states and the index --------------------------------------------------------------------------------------------


def test_the_first_is_the_most_urgent_then_the_oldest_and_of_a_device_that_is_asked(index: Index) -> None:
    queued(index, "old")
    queued(index, "new")
    queued(index, "urgent", priority=5)
    queued(index, "cuda", tiny(device="cuda"), priority=9)
    taken = [index.claim(("auto", "cpu"), 1234) for _ in range(4)]
    assert [c and c[0].id for c in taken] == ["urgent", "old", "new", None]
    for claimed in taken[:3]:
        assert claimed is not None
        job, handle = claimed
        assert (job.state, job.pid, job.attempts) == (RUNNING, 1234, 1) and index.get(job.id) == job
        assert state.held(index.root / job.id)
        state.unlock(handle)
        assert not state.held(index.root / job.id)


def test_a_queued_job_that_another_process_holds_does_not_block_the_queue(index: Index) -> None:
    for name in ("a", "b"):
        queued(index, name)
    with state.locked(index.root / "a") as mine:
        assert mine
        claimed = index.claim(("auto",), 1)
    assert claimed is not None and claimed[0].id == "b" and index.get("a").state == QUEUED
    state.unlock(claimed[1])


def test_cancel_queued_running_and_finished_jobs(index: Index) -> None:
    queued(index, "waits")
    assert index.cancel("waits").state == CANCELLED and index.claim(("auto",), 1) is None
    with pytest.raises(UsageError, match="is cancelled; there is nothing to cancel"):
        index.cancel("waits")
    queued(index, "runs")
    claimed = index.claim(("auto",), 1)
    assert claimed is not None and index.cancel("runs").state == CANCELLING
    asked = (index.root / "runs" / state.CANCEL).stat().st_mtime_ns
    assert index.cancel("runs").state == CANCELLING
    assert (index.root / "runs" / state.CANCEL).stat().st_mtime_ns == asked
    assert index.recover() == [], "its lock is held: it is alive"
    ended = index.end("runs", DONE, 0)  # it was faster
    assert ended.state == DONE and ended.pid is None and not state.cancel_asked(index.root / "runs")
    state.unlock(claimed[1])


def test_a_job_whose_worker_died_is_settled(index: Index) -> None:
    queued(index, "job")
    for attempt in (1, 2, 3):
        claimed = index.claim(("auto",), 1)
        assert claimed is not None and claimed[0].attempts == attempt
        assert index.recover() == []
        state.unlock(claimed[1])
        (settled,) = index.recover()
        assert settled.state == (QUEUED if attempt < 3 else FAILED)
    assert "died 3 times" in index.get("job").reason and index.claim(("auto",), 1) is None
    assert index.resume("job").attempts == 0
    claimed = index.claim(("auto",), 1)
    assert claimed is not None
    index.cancel("job")
    state.unlock(claimed[1])
    assert [j.state for j in index.recover()] == [CANCELLED] and not state.cancel_asked(index.root / "job")
    index.resume("job")
    claimed = index.claim(("auto",), 1)
    assert claimed is not None
    (index.root / "job" / "metadata.json").write_text('{"status": "done"}')
    state.unlock(claimed[1])
    assert [j.state for j in index.recover()] == [DONE]


def test_a_persons_own_run_that_was_killed_is_not_queued_behind_their_back(index: Index) -> None:
    index.put(dataclasses.replace(queued(index, "own"), state=RUNNING, pid=1))
    (settled,) = index.recover()
    assert settled.state == FAILED and "--resume" in settled.reason


def test_a_job_that_is_put_back_has_not_used_an_attempt(index: Index) -> None:
    queued(index, "job")
    for _ in range(5):
        claimed = index.claim(("auto",), 1)
        assert claimed is not None and claimed[0].attempts == 1
        assert index.release("job").state == QUEUED
        state.unlock(claimed[1])
    claimed = index.claim(("auto",), 1)
    assert claimed is not None
    index.cancel("job")
    assert index.release("job").state == CANCELLED
    state.unlock(claimed[1])


def test_the_index_can_be_deleted_at_any_time(index: Index) -> None:
    for k in range(4):
        queued(index, f"run-{k}", priority=k)
    index.cancel("run-1")
    claimed = index.claim(("auto",), 7)
    assert claimed is not None
    before = index.list()
    assert len(before) == 4 and {j.state for j in before} == {QUEUED, RUNNING, CANCELLED}
    for suffix in ("", "-wal", "-shm"):
        Path(f"{index.path}{suffix}").unlink(missing_ok=True)
    assert index.list() == before
    assert index.rescan() == 4 and index.list() == before
    index.path.unlink()
    second = index.claim(("auto",), 8)
    assert second is not None and second[0].id == "run-2"
    for _, handle in (claimed, second):
        state.unlock(handle)


def test_the_index_follows_what_happens_to_the_folders(index: Index) -> None:
    for name in ("stays", "goes", "changes"):
        queued(index, name)
    create_run(tiny(), index.root / "made-elsewhere")
    (index.root / "no-run").mkdir()
    (index.root / ".hidden").mkdir()
    (index.root / ".hidden" / "config.yaml").touch()
    shutil.move(index.root / "goes", index.root.parent / "goes")
    state.write_job(index.root / "changes", dataclasses.replace(index.get("changes"), title="changed"))
    index.sync()
    assert sorted(ids(index)) == ["changes", "made-elsewhere", "stays"]
    assert index.list(search="changed")[0].id == "changes"
    synced = index.list()
    assert index.rescan() == 3 and index.list() == synced


def test_a_damaged_index_is_one_sentence_and_rescan_mends_it(index: Index) -> None:
    queued(index, "run")
    before = index.list()
    index.path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(UsageError, match=r"cannot be used .* `polymode jobs rescan --runs .*`\.$"):
        index.list()
    assert index.rescan() == 1 and index.list() == before


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"title": 3, "state": "queued"}', '{"title": "x", "state": "queued", "created": "?"}'],
)
def test_a_damaged_job_json_is_one_sentence_and_resume_mends_it(index: Index, text: str) -> None:
    queued(index, "damaged")
    queued(index, "whole")
    (index.root / "damaged" / state.JOB).write_text(text)
    index.sync()
    job = index.get("damaged")
    assert job.state == FAILED and "job.json is damaged; `polymode jobs resume damaged` mends it." == job.reason
    assert ids(index, FAILED) == ["damaged"] and ids(index, QUEUED) == ["whole"]
    assert index.resume("damaged").state == QUEUED
    assert json.loads((index.root / "damaged" / state.JOB).read_text())["state"] == QUEUED


def test_runs_made_before_there_were_jobs_are_listed(index: Index) -> None:
    create_run(tiny(), index.root / "interrupted")
    run = create_run(tiny(), index.root / "complete")
    run.write_json("metadata.json", {"status": "done", "prompt": "a key", "method": "sds"})
    found = {j.id: j for j in index.list()}
    assert found["interrupted"].state == CANCELLED and found["interrupted"].reason == "It was interrupted."
    assert found["complete"].state == DONE and (found["complete"].title, found["complete"].method) == ("a key", "sds")
    assert index.resume("interrupted").state == QUEUED
    with pytest.raises(UsageError, match="is done; only cancelled and failed"):
        index.resume("complete")


def test_search_rename_and_trash(index: Index) -> None:
    queued(index, "a", title="Änderung 100%")
    queued(index, "b", title="a key_")
    assert [[j.id for j in index.list(search=s)] for s in ("ÄNDER", "%", "_", "Key", "z")] == [
        ["a"],
        ["a"],
        ["b"],
        ["b"],
        [],
    ]
    assert index.rename("b", "  a golden key ").title == "a golden key" and index.list(search="gold")[0].id == "b"
    for bad in ("", "  ", "x" * 201, "a\nb", "\x1b[2J", "\ud800"):
        with pytest.raises(UsageError, match="printable"):
            index.rename("b", bad)
    with pytest.raises(UsageError, match="cancel it first"):
        index.trash("b")
    index.cancel("b")
    gone = index.trash("b")
    assert gone.parent.name == ".trash" and (gone / "config.yaml").is_file() and ids(index) == ["a"]
    queued(index, "b")
    index.cancel("b")
    assert index.trash("b").name == "b-2"
    shutil.move(gone, index.root / "b")  # and back
    index.sync()
    assert index.get("b").title == "a golden key" and "b" in ids(index)


@pytest.mark.parametrize(
    "id", ["", ".", "..", "../x", "a/b", "/etc", ".trash", "x" * 10_000, "a\0b", "\ud800", "none"]
)
def test_only_names_of_runs_are_taken(index: Index, id: str) -> None:
    (index.root / ".trash").mkdir(parents=True)
    (index.root / ".trash" / "config.yaml").touch()
    for ask in (index.get, index.cancel, index.resume, index.trash):
        with pytest.raises(UsageError, match="There is no run"):
            ask(id)


def test_what_cannot_be_submitted_leaves_nothing(index: Index) -> None:
    for recipe, name in (
        (dataclasses.replace(tiny(), prompt=" "), ""),
        (tiny(), "../out"),
        (tiny(), ".x"),
        (tiny(), "x" * 300),
    ):
        with pytest.raises(UserError):
            submit(index, recipe, name=name)
    picture = index.root.parent / "picture.png"
    picture.write_bytes(b"no picture")
    with pytest.raises(UserError):
        submit(index, tiny(), [picture])
    assert submit(index, tiny(), name="one", max_queue=2).id == "one"
    assert submit(index, tiny(), name="one", max_queue=2).id == "one-2"
    with pytest.raises(UsageError, match="limit"):
        submit(index, tiny(), max_queue=2)
    with pytest.raises(UsageError, match="limit"):  # asked again when the job is written: others may be faster
        index.put(new_job(create_run(tiny(), index.root / "third"), tiny()), most=2)
    assert not (index.root / "third" / state.JOB).exists()
    assert sorted(p.name for p in index.root.iterdir() if p.name[0] != ".") == ["one", "one-2", "third"]


def client(root: Path, name: str, start: Any) -> None:
    index = Index(root)
    start.wait()
    for k in range(12):
        queued(index, f"{name}-{k}")
        if k % 3 == 0:
            index.cancel(f"{name}-{k}")
        if k == 6:
            index.rescan()


def test_four_clients_of_a_new_folder_lose_nothing(tmp_path: Path) -> None:
    forking = multiprocessing.get_context("fork")  # what torch has started is not used in them
    start = forking.Event()
    clients = [forking.Process(target=client, args=(tmp_path / "runs", f"c{k}", start)) for k in range(4)]
    for process in clients:
        process.start()
    start.set()
    for process in clients:
        process.join(120)
        assert process.exitcode == 0
    index = Index(tmp_path / "runs")
    assert len(ids(index, QUEUED)) == 32 and len(ids(index, CANCELLED)) == 16
    before = index.list()
    index.sync()
    assert index.list() == before and index.rescan() == 48 and index.list() == before


def test_half_written_files_go_and_nothing_else(tmp_path: Path) -> None:
    run = create_run(tiny(), tmp_path / "run")
    drafts = [run.folder / ".mesh.glb.123", run.folder / ".turntable.9.mp4", run.checkpoints / ".fuse1.77.safetensors"]
    kept = [run.folder / n for n in (".lock", ".heartbeat", ".cancel", ".job.55.json", "mesh.9.glb")]
    for path in drafts + kept:
        path.touch()
    state.sweep(run.folder)
    assert not any(p.exists() for p in drafts) and all(p.exists() for p in kept)


def test_one_supervisor_a_folder(index: Index) -> None:
    first = Supervisor(index.root, [Slot("cpu", 1)])
    with pytest.raises(UsageError, match="Another Polymode works on"):
        Supervisor(index.root, [Slot("cpu", 1)])
    first.run(lambda: True)
    Supervisor(index.root, [Slot("cpu", 1)]).run(lambda: True)
    mixed = Supervisor(index.root, [Slot("cuda", 0, 0), Slot("cpu", 1)])
    assert [mixed.devices(s) for s in mixed.slots] == [("auto", "cuda"), ("auto", "cpu")]
    mixed.run(lambda: True)


# --- processes -------------------------------------------------------------------------------------------------------


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


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
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
