"""Jobs: states and the index, on plain run folders."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.errors import UsageError, UserError
from app.jobs import state
from app.jobs.index import Index
from app.jobs.state import CANCELLED, CANCELLING, DONE, FAILED, QUEUED, RUNNING, new_job
from app.jobs.submit import submit
from app.jobs.supervisor import Slot, Supervisor
from app.run.folder import create_run
from tests.jobs import queued, tiny


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path / "runs")


def ids(index: Index, *states: str) -> list[str]:
    return [j.id for j in index.list(states or state.STATES)]


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
    (index.root / "job" / "mesh.glb").write_bytes(b"glTF")
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
    for bad in ("", "  ", "x" * 201, "a\x00b", "\x1b[2J", "\ud800"):
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
