"""Where compiled kernels are kept: beside their sources, else where this user may write, and nobody else."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from app.kernels import ROOMS, cache_folder, sources

ROOT = Path(__file__).parents[1]
posix = pytest.mark.skipif(os.name == "nt", reason="owners and modes of POSIX")


def test_the_rooms_with_kernels_are_those_that_compile() -> None:
    compiles = {p.parent.relative_to(ROOT).as_posix() for r in ("app", "renderers", "guidance") for p in compiled(r)}
    assert compiles == set(ROOMS) and [str(ROOT / r) for r in ROOMS] == sources()


def compiled(room: str) -> list[Path]:
    return [p for p in (ROOT / room).rglob("*.py") if "cache=True" in p.read_text(encoding="utf-8")]


def test_sources_that_can_be_written_and_a_persons_own_choice_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    assert cache_folder([str(tmp_path)], {}) is None
    assert cache_folder([str(tmp_path / "absent")], {"NUMBA_CACHE_DIR": "/mine"}) is None


def test_a_closed_folder_leads_to_the_users_cache(tmp_path: Path) -> None:
    closed, home = str(tmp_path / "absent"), tmp_path / "cache"  # what is not there cannot be written either
    found = cache_folder([str(tmp_path), closed], {"XDG_CACHE_HOME": str(home), "NUMBA_CACHE_DIR": ""})
    assert found == str(home / "polymode" / "kernels") and Path(found).is_dir()


@posix
def test_without_a_home_kernels_are_among_the_temporary_files_for_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_text("no folder", encoding="utf-8")

    def chosen(home: str = str(tmp_path / "file")) -> str:
        found = cache_folder([str(tmp_path / "absent")], {"XDG_CACHE_HOME": home})
        assert found is not None and Path(found).is_dir() and Path(found).parent == tmp_path
        assert stat.S_IMODE(os.lstat(found).st_mode) == 0o700 and os.lstat(found).st_uid == os.getuid()
        return found

    own = chosen()
    assert own == chosen() == chosen("relative") == str(tmp_path / f"polymode-kernels-{os.getuid()}")
    os.chmod(own, 0o777)  # anybody could have put kernels there
    assert own != chosen() != chosen()
    shutil.rmtree(own)
    (tmp_path / "theirs").mkdir()
    os.symlink(tmp_path / "theirs", own)
    assert chosen() != own and not list((tmp_path / "theirs").iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert cache_folder([str(tmp_path / "absent")], {"XDG_CACHE_HOME": str(tmp_path / "file")}) is None


def test_a_read_only_installation_compiles(tmp_path: Path) -> None:
    """Mounted read-only, with a home that is none. Fails without app/kernels.py: numba has no place for its cache."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    mount = f"mount --bind {ROOT} {ROOT} && mount -o remount,ro,bind {ROOT} && ! touch {ROOT}/zz 2>/dev/null"
    python = "import app, renderers.snapshot, os; print(os.environ['NUMBA_CACHE_DIR'])"
    script = f'{mount} && cd {tmp_path} && exec {sys.executable} -c "{python}"'
    gone = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    environment = gone | {"HOME": "/proc", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    said = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, env=environment)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == str(tmp_path / f"polymode-kernels-{os.getuid()}")
