"""`polymode batch`: a batch that is interrupted and goes on, a Ray cluster that loses a node."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from app.batch.command import run_batch
from app.batch.entries import WAITING, Entry, begin, match, refresh, take_up
from app.batch.lines import MAX_FILE, read_line, read_lines
from app.batch.options import Batch
from app.batch.ray_executor import Actor, RayExecutor, read_files, write_files
from app.batch.report import Report
from app.batch.table import Table, chosen, seconds_left
from app.errors import UsageError
from app.export.glb import read_glb
from app.jobs.index import Index
from app.jobs.state import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Job
from tests.drawn import exif, toadstool

TINY: dict[str, Any] = {
    "method": "direct",
    "direct": {"views": 4, "steps": 2, "rounds": 1, "fit": 5, "hull": 32},
    "texture.size": 128,
    "mesh.faces": 800,
}
HERE = Path()


def start(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "app.cli", "batch", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, **(env or {})}, **pipes)


def finish(process: subprocess.Popen[str], timeout: float = 200) -> tuple[int, str, str]:
    try:
        out, error = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, error = process.communicate()
        raise AssertionError(f"still running after {timeout} s:\n{out}\n{error}") from None
    return process.returncode, out, error


def write_lines(path: Path, rows: list[dict[str, Any] | str]) -> Path:
    text = "\n".join(r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def picture(path: Path, color: str) -> None:
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill=color)
    path.parent.mkdir(exist_ok=True)
    image.save(path)


def mesh_ok(path: Path) -> bool:
    mesh = read_glb(path)
    return 0 < len(mesh.faces) <= 800 and mesh.texture.shape == (128, 128, 3)


def refusal(path: Path, out: Path, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        run_batch(Batch(path, out, **options))
    return str(caught.value)


def test_files_that_are_no_batch_are_refused(tmp_path: Path) -> None:
    path, out = tmp_path / "p.jsonl", tmp_path / "out"
    assert "cannot be read" in refusal(path, out)
    assert "is a folder" in refusal(tmp_path, out)
    path.write_text(" \n\n")
    assert "is empty" in refusal(path, out)
    path.write_bytes(b'{"prompt": "a cow"}\n\0\n')
    assert "no UTF-8 text" in refusal(path, out)
    path.write_bytes(b"\xff\xfe")
    assert "no UTF-8 text" in refusal(path, out)
    os.truncate(path, MAX_FILE + 1)
    assert "limit is 10 MB" in refusal(path, out)
    path.write_text("{}\n" * 10_001)
    assert "limit is 10000" in refusal(path, out)
    os.mkfifo(tmp_path / "pipe")
    assert "no plain file" in refusal(tmp_path / "pipe", out)
    assert not out.exists()


def test_outputs_and_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", [{"prompt": "a cow"}])
    assert "is a file" in refusal(path, path)
    assert "cannot be made" in refusal(path, Path("/proc/polymode"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("precious")
    assert "would be replaced" in refusal(path, mine)
    assert [p.name for p in mine.iterdir()] == ["index.html"] and (mine / "index.html").read_text() == "precious"
    assert "--executor ray" in refusal(path, tmp_path / "out", address="auto")
    assert "--workers" in refusal(path, tmp_path / "out", workers=-1)
    assert "--cores-per-worker" in refusal(path, tmp_path / "out", executor="ray", cores_per_worker=0)


def test_a_second_batch_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    from app.jobs.supervisor import Supervisor

    path, root = write_lines(tmp_path / "p.jsonl", [{"prompt": "a cow"}]), tmp_path / "out"
    other = Supervisor(root, [])
    assert "Another Polymode works on" in refusal(path, root)
    other.run(lambda: True)


# lines and their runs


def done(index: Index, job: Job, to: str, code: int = 0) -> None:
    """Bring a queued job to an end, as a worker does."""
    claimed = index.claim(("auto",), os.getpid())
    assert claimed is not None and claimed[0].id == job.id
    (index.root / job.id / "mesh.glb").touch()
    index.end(job.id, to, code)
    os.close(claimed[1])


def entries_of(path: Path, root: Path) -> tuple[Index, list[Entry]]:
    index = Index(root)
    return index, take_up(index, read_lines(path))


def test_what_a_restart_runs_again(tmp_path: Path) -> None:
    rows: list[dict[str, Any] | str] = [{"prompt": p} for p in ("a cow", "a cow", "a car", "a key", "a cup")]
    path, root = write_lines(tmp_path / "p.jsonl", rows), tmp_path / "out"
    index, entries = entries_of(path, root)
    assert [e.state for e in entries] == ["waiting"] * 5
    for e in entries:
        begin(index, e)
    assert [e.id for e in entries] == ["0001-a-cow", "0002-a-cow", "0003-a-car", "0004-a-key", "0005-a-cup"]
    for e, to, code in zip(entries, (DONE, DONE, FAILED, FAILED, CANCELLED), (0, 0, 5, 6, 130), strict=True):
        assert e.job is not None
        done(index, e.job, to, code)
    _, again = entries_of(path, root)
    # a collapse would come again; a full disk and a cancelled run need not
    assert [e.state for e in again] == [DONE, DONE, FAILED, QUEUED, QUEUED]
    assert [e.id for e in again] == [e.id for e in entries]

    # a line in front moves the others, which keep their runs (equal ones in any order); a changed one gets a new run
    moved = write_lines(tmp_path / "p.jsonl", [{"prompt": "a hat"}, *rows[:4], {"prompt": "a cup", "seed": 1}])
    index, shifted = entries_of(moved, root)
    assert [e.id for e in shifted] == ["", "0002-a-cow", "0001-a-cow", "0003-a-car", "0004-a-key", ""]
    assert index.get("0005-a-cup").state == CANCELLED, "no line asks for it any more"
    begin(index, shifted[5])
    assert shifted[5].id == "0006-a-cup"

    # a finished run whose mesh is gone is made anew
    (root / "0002-a-cow" / "mesh.glb").unlink()
    _, last = entries_of(moved, root)
    assert [e.id for e in last][1:3] == ["0001-a-cow", ""]


def test_a_line_that_only_the_machine_refuses_keeps_its_sentence(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", [{"prompt": "a cow", "prior": "dreamer"}])
    index, (entry,) = entries_of(path, tmp_path / "out")
    begin(index, entry)
    assert entry.state == FAILED and "Unknown prior" in entry.reason and entry.exit_code == 2
    assert index.list() == [] and not list((tmp_path / "out").glob("0001*"))


def test_what_a_line_raises_takes_no_other_line_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture with a senseless EXIF tag is read; one at which a library breaks, and a damaged one, are sentences."""
    odd = exif((0x0112, 3, 1, b"\0\6"), (0x011A, 10, 1, struct.pack(">ii", -72, 1)))
    toadstool().save(tmp_path / "odd.jpg", exif=odd)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "noise.png").read_bytes()[:2000])
    broken: list[dict[str, Any] | str] = [{"image": "noise.png"}, {"image": "cut.png"}, "[" * 900 + "]" * 900]
    path, root = (
        write_lines(tmp_path / "p.jsonl", [{"image": "odd.jpg"}, *broken, {"prompt": "a cow"}]),
        tmp_path / "o",
    )

    def breaks(*_: Any) -> None:
        raise cv2.error("unknown\nerror")

    monkeypatch.setattr(cv2, "grabCut", breaks)
    for _ in range(2):  # and started again
        index, entries = entries_of(path, root)
        for e in entries:
            if e.state == WAITING:
                begin(index, e)
        assert [e.state for e in entries] == [QUEUED, FAILED, FAILED, FAILED, QUEUED]
        assert [e.exit_code for e in entries if e.error] == [1, 2, 2]
        for e in entries[1:4]:
            assert e.reason.isprintable() and e.reason.endswith("."), e.reason
        assert "error: unknown error" in entries[1].reason and "damaged PNG" in entries[2].reason
    monkeypatch.undo()
    index, entries = entries_of(path, root)
    begin(index, entries[1])
    assert "No object was found" in entries[1].reason, "as it is without the library's error"

    # the whole command, of nothing but such lines
    only = write_lines(tmp_path / "only.jsonl", broken)
    monkeypatch.setattr(cv2, "grabCut", breaks)
    for _ in range(2):
        assert run_batch(Batch(only, tmp_path / "only")) == 1
        summary = json.loads((tmp_path / "only" / "summary.json").read_text())
        assert summary["counts"]["failed"] == 3 and summary["status"] == "done"
    assert "3 failed" in capsys.readouterr().out


def test_notes_about_pictures_are_in_the_summary(tmp_path: Path) -> None:
    toadstool().save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    path, root = write_lines(tmp_path / "p.jsonl", [{"image": "phone.jpg"}]), tmp_path / "out"
    index, (entry,) = entries_of(path, root)
    begin(index, entry)
    assert entry.job is not None
    posed = json.loads((root / entry.id / "pictures" / "pictures.json").read_text())
    notes = [f"{p['source']}: {n}" for p in posed for n in p["notes"]]  # as a run keeps them
    (root / entry.id / "metadata.json").write_text(json.dumps({"mesh": {"faces": 7}, "notes": notes}))
    done(index, entry.job, DONE)
    refresh(index, entry)
    report = Report(root, path)
    row = report.row(entry)
    assert row["faces"] == 7 and row["notes"] == "phone.jpg: The file holds 2 pictures, of which the first is used."
    assert row["notes"] in report.card(row)


def test_duplicates_keep_their_own_folders() -> None:
    a, b = (read_line(k, '{"prompt": "a cow"}', HERE) for k in (1, 2))
    jobs = [Job(f"000{k}-a-cow", "a cow", s, group=f"line {a.identity}") for k, s in ((1, RUNNING), (2, DONE))]
    assert {k: j.id for k, j in match([a, b], jobs).items()} == {1: "0001-a-cow", 2: "0002-a-cow"}
    assert match([a], jobs)[1].id == "0002-a-cow", "finished first"


def test_the_time_left_follows_what_was_measured() -> None:
    entries = [Entry(read_line(k, '{"prompt": "a cow", "method": "direct"}', HERE)) for k in range(1, 5)]
    assert seconds_left(entries, 2) is None
    now = time.time()
    entries[3].job = Job("4", "a", RUNNING, started=now - 900)  # resumed: its seconds are no measure
    entries[3].status = {"stage": "sample", "step": 0, "steps": 9, "eta": 20.0}
    assert seconds_left(entries, 1) == pytest.approx(80)
    entries[3].job = entries[3].status = None
    entries[0].job, entries[0].fresh = Job("1", "a", DONE, started=now - 30, ended=now - 20), True
    assert seconds_left(entries, 1) == pytest.approx(30)
    assert seconds_left(entries, 2) == pytest.approx(15)
    assert seconds_left(entries, 9) == pytest.approx(10)
    entries[1].job, entries[1].fresh = Job("2", "a", RUNNING, started=now - 5), True
    entries[1].status = {"stage": "texture", "step": 0, "steps": 4, "eta": None}
    assert 0 < entries[1].share() < 1


def test_the_table_redraws_in_place_and_fits(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [Entry(read_line(k, '{"prompt": "a cow"}', HERE)) for k in range(1, 101)]
    entries[40].job = Job("0041-a-cow", "a cow", RUNNING, started=time.time())
    entries[70] = Entry(read_line(71, "\x1b[2J{", HERE))
    shown = chosen(entries, 10)
    assert len(shown) == 10 and entries[40] in shown and entries[70] in shown
    table = Table(entries, terminal=True)
    table.draw(1)
    first = capsys.readouterr().err
    table.draw(1, last=True)
    second = capsys.readouterr().err
    assert second.startswith(f"\x1b[{first.count(chr(10))}F") and "0041-a-cow" in second
    assert "\x1b[2J" not in first + second and "100 lines: 0 done, 1 failed, 1 running, 98 waiting" in second


# processes


Meshes = dict[str, tuple[int, bytes]]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Meshes]:
    """A batch that was interrupted when something was done and something was not: (file, folder, what was done)."""
    folder = tmp_path_factory.mktemp("batch")
    picture(folder / "pictures" / "disc.png", "red")
    rows: list[dict[str, Any] | str] = [
        {"prompt": "a red mushroom", **TINY},
        {"prompt": "a barrel", **TINY, "method": "magic"},
        "",
        {"prompt": 'a <b>"wooden"</b> barrel & co', **TINY},
        "{oops</td><script>alert(1)</script>",
        {"prompt": "a red mushroom", **TINY},
        {"image": "pictures/disc.png", **TINY},
    ]
    path, out = write_lines(folder / "prompts.jsonl", rows), folder / "out"
    process = start(str(path), "--out", str(out), "--workers", "1", "--threads", "1")
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        summary = out / "summary.json"
        if summary.is_file() and json.loads(summary.read_text())["counts"]["done"] >= 1:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, _, error = finish(process)
    assert code == 130 and "goes on" in error and "Traceback" not in error, error
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "interrupted" and 1 <= summary["counts"]["done"] < 4
    assert not {j.state for j in Index(out).list()} & {RUNNING, "cancelling"}
    return path, out, glbs(out)


@pytest.fixture(scope="module")
def resumed(interrupted: tuple[Path, Path, Meshes]) -> tuple[int, str, str]:
    """The same command again, and what it printed."""
    path, out, _ = interrupted
    return finish(start(str(path), "--out", str(out), "--workers", "2", "--threads", "1", "--json"))


def glbs(out: Path) -> Meshes:
    return {p.parent.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(out.glob("*/mesh.glb"))}


def test_an_interrupted_batch_goes_on_and_runs_nothing_again(
    interrupted: tuple[Path, Path, Meshes], resumed: tuple[int, str, str]
) -> None:
    _, out, before = interrupted
    names = {"0001-a-red-mushroom", "0004-a-b-wooden-b-barrel-co", "0006-a-red-mushroom", "0007-disc"}
    assert before and set(before) < names
    code, printed, error = resumed
    assert code == 1, error
    after = glbs(out)
    assert set(after) == names and all(mesh_ok(out / n / "mesh.glb") for n in names)
    assert {k: v for k, v in after.items() if k in before} == before, "finished runs stay as they are"
    assert after["0001-a-red-mushroom"][1] == after["0006-a-red-mushroom"][1], "the same line, the same bytes"

    summary = json.loads(printed)
    assert summary == json.loads((out / "summary.json").read_text()) and summary["status"] == "done"
    assert summary["counts"] == {"done": 4, "failed": 2, "cancelled": 0, "running": 0, "waiting": 0}
    runs = {r["line"]: r for r in summary["runs"]}
    assert list(runs) == [1, 2, 4, 5, 6, 7] and {r["folder"] for r in runs.values() if r["folder"]} == names
    assert "magic" in runs[2]["reason"] and "not JSON" in runs[5]["reason"] and runs[2]["exit_code"] == 2
    assert all(r["seconds"] > 0 and 0 < r["faces"] <= 800 for r in runs.values() if r["state"] == DONE)
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(int(r["line"]), r["state"]) for r in table] == [(k, r["state"]) for k, r in runs.items()]
    assert "5/6" in error and "6/6" in error and "left" in error and "Traceback" not in error


class Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_gallery_links_to_files_that_are_there_and_escapes_what_was_given(
    interrupted: tuple[Path, Path, Meshes], resumed: tuple[int, str, str]
) -> None:
    _, out, _ = interrupted
    page = Links()
    page.feed((out / "index.html").read_text(encoding="utf-8"))
    assert not {"script", "b"} & set(page.tags) and page.tags.count("article") == page.tags.count("img") == 4
    assert 'a <b>"wooden"</b> barrel & co' in page.text and "{oops</td><script>alert(1)</script>" in page.text
    assert "Unknown method 'magic'" in page.text
    assert len(page.links) >= 4 * 5 and all((out / link).is_file() for link in page.links)
    with Image.open(out / "thumbnails" / "0007-disc.webp") as image:
        assert image.width == 360


def test_a_changed_line_gets_a_new_folder(
    interrupted: tuple[Path, Path, Meshes], resumed: tuple[int, str, str]
) -> None:
    path, out, _ = interrupted
    before = glbs(out)
    text = path.read_text(encoding="utf-8").splitlines()
    changed = json.loads(text[0]) | {"seed": 1}
    code, _, error = finish(start(str(write_lines(path, [changed, *text[1:]])), "--out", str(out)))
    after = glbs(out)
    assert code == 1, error
    assert set(after) - set(before) == {"0001-a-red-mushroom-2"} and mesh_ok(
        out / "0001-a-red-mushroom-2" / "mesh.glb"
    )
    assert {k: v for k, v in after.items() if k in before} == before
    assert after["0001-a-red-mushroom-2"][1] != after["0001-a-red-mushroom"][1]


def test_without_ray_the_ray_executor_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('there is no Ray here')")
    path = write_lines(tmp_path / "p.jsonl", [{"prompt": "a cow"}])
    out = str(tmp_path / "out")
    code, _, error = finish(start(str(path), "--out", out, "--executor", "ray", env={"PYTHONPATH": str(tmp_path)}))
    assert code == 3 and error.count("\n") == 1 and "pip install '.[ray]'" in error


# Ray


def test_files_of_a_run_travel_and_none_leaves_its_folder(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    (a / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/field.safetensors", "job.json", ".lock", "metadata.json"):
        (a / name).write_text(name)
    known: dict[str, tuple[int, int]] = {}
    files = read_files(a, known)
    assert set(files) == {"config.yaml", "checkpoints/field.safetensors", "metadata.json"}
    write_files(b, files)
    assert (b / "checkpoints" / "field.safetensors").read_text() == "checkpoints/field.safetensors"
    assert read_files(a, known) == {}
    (a / "metadata.json").write_text("other")
    assert read_files(a, known) == {"metadata.json": b"other"}
    for name in ("../x", "/tmp/x", "a/../../x", ".lock", ""):
        with pytest.raises(ValueError, match="no name"):
            write_files(b, {name: b""})
    assert not (tmp_path / "x").exists()


def test_what_comes_of_one_actors_job_takes_no_other(tmp_path: Path) -> None:
    """Without a cluster: what the driver does of itself."""
    path, root = write_lines(tmp_path / "p.jsonl", [{"prompt": p} for p in ("a cow", "a cup")]), tmp_path / "out"
    index, entries = entries_of(path, root)
    for e in entries:
        begin(index, e)
    driver = RayExecutor.__new__(RayExecutor)
    driver.index, driver.root, driver.actors = index, root, []
    claimed = index.claim(("auto",), os.getpid())
    assert claimed is not None
    driver.actors = [Actor(None, None, ready=True, job=claimed[0], lock=claimed[1])]
    with pytest.raises(ValueError, match="no name") as caught:
        driver._take(driver.actors[0], dataclasses.asdict(claimed[0]), {"../x": b""})
    driver._spoilt(driver.actors[0], caught.value)
    assert driver.actors == [] and [index.get(e.id).state for e in entries] == [FAILED, QUEUED]
    assert "no name" in index.get(entries[0].id).reason and not (root / "x").exists()
    with pytest.raises(UsageError):  # what is not of a job stays an error of the whole
        driver._spoilt(Actor(None, None, ready=True), UsageError("the index"))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    cluster.shutdown()


def test_a_ray_cluster_loses_a_node_in_the_middle_of_a_job_and_no_line(cluster: Any, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    long = {**TINY, "direct": {**TINY["direct"], "fit": 300}}
    rows: list[dict[str, Any] | str] = [{"prompt": p, **long} for p in ("a red mushroom", "a barrel")]
    rows.append({"prompt": "a pumpkin", **TINY})
    path, out = write_lines(tmp_path / "p.jsonl", rows), tmp_path / "out"
    ray = ["--executor", "ray", "--address", cluster.address, "--cores-per-worker", "1", "--json"]
    process = start(str(path), "--out", str(out), *ray)
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None and not at_work(out):
        time.sleep(0.05)
    assert at_work(out), "two jobs at once, with progress that came back"
    cluster.remove_node(nodes[0], allow_graceful=False)
    code, printed, error = finish(process)
    assert code == 0, error
    summary = json.loads(printed)
    assert summary["counts"]["done"] == 3 and len(list(out.glob("*/mesh.glb"))) == 3
    assert all(mesh_ok(out / r["folder"] / "mesh.glb") for r in summary["runs"])
    assert sorted(r["attempts"] for r in summary["runs"]) == [1, 1, 2], "one job was run again"
    assert "was lost" in error and "raylet" not in printed
    for r in summary["runs"]:
        folder = out / r["folder"]
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        resumed = [e["stage"] for e in events if e["event"] == "resumed"]
        assert resumed[:1] == (["sample"] if r["attempts"] == 2 else []), "from the checkpoint that had come back"
        assert Image.open(folder / "contact_sheet.png").width > 1000 and (folder / "turntable.mp4").stat().st_size
        assert json.loads((folder / "metadata.json").read_text())["status"] == "done"


def at_work(out: Path) -> bool:
    """Whether two jobs are in their second stage, with the first one's checkpoint here, and none is done."""
    begun = [p.parent for p in out.glob("*/progress.json") if json.loads(p.read_text())["stage"] == "fuse1"]
    kept = [p for p in begun if (p / "checkpoints" / "sample.safetensors").is_file()]
    return len(kept) == 2 and not list(out.glob("*/mesh.glb"))
