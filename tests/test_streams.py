"""Streams whose reader is gone, or whose encoding is narrow; names that are no text; a terminal that is closed in the
middle of a run: nothing of it ends a command, or changes its exit code."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest

from app.batch.report import Report
from app.compare.cells import Made, load_made, save_made
from app.errors import UsageError
from app.jobs import state
from app.jobs.index import Index
from app.recipe_yaml import load_recipe
from app.recipes import Recipe
from app.run.folder import Run, create_run
from app.streams import Stream
from app.web.site import Site
from tests.jobs import queued, tiny

ROOT = Path(__file__).parents[1]
CLI = [sys.executable, "-m", "app.cli"]
# a locale without an encoding to speak of, and Python told not to help itself
C_LOCALE = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LC_ALL": "C", "HOME": os.environ.get("HOME", "/")}
C_LOCALE |= {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
ODD = os.fsdecode(b"b\xff: #50%")  # no UTF-8, a colon, what addresses take for their own
posix = pytest.mark.skipif(os.name == "nt", reason="descriptors and terminals of POSIX")


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                os.close(end)


def text_to(descriptor: int, encoding: str = "utf-8", forgiving: bool = False) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(Stream(descriptor, forgiving)), encoding, "polymode", line_buffering=True
    )


def test_a_stream_whose_reader_is_gone_takes_everything() -> None:
    with pipe() as (read, write):
        out = text_to(write)
        print("a", file=out)
        assert os.read(read, 9) == b"a\n"
        os.close(read)
        for _ in range(3):
            print("b" * 100_000, file=out)
        out.close()
        os.write(write, b"native code writes too")


def test_a_full_disk_is_an_error_of_stdout_alone() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError) as caught:
            Stream(full, forgiving=False).write(b"a")
        assert caught.value.errno == errno.ENOSPC
        assert Stream(full, forgiving=True).write(b"abc") == 3
        os.write(full, b"and nothing after it")
    finally:
        os.close(full)


@pytest.mark.parametrize(
    ("encoding", "text", "wanted"),
    [
        ("ascii", "a… · 5° é 蘑", b"a... - 5 deg \\xe9 \\u8611"),
        ("ascii", "x\udcffy", b"x\xffy"),
        ("utf-8", "x\udcffy…", b"x\xff" + "y…".encode()),
        ("latin-1", "5° é 蘑", "5° é ".encode("latin-1") + b"\\u8611"),
    ],
)
def test_every_text_can_be_written_in_every_encoding(encoding: str, text: str, wanted: bytes) -> None:
    with pipe() as (read, write):
        print(text, file=text_to(write, encoding))
        assert os.read(read, 999) == wanted + b"\n"


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = ["bash", "-c", f'polymode() {{ {sys.executable} -m app.cli "$@"; }}; {script}']
    return subprocess.run(command, capture_output=True, timeout=120, env=os.environ | environment)


@posix
def test_readers_that_leave_end_nothing_and_change_no_exit_code(tmp_path: Path) -> None:
    for n in range(3):
        queued(Index(tmp_path), f"run-{n}")
    jobs = f"jobs --runs {tmp_path}"
    said = shell(
        "polymode --help | head -1; echo ${PIPESTATUS[0]};"
        f" polymode {jobs} | head -0; echo ${{PIPESTATUS[0]}};"
        f" polymode {jobs} <&- >&- 2>&- ; echo $?;"
        " polymode jobs show nobody --runs /nowhere 2>&1 >&- | head -0; echo ${PIPESTATUS[0]}"
    )
    assert said.stderr == b"", "no traceback, and no 'Exception ignored' of the interpreter's end"
    lines = said.stdout.decode().splitlines()
    assert lines[0].startswith("usage:") and lines[1:] == ["0", "0", "0", "2"]


@posix
def test_output_that_cannot_be_kept_is_said() -> None:
    said = shell("polymode --help > /dev/full; echo $?; polymode --help 2> /dev/full | wc -l")
    assert b"cannot be written (No space left on device)" in said.stderr and said.stderr.count(b"\n") == 1
    assert said.stdout.split()[0] == b"6" and int(said.stdout.split()[1]) > 1


@posix
def test_a_run_goes_on_when_its_terminal_is_closed_whatever_the_locale_and_the_names(tmp_path: Path) -> None:
    """One run of all that is odd: the C locale, ASCII streams, a prompt of another script and too many words, a folder
    whose name is no text, has a colon and begins with a dash; and its terminal is closed at the first step."""
    prompt = "ein roter Pilz 🍄 " + "sehr " * 70 + "groß"
    small = ["--direct.steps", "2", "--direct.rounds", "1", "--direct.hull", "32", "--mesh.faces", "500"]
    command = [*CLI, "generate", prompt, "--method", "direct", *small, "--texture.size", "128", f"--out=-{ODD}"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, command, C_LOCALE | {"PYTHONIOENCODING": "ascii"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    seen = b""
    while b"sample" not in seen:
        seen += os.read(terminal, 4096)  # EIO where the command ends before
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    folder = tmp_path / f"-{ODD}"
    log = seen.decode("ascii", "surrogateescape")
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, (log, (folder / "events.jsonl").read_text())
    (unknown,) = [line for line in log.splitlines() if "does not know" in line]
    assert 'know "ein roter Pilz \\U0001f344' in unknown and "%" not in unknown
    assert 'left out: "sehr' in log and f"Run folder: -{ODD}" in log

    assert imageio_ffmpeg.count_frames_and_secs(str(folder / "turntable.mp4"))[0] == 72, "a colon is no protocol"
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["prompt"] == prompt and metadata["familiarity"]["confidence"] is None
    assert len(metadata["notes"]) == 2 and metadata["notes"][0].endswith('groß".')
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    cut = next(e for e in events if e["event"] == "cut")
    assert cut["what"] == "prompt" and f"{cut['kept']} {cut['left_out']}" == prompt
    assert load_recipe(folder / "config.yaml").prompt == prompt
    index = Index(tmp_path)
    (job,) = index.list()
    assert job.id == f"-{ODD}" and job.state == "done" and job.title == prompt and state.notes(folder, "done")
    listed = subprocess.run([*CLI, "jobs", "--runs", tmp_path, "--json"], capture_output=True, env=C_LOCALE)
    assert listed.returncode == 0 and json.loads(listed.stdout)[0]["id"] == job.id, listed.stderr
    shown = subprocess.run([*CLI, "jobs", "show", f"./-{ODD}", "--runs", tmp_path], capture_output=True)
    assert os.fsencode(folder / "mesh.glb") in shown.stdout and b"left out" in shown.stdout, shown.stderr


def test_a_run_whose_folder_is_no_text_is_a_job_like_any_other(tmp_path: Path) -> None:
    index = Index(tmp_path)
    queued(index, ODD)
    queued(index, "plain")
    assert {j.id for j in index.list()} == {ODD, "plain"} == {j.id for j in Index(tmp_path).list(search="mushroom")}
    assert index.rescan() == 2
    claimed = [index.claim(("auto",), os.getpid()) for _ in range(2)]
    for job, handle in (c for c in claimed if c is not None):
        state.unlock(handle)
        index.end(job.id, "failed", 2, f"No room in {index.root / ODD}.")
    assert index.get(ODD).state == "failed" and index.resume(ODD).state == "queued" and index.cancel(ODD).id == ODD
    assert [j.id for j in Site(index).jobs()] == ["plain"], "the page shows what an address can have"
    run = Run(tmp_path / ODD)
    run.write_json("metadata.json", {"folder": str(run.folder)})
    assert state.read_json(run.folder / "metadata.json") == {"folder": str(run.folder)}
    (run.folder / "job.json").unlink()
    index.sync()
    assert "b\N{REPLACEMENT CHARACTER}: #50%" in {j.title for j in index.list()}
    assert index.trash(ODD).name == ODD
    index.sync()
    assert [j.id for j in index.list()] == ["plain"]


def test_checkpoints_and_reports_in_a_folder_that_is_no_text(tmp_path: Path) -> None:
    import torch

    run = create_run(tiny(), tmp_path / ODD)
    run.save_checkpoint("toy", {"x": torch.arange(3.0)}, 7)
    found = run.load_checkpoint("toy")
    assert found is not None and found[1] == 7 and found[0]["x"].tolist() == [0, 1, 2]
    made = Made(torch.zeros(4, 7, 2, 2), None, None, {"collapsed": None})
    save_made(run.folder / "cell.safetensors", made)
    assert load_made(run.folder / "cell.safetensors").facts == made.facts
    report = Report(run.folder, Path(f"{ODD}.jsonl"))
    report.write([], "done", 1.0)
    assert f"b{chr(0xFFFD)}: #50%.jsonl" in (run.folder / "index.html").read_text(encoding="utf-8")


LONG = "a" * 300


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "a cow", "--out", LONG),
        ("generate", "a cow", "--prior", LONG),
        ("generate", "a cow", "--prior", f"./{LONG}"),
        ("generate", "--resume", LONG),
        ("generate", "--resume", __file__),
        ("reconstruct", f"{LONG}.png"),
        ("batch", LONG, "--out", "x"),
        ("batch", __file__, "--out", LONG),
        ("evaluate", LONG),
        ("jobs", "--runs", LONG),
        ("jobs", "work", "--runs", LONG),
        ("jobs", "--limit", str(10**30), "--runs", "."),
        ("compare", "a cow", "--out", LONG),
    ],
    ids=lambda c: " ".join(c)[:40].replace("aaa", ""),
)
def test_a_path_that_cannot_be_is_one_sentence(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(list(command))
    said = capsys.readouterr().err.strip()
    assert caught.value.code in (2, 3) and said.startswith("polymode: ") and "\n" not in said, said
    assert said.endswith(".") and list(tmp_path.iterdir()) == []


def test_the_loops_of_links_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="Too many levels"):
        create_run(Recipe("a cow"), tmp_path / "loop" / "run")
