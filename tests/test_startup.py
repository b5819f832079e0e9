"""What the command line loads before a run: nothing heavy. Each line is a process of its own, asked what it loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.jobs.index import Index
from tests.jobs import queued

HEAVY = (
    "torch diffusers transformers peft accelerate tokenizers safetensors numpy scipy skimage numba PIL cv2 trimesh "
    "imageio_ffmpeg gradio ray pandas"
).split()
ASK = f"""
import json, sys
from app.cli import main
code = None
try:
    main(sys.argv[1:])
except SystemExit as e:
    code = e.code
sys.stderr.write("\\n" + json.dumps([code, [m for m in {HEAVY!r} if m in sys.modules]]))
"""


def asked(*argv: str, cwd: Path | None = None, **env: str) -> tuple[int, list[str], str]:
    """A command's exit code, the heavy packages that its process loaded, and its output."""
    root = str(Path(__file__).parents[1])
    r = subprocess.run(
        [sys.executable, "-c", ASK, *argv],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": root} | env,
    )
    code, loaded = json.loads(r.stderr.splitlines()[-1])
    return code or 0, loaded, r.stdout + r.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("startup")
    queued(Index(root / "runs"), "mushroom")
    return root


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "--version",
        "generate --help",
        "generate --help-all",
        "completion bash",
        "reconstruct --help",
        "compare --help",
        "serve --help",
        "models list",
        "models list --json",
        "jobs",
        "jobs list --json",
        "jobs show mushroom",
        "jobs cancel mushroom",
    ],
)
def test_what_needs_no_network_loads_none(line: str, runs: Path) -> None:
    code, loaded, output = asked(*line.split(), cwd=runs)
    assert code == 0 and not loaded, output
    assert len(output) > 20


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("generate", 2),
        ("generate mushroom --method magic", 2),
        ("generate mushroom --wrong-flag", 2),
        ("generate mushroom --prior dreamer", 2),
        ("generate mushroom --prior ./nowhere", 3),
        ("generate --resume nowhere", 2),
        ("jobs show nothing", 2),
    ],
)
def test_a_refusal_loads_nothing_either(line: str, expected: int, runs: Path) -> None:
    code, loaded, output = asked(*line.split(), cwd=runs)
    assert code == expected and not loaded, output
