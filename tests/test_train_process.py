"""`polymode train` as processes: it learns, it can be killed, what it makes is a prior."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training import write_meshes

ROOT = Path(__file__).parents[1]
ENV = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
SMALL = (
    "--device cpu --channels 16 32 48 --batch 8 --steps 40 --random-sets 1 --recolored-sets 1 --checks 2 --sheet 2 "
    "--threads 1 --workers 1 --checkpoint-minutes 0.005 --small-share 0.5"
).split()


def command(data: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "polymode", "train", "--data", str(data), "--out", str(out), *SMALL, *more]


def train(data: Path, out: Path, *more: str, code: int = 0, **options: object) -> subprocess.CompletedProcess[str]:
    r = subprocess.run(command(data, out, *more), capture_output=True, text=True, timeout=600, env=ENV, **options)  # pyright: ignore
    assert r.returncode == code, r.stderr
    return r


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    write_meshes(folder, 30)
    (folder / "a_broken_thing.glb").write_bytes(b"glTF junk")
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("trained") / "whole"
    return out, train(data, out)


def test_the_error_falls_and_a_broken_mesh_is_named_and_counted(
    whole: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, said = whole
    log = [json.loads(line) for line in (out / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [e["step"] for e in log] == [20, 40] and log[-1]["frames"] == pytest.approx(480, abs=60)
    for name in ("x0", "seen", "pictured", "canonical"):
        assert log[1][name] < 0.85 * log[0][name], name
    assert "a_broken_thing.glb" in said.stderr and "1 left out" in said.stdout and "Traceback" not in said.stderr
    assert "held out" in said.stderr and "left" in said.stderr
    files = {p.name for p in out.iterdir()}
    assert files == {"checkpoint.safetensors", "config.json", "prior-1-of-1.safetensors"} | {
        "sheet.png",
        "train.jsonl",
        "training.json",
    }
    again = train(data := Path(json.loads((out / "training.json").read_text())["data"]), out, code=2)
    assert "is finished after 40 steps; give more --steps" in again.stderr and data.is_dir()


def test_killed_and_stopped_and_resumed_it_gives_the_same_weights(
    data: Path, whole: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    fewer = ("--sheet", "0", "--checks", "1")  # what is looked at on the way changes nothing
    with subprocess.Popen(command(data, out, *fewer), stderr=subprocess.PIPE, text=True, env=ENV) as first:
        until = time.monotonic() + 400
        while not (out / "checkpoint.safetensors").is_file():
            assert time.monotonic() < until and first.poll() is None
            time.sleep(0.01)
        first.kill()
    with subprocess.Popen(command(data, out, *fewer), stderr=subprocess.PIPE, text=True, env=ENV) as second:
        assert second.stderr is not None
        said = ""
        while "Going on from step" not in said:
            said = second.stderr.readline()
            assert said, "it ended"
        second.send_signal(signal.SIGTERM)
        rest = second.stderr.read()
    assert second.returncode == 130 and "the same command goes on" in rest and "Traceback" not in rest
    train(data, out, *fewer)
    one, two = (load_file(folder / "checkpoint.safetensors") for folder in (whole[0], out))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert (out / "prior-1-of-1.safetensors").read_bytes() == (whole[0] / "prior-1-of-1.safetensors").read_bytes()


def test_what_was_trained_generates_and_is_gone_on_from(
    data: Path, whole: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    from app.evaluate.prior import Sampling, sample_prompt
    from app.models import load_prior

    prior = load_prior(str(whole[0]), torch.device("cpu"))
    frames, _ = sample_prompt(prior, "a red ball", Sampling(views=4, steps=4), 0)
    assert frames.shape == (4, 7, 64, 64) and bool(frames.isfinite().all())
    more = [a for a in SMALL if a not in ("--channels", "16", "32", "48")]
    line = ["train", "--data", str(data), "--out", str(tmp_path / "on"), "--init", str(whole[0]), *more]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))

    full = subprocess.run(
        [sys.executable, "-m", "polymode", *line],
        capture_output=True,
        text=True,
        timeout=600,
        env=ENV,
        preexec_fn=small_files,
    )
    last = full.stderr.strip().splitlines()[-1]
    assert full.returncode == 6 and last.startswith("polymode: ") and "start the same command again" in last
    assert "Traceback" not in full.stderr and not list((tmp_path / "on").glob("*.tmp"))
    assert {p.name for p in (tmp_path / "on").iterdir()} <= {"training.json", "train.jsonl"}
