"""The command line as a process: exit codes, one sentence for bad input, a whole short run, cancel and resume, the
same bytes twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch
import yaml
from PIL import Image

from app.export.glb import read_glb
from app.methods import METHODS

SHORT = [
    "--field.steps",
    "14",
    "--refine.steps",
    "5",
    "--mesh.faces",
    "1500",
    "--mesh.resolution",
    "48",
    "--texture.size",
    "256",
]


def polymode(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **(env or {})})


def sentence(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that a refused command prints, with the expected exit code and no traceback."""
    assert result.returncode == code, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("polymode: ") and lines[0].endswith((".", "…")), result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("cli") / "run"
    result = polymode("generate", "a red mushroom", *SHORT, "--out", str(folder), "--json")
    assert result.returncode == 0, result.stderr
    assert "field: step 1/14" in result.stderr and "s left" in result.stderr
    return folder, json.loads(result.stdout)


def test_a_short_run_leaves_a_complete_folder(finished: tuple[Path, dict]) -> None:
    folder, printed = finished
    assert printed["status"] == "done" and printed["folder"] == str(folder)
    for name, path in printed["files"].items():
        assert Path(path) == folder / name and Path(path).stat().st_size > 0
    assert set(printed["files"]) == {"mesh.glb", "turntable.mp4", "contact_sheet.png", "metadata.json", "config.yaml"}
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata == printed["metadata"] and metadata["seed"] == 0 and metadata["prior"]["name"] == "embedded"
    assert metadata["frame_forwards"] == (14 + 5) * 4 * 2
    assert metadata["loop_ratio"] > 1 and metadata["seconds_prior"] > 0 and metadata["peak_memory_mb"] < 3000
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert next(e["event"] for e in events) == "start" and [e["event"] for e in events][-1] == "done"
    assert {e["stage"] for e in events if e["event"] == "step"} == {"field", "refine1", "refine2"}
    assert (folder / "previews" / "field-00001.png").is_file() and (folder / "previews" / "field-00014.png").is_file()
    assert {p.name for p in folder.rglob(".*")} == {".lock"}, "temporary files must be gone"
    assert yaml.safe_load((folder / "config.yaml").read_text())["field"]["steps"] == 14


def test_the_files_of_a_run_open(finished: tuple[Path, dict]) -> None:
    folder, printed = finished
    mesh = read_glb(folder / "mesh.glb")
    assert len(mesh.faces) == printed["metadata"]["mesh"]["faces"] <= 1500 and mesh.texture.shape == (256, 256, 3)
    a, b, c = (mesh.vertices[mesh.faces[:, i].long()] for i in range(3))
    assert (a * torch.linalg.cross(b, c)).sum() > 0, "outward winding: positive volume"
    assert mesh.vertices.norm(dim=1).max() <= 1.02, "inside the unit sphere"
    assert Image.open(folder / "contact_sheet.png").size[0] > 1000
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(folder / "turntable.mp4"))
    assert frames == 72


def test_the_same_seed_gives_the_same_mesh_bytes_also_after_cancel_and_resume(
    finished: tuple[Path, dict], tmp_path: Path
) -> None:
    folder, _ = finished
    out = tmp_path / "run"
    command = [sys.executable, "-m", "app.cli", "generate", "a red mushroom", *SHORT, "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "previews" / "field-00003.png").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Cancelled at step" in stderr and "--resume" in stderr and "Traceback" not in stderr
    assert not (out / "mesh.glb").exists()
    resumed = polymode("generate", "--resume", str(out))
    assert resumed.returncode == 0, resumed.stderr
    assert (out / "mesh.glb").read_bytes() == (folder / "mesh.glb").read_bytes()
    assert "is finished" in sentence(polymode("generate", "--resume", str(out)), 2)


def test_another_seed_gives_another_mesh(finished: tuple[Path, dict], tmp_path: Path) -> None:
    folder, _ = finished
    out = tmp_path / "run"
    short = [
        "--field.steps",
        "4",
        "--refine.steps",
        "0",
        "--mesh.faces",
        "1500",
        "--mesh.resolution",
        "48",
        "--texture.size",
        "256",
    ]
    result = polymode("generate", "a red mushroom", *short, "--seed", "1", "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert "[3/3] texture" in result.stderr
    assert (out / "mesh.glb").read_bytes() != (folder / "mesh.glb").read_bytes()


def test_bad_prompts_are_one_sentence() -> None:
    assert "empty" in sentence(polymode("generate", "   "), 2)
    assert "10000 characters" in sentence(polymode("generate", "x" * 10_000), 2)
    assert "control characters" in sentence(polymode("generate", "a\nred\x07mushroom"), 2)


def test_unknown_names_are_one_sentence() -> None:
    assert "draft, standard or high" in sentence(polymode("generate", "a car", "--preset", "best"), 2)
    assert "choose sds" in sentence(polymode("generate", "a car", "--method", "magic"), 2)
    assert "embedded" in sentence(polymode("generate", "a car", "--prior", "dreamer"), 2)
    result = polymode("generate", "a car", "--method", "magic", "--json")
    assert result.returncode == 2 and json.loads(result.stdout)["exit_code"] == 2


def test_outputs_that_are_occupied_or_unwritable_are_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert "not empty" in sentence(polymode("generate", "a car", "--out", str(tmp_path)), 2)
    assert "is a file" in sentence(polymode("generate", "a car", "--out", str(tmp_path / "mine.txt")), 2)
    assert "cannot be written" in sentence(polymode("generate", "a car", "--out", "/proc/polymode/run"), 2)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"] and (tmp_path / "mine.txt").read_text() == "precious"


def test_missing_and_truncated_weights_exit_with_3_before_anything_is_written(tmp_path: Path) -> None:
    from app.models import known_models

    out = tmp_path / "out"
    env = {"POLYMODE_MODELS": str(tmp_path / "models")}
    assert "config.json is missing" in sentence(
        polymode("generate", "a car", "--prior", "local", "--out", str(out), env=env), 3
    )
    assert not out.exists()
    damaged = tmp_path / "models" / "local"
    damaged.mkdir(parents=True)
    for path in known_models()[0].folder.glob("*"):
        data = path.read_bytes()
        (damaged / path.name).write_bytes(data[: len(data) // 2] if path.suffix == ".safetensors" else data)
    assert "truncated" in sentence(polymode("generate", "a car", "--prior", "local", "--out", str(out), env=env), 3)
    assert not out.exists()


def test_a_missing_gpu_is_said_and_not_replaced() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "sees no GPU" in sentence(polymode("generate", "a car", "--device", "cuda"), 3)


def test_models_list_and_doctor_report_this_installation() -> None:
    table = json.loads(polymode("models", "list", "--json").stdout)
    assert table[0]["alias"] == "embedded" and table[0]["state"] == "ready"
    doctor = polymode("doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert "CPU kernels compile and run" in doctor.stdout and "weights complete" in doctor.stdout


TINY = ["--field.steps", "3", "--refine.steps", "2", "--mesh.faces", "500", "--mesh.resolution", "32"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_an_asset(method: str, tmp_path: Path) -> None:
    small = ["--texture.size", "128", "--dsd.knots", "3", "--vsd.lora.warm", "1", "--esd.lora.warm", "1"]
    out = tmp_path / "run"
    result = polymode("generate", "a key", "--method", method, *TINY, *small, "--out", str(out), "--json")
    assert result.returncode == 0, result.stderr
    metadata = json.loads(result.stdout)["metadata"]
    assert metadata["frame_forwards"] >= 5 * 8 and read_glb(out / "mesh.glb").faces.numel() > 0
    assert yaml.safe_load((out / "config.yaml").read_text())["method"] == method
