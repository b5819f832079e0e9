"""`import polymode`: the same runs as the command line's, quiet, with errors instead of exits."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
import threading
import typing
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

import polymode
from app.export.glb import read_glb
from app.recipe_yaml import load_recipe
from app.recipes import PictureRecipe, Recipe, preset
from app.run.signals import stop_signals
from app.settings import every_setting
from polymode.library import NAMED

TINY = {"direct.steps": 2, "direct.rounds": 1, "direct.fit": 3, "direct.hull": 32}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> polymode.Result:
    out = tmp_path_factory.mktemp("library") / "run"
    return polymode.generate(
        "a red mushroom", method="direct", seed=3, faces=600, texture_size=128, settings=TINY, out=out
    )


def test_a_result_says_where_everything_is(made: polymode.Result) -> None:
    assert dataclasses.is_dataclass(made) and made.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    assert made.mesh.parent == made.folder and made.turntable.is_file() and made.contact_sheet.is_file()
    asset = read_glb(made.mesh)
    assert len(asset.faces) == made.metadata["mesh"]["faces"] <= 600 and asset.texture.shape == (128, 128, 3)
    assert made.metadata["status"] == "done" and made.metadata["seed"] == 3


def test_config_yaml_is_what_the_arguments_said(made: polymode.Result) -> None:
    r, d = load_recipe(made.folder / "config.yaml"), preset("draft")
    assert r == dataclasses.replace(
        d,
        prompt="a red mushroom",
        method="direct",
        seed=3,
        mesh=dataclasses.replace(d.mesh, faces=600),
        texture=dataclasses.replace(d.texture, size=128),
        direct=dataclasses.replace(d.direct, steps=2, rounds=1, fit=3, hull=32),
    )


def test_a_reconstruction_is_quiet_unless_it_is_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    picture = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(picture).ellipse((20, 20, 76, 76), fill=(200, 30, 30))
    picture.save(tmp_path / "ball.png")
    more = {"faces": 600, "texture_size": 128, "settings": TINY | {"direct.views": 4}, "elevation": 10}
    result = polymode.reconstruct(tmp_path / "ball.png", out=tmp_path / "run", **more)
    assert capfd.readouterr() == ("", "")
    assert result.metadata["pictures"][0]["elevation"] == 10 and result.mesh.is_file()
    polymode.reconstruct([tmp_path / "ball.png"], out=tmp_path / "again", progress=True, **more)
    assert "Run folder" in capfd.readouterr().err
    assert (tmp_path / "again" / "mesh.glb").read_bytes() == result.mesh.read_bytes()


def test_a_mesh_of_ones_own_is_painted_and_keeps_its_geometry(made: polymode.Result, tmp_path: Path) -> None:
    painted = polymode.texture(made.mesh, "a blue mushroom", texture_size=128, settings=TINY, out=tmp_path / "run")
    before, after = read_glb(made.mesh), read_glb(painted.mesh)
    assert torch.equal(before.vertices[before.faces.long()], after.vertices[after.faces.long()])
    with pytest.raises(polymode.UsageError, match=r"nowhere\.glb"):
        polymode.texture(tmp_path / "nowhere.glb", "a mushroom")


def test_evaluate_returns_the_report(made: polymode.Result, capfd: pytest.CaptureFixture[str]) -> None:
    results = polymode.evaluate(made.folder)
    assert capfd.readouterr().out == ""
    assert results["records"][0]["prompt"] == "a red mushroom" and results["table"] and results["ceiling"]


def test_what_is_wrong_is_raised_as_one_sentence_with_its_exit_code(made: polymode.Result, tmp_path: Path) -> None:
    cases: list[tuple[typing.Callable[[], object], str]] = [
        (lambda: polymode.generate(" "), "empty"),
        (lambda: polymode.generate(3), "text"),  # pyright: ignore[reportArgumentType]
        (lambda: polymode.generate("a key", preset="best"), "draft, standard or high"),
        (lambda: polymode.generate("a key", method="magic"), "sds"),
        (lambda: polymode.generate("a key", seed="x"), "whole number"),  # pyright: ignore[reportArgumentType]
        (lambda: polymode.generate("a key", faces=5), "mesh.faces 5"),
        (lambda: polymode.generate("a key", settings={"field.stepz": 5}), "field.stepz"),
        (lambda: polymode.generate("a key", prior="dreamer"), "embedded"),
        (lambda: polymode.generate("a key", out=made.folder), "not empty"),
        (lambda: polymode.reconstruct([]), "0 pictures"),
        (lambda: polymode.reconstruct(tmp_path / "none.png"), "none.png"),
        (lambda: polymode.reconstruct("a.png", azimuth="x"), "degrees"),  # pyright: ignore[reportArgumentType]
        (lambda: polymode.evaluate(tmp_path / "none"), "not a folder"),
    ]
    for call, words in cases:
        with pytest.raises(polymode.UsageError) as e:
            call()
        assert words in str(e.value) and "\n" not in str(e.value) and e.value.exit_code == 2
    with pytest.raises(polymode.MissingError) as e:
        polymode.generate("a key", prior="./nowhere", out=tmp_path / "run")
    assert e.value.exit_code == 3 and not (tmp_path / "run").exists()


def test_every_setting_of_a_run_can_be_given() -> None:
    """Those without a dot as arguments; the others by name in `settings`."""
    arguments = inspect.signature(polymode.generate).parameters
    known = every_setting()
    plain = {n.replace("-", "_") for n in known if "." not in n} | {s.short.replace("-", "_") for s in known.values()}
    plain -= {"", "paint"}  # what polymode.texture is
    assert plain <= set(arguments)
    assert set(arguments) - plain == {"settings", "out", "progress"}
    pictures = inspect.signature(polymode.reconstruct).parameters
    assert set(NAMED) - {"init"} <= set(pictures)
    defaults = dataclasses.asdict(PictureRecipe())
    assert all(pictures[n].default == defaults[n] for n in ("background", "azimuth", "elevation"))
    assert Recipe().seed == 0


def test_signals_are_left_alone_outside_of_the_main_thread() -> None:
    found: list[object] = []

    def run() -> None:
        try:
            with stop_signals() as came:
                found.append(came())
        except ValueError as e:
            found.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]


def test_the_import_is_cheap_and_the_module_is_the_command_line() -> None:
    code = (
        "import polymode, sys; print(polymode.__version__, [m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    )
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert r.stdout.split(" ", 1) == [polymode.__version__, "[]\n"], r.stderr
    r = subprocess.run([sys.executable, "-m", "polymode", "--version"], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and r.stdout.startswith(f"polymode {polymode.__version__} ")
