"""The plain torch twins on CUDA against the CPU kernels, and a short run with --device cuda."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from renderers.cameras import orbit
from renderers.fields import blob_field
from renderers.mesh import render_mesh
from renderers.raster import make_context
from renderers.volume import render_field
from tests.objects import car
from tests.training import write_meshes

pytestmark = pytest.mark.gpu


def test_the_marcher_agrees_between_devices() -> None:
    field = blob_field(torch.Generator().manual_seed(0), 32)
    here = render_field(field, orbit(2, 0.3), 32).frames()
    there = render_field(field.to("cuda"), orbit(2, 0.3).to("cuda"), 32).frames()
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=1e-3)


def test_the_rasterizer_agrees_between_devices() -> None:
    v, _, c, f = (torch.from_numpy(x) for x in car())
    here = render_mesh(make_context("cpu"), v, f, orbit(2, 0.3), 64, c).frames()
    moved = (x.to("cuda") for x in (v, f, c))
    v, f, c = moved
    there = render_mesh(make_context("cuda"), v, f, orbit(2, 0.3).to("cuda"), 64, c).frames()
    assert ((there.cpu() - here).abs().amax(1) > 1e-3).float().mean() < 1e-3


def test_a_short_run_on_the_gpu(tmp_path: Path) -> None:
    short = ["--field.steps", "6", "--refine.steps", "2", "--mesh.faces", "1500", "--texture.size", "256"]
    command = [sys.executable, "-m", "app.cli", "generate", "a car", *short, "--device", "cuda", "--json"]
    done = subprocess.run([*command, "--out", str(tmp_path / "run")], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["files"]["mesh.glb"]).stat().st_size > 0


def test_a_short_training_on_the_gpu_skips_no_step(tmp_path: Path) -> None:
    write_meshes(tmp_path / "meshes", 30)
    line = ["train", "--data", str(tmp_path / "meshes"), "--out", str(tmp_path / "out"), "--device", "cuda"]
    line += ["--steps", "60", "--checks", "2", "--sheet", "2", "--random-sets", "2", "--recolored-sets", "1"]
    r = subprocess.run([sys.executable, "-m", "app.cli", *line], capture_output=True, text=True, timeout=600)
    assert r.returncode == 0, r.stderr
    log = [json.loads(x) for x in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert log[-1]["skipped"] == 0 and log[-1]["x0"] < log[0]["x0"] and log[-1]["frames"] >= 60 * 780
