"""`--format` of a run, `polymode export` and `polymode inspect`: finished and interrupted runs, anybody's files, and
broken ones among them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh

import polymode
from app.commands import Export, Generate, Inspect, parse
from app.errors import UsageError
from app.export.glb import read_glb, write_glb
from app.export.report import from_json
from app.meshes.command import run_export, run_inspect
from app.recipe_yaml import load_recipe
from app.recipes import Recipe, check
from app.run.folder import Run
from tests.test_formats import wedge

TINY = {"direct.steps": 2, "direct.rounds": 2, "direct.fit": 3, "direct.hull": 32}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> polymode.Result:
    out = tmp_path_factory.mktemp("convert") / "run"
    return polymode.generate(
        "a red mushroom",
        method="direct",
        faces=600,
        texture_size=128,
        format="obj,stl",
        size="60mm",
        settings=TINY,
        out=out,
    )


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> polymode.Result:
    """A distillation."""
    settings = {
        "field.steps": 2,
        "field.resolution": 24,
        "field.samples": 24,
        "refine.steps": 1,
        "mesh.resolution": 32,
    }
    out = tmp_path_factory.mktemp("convert") / "grown"
    return polymode.generate("a red ball", faces=400, texture_size=128, settings=settings, out=out)


@pytest.fixture
def run(made: polymode.Result, tmp_path: Path) -> Iterator[Path]:
    """A copy that may be spoilt."""
    shutil.copytree(made.folder, tmp_path / "barrel")
    yield tmp_path / "barrel"


def exported(line: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    a = parse(["export", *line, "--json"])
    assert isinstance(a, Export)
    code = run_export(a)
    return code, json.loads(capsys.readouterr().out)


def test_a_run_writes_the_formats_it_was_asked_for(made: polymode.Result) -> None:
    names = {p.name for p in made.folder.iterdir()}
    assert {"mesh.glb", "mesh.obj", "mesh.mtl", "mesh.png", "mesh.stl", "mesh.report.json"} <= names
    assert not {"mesh.ply", "mesh.3mf", "mesh.usdz"} & names
    solid = trimesh.load(made.folder / "mesh.stl")
    assert isinstance(solid, trimesh.Trimesh) and solid.is_watertight
    assert float(solid.extents.max()) == pytest.approx(60, rel=1e-5)
    measured = json.loads((made.folder / "mesh.report.json").read_text())
    assert made.metadata["report"] == measured
    r = from_json(measured)
    assert r is not None and r.printed_mm == 60 and r.faces == len(read_glb(made.mesh).faces)
    assert load_recipe(made.folder / "config.yaml").export.format == "obj,stl"


@pytest.mark.parametrize(("flag", "value"), [("--format", "fbx"), ("--format", ","), ("--size", "big")])
def test_what_is_no_format_or_size_is_refused_before_a_run(flag: str, value: str) -> None:
    a = parse(["generate", "x", flag, value])
    assert isinstance(a, Generate)
    with pytest.raises(UsageError):
        check(Recipe("x", export=a.recipe.export))


def test_finished_runs_are_exported_into_their_folders_or_elsewhere(run: Path, capsys: Any) -> None:
    before = (run / "mesh.glb").read_bytes()
    code, said = exported([str(run), "--format", "glb,ply,3mf"], capsys)
    assert code == 0 and said["status"] == "done"
    files = said["meshes"][0]["files"]
    assert {Path(p).name for p in files.values()} == {"mesh.glb", "mesh.ply", "mesh.3mf", "mesh.report.json"}
    assert (run / "mesh.glb").read_bytes() == before
    assert float(trimesh.load_scene(run / "mesh.3mf").extents.max()) == pytest.approx(60, rel=1e-5)
    out = run.parent / "files"
    code, _ = exported([str(run), str(run), "--format", "stl", "--size", "3in", "--out", str(out)], capsys)
    assert code == 0
    assert {p.name for p in out.iterdir()} == {
        *("barrel.stl", "barrel.report.json", "barrel-2.stl", "barrel-2.report.json"),
    }
    assert float(trimesh.load_scene(out / "barrel.stl").extents.max()) == pytest.approx(76.2, rel=1e-5)


def test_an_interrupted_run_gives_what_there_is_and_is_not_touched(run: Path, capsys: Any) -> None:
    (run / "mesh.glb").unlink()
    (run / "checkpoints" / "fuse2.safetensors").unlink()
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    code, said = exported([str(run), "--format", "glb,stl"], capsys)
    assert code == 0, said
    assert len(read_glb(run / "unfinished.glb").faces) > 100
    assert trimesh.load_scene(run / "unfinished.stl").to_mesh().is_watertight
    assert all(p.stat().st_mtime_ns == t for p, t in before.items()) and not (run / "mesh.glb").exists()


def test_a_whole_run_without_its_glb_gives_the_same_mesh(run: Path, made: polymode.Result, capsys: Any) -> None:
    (run / "mesh.glb").unlink()
    assert exported([str(run), "--format", "glb"], capsys)[0] == 0
    again, first = read_glb(run / "unfinished.glb"), read_glb(made.mesh)
    assert torch.equal(again.vertices, first.vertices) and torch.equal(again.texture, first.texture)


def test_an_interrupted_distillation_gives_its_field_or_its_refined_mesh(
    grown: polymode.Result, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "grown"
    shutil.copytree(grown.folder, folder)
    (folder / "mesh.glb").unlink()
    assert exported([str(folder), "--format", "glb"], capsys)[0] == 0
    assert torch.equal(read_glb(folder / "unfinished.glb").vertices, read_glb(grown.mesh).vertices)
    for later in (folder / "checkpoints").glob("refine*.safetensors"):
        later.unlink()
    assert exported([str(folder), "--format", "glb"], capsys)[0] == 0
    assert not torch.equal(read_glb(folder / "unfinished.glb").vertices, read_glb(grown.mesh).vertices)
    tensors = Run(folder).load_checkpoint("field")
    assert tensors is not None
    Run(folder).save_checkpoint("field", tensors[0], 1)  # of two steps
    code, said = exported([str(folder), "--format", "glb"], capsys)
    assert code == 2 and "stopped before it had a mesh" in said["meshes"][0]["error"]


def test_one_bad_input_never_takes_the_others(run: Path, capsys: Any) -> None:
    folder = run.parent
    early = folder / "early"
    shutil.copytree(run, early)
    (early / "mesh.glb").unlink()
    shutil.rmtree(early / "checkpoints")
    (folder / "bad.glb").write_text("a red mushroom, but not a GLB")
    (folder / "nothing").mkdir()
    write_glb(folder / "wedge.glb", wedge())
    inputs = [str(folder / n) for n in ("bad.glb", "early", "nothing", "none.obj", "wedge.glb", "barrel")]
    code, said = exported([*inputs, "--format", "obj", "--out", str(folder / "out")], capsys)
    assert code == 1 and said["status"] == "partial"
    states = [m["state"] for m in said["meshes"]]
    assert states == ["failed"] * 4 + ["done"] * 2
    for m in said["meshes"][:4]:
        assert m["exit_code"] == 2 and m["error"].endswith(".") and "\n" not in m["error"]
    assert "--resume" in said["meshes"][1]["error"]
    assert (folder / "out" / "wedge.obj").is_file() and (folder / "out" / "barrel.obj").is_file()
    assert exported([*inputs[:4], "--format", "obj", "--out", str(folder / "out")], capsys)[0] == 2


def test_files_of_others_are_not_replaced(tmp_path: Path, capsys: Any) -> None:
    write_glb(tmp_path / "wedge.glb", wedge())
    (tmp_path / "wedge.png").write_bytes(b"mine")
    code, said = exported([str(tmp_path / "wedge.glb"), "--format", "obj"], capsys)
    assert code == 2 and "wedge.png exists" in said["meshes"][0]["error"]
    assert (tmp_path / "wedge.png").read_bytes() == b"mine" and not (tmp_path / "wedge.obj").exists()
    before = (tmp_path / "wedge.glb").read_bytes()
    code, said = exported([str(tmp_path / "wedge.glb"), "--format", "glb,stl", "--overwrite"], capsys)
    assert code == 2 and (tmp_path / "wedge.glb").read_bytes() == before and not (tmp_path / "wedge.stl").exists()
    assert exported([str(tmp_path / "wedge.glb"), "--format", "obj", "--overwrite"], capsys)[0] == 0
    assert (tmp_path / "wedge.obj").is_file()


def test_a_file_keeps_its_own_size_unless_it_is_told(tmp_path: Path, capsys: Any) -> None:
    write_glb(tmp_path / "wedge.glb", wedge())
    assert exported([str(tmp_path / "wedge.glb"), "--format", "stl"], capsys)[0] == 0
    assert float(trimesh.load_scene(tmp_path / "wedge.stl").extents.max()) == pytest.approx(4000)


def test_inspect_prints_the_report_of_each(run: Path, capsys: Any) -> None:
    write_glb(run.parent / "wedge.glb", wedge())
    (run.parent / "bad.glb").write_text("a red mushroom, but not a GLB")
    paths = [str(run.parent / "wedge.glb"), str(run.parent / "bad.glb"), str(run)]
    a = parse(["inspect", *paths])
    assert isinstance(a, Inspect) and run_inspect(a) == 1
    out, err = capsys.readouterr()
    assert "Watertight             yes" in out and "Charts                 6" in out and out.count("Faces  ") == 2
    assert err.count("\n") == 1 and "not a binary glTF" in err
    a = parse(["inspect", paths[0], "--json", "--size", "40mm"])
    assert isinstance(a, Inspect) and run_inspect(a) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["meshes"][0]["report"]["printed_mm"] == 40 and said["meshes"][0]["report"]["watertight"] is True
