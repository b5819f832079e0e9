"""Where the browser tests' Chromium comes from: decisions, and the script in a PATH made for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chromium import must, ways

PLAYWRIGHT = (("py", "-m", "playwright", "install", "chromium"),)


def words(way: tuple[tuple[str, ...], ...]) -> list[str]:
    return [" ".join(w for w in command if not w.startswith(("-o", "Acquire", "-q"))) for command in way]


def test_root_installs_debians_package_and_playwrights_own_comes_after_it() -> None:
    first, second = ways(True, {"apt-get"}.__contains__, "py")
    assert words(first) == ["apt-get -y update", "apt-get -y install --no-install-recommends chromium"]
    assert second == PLAYWRIGHT


def test_others_need_sudo_which_must_not_ask() -> None:
    first, second = ways(False, {"apt-get", "sudo"}.__contains__, "py")
    assert [line.split()[:3] for line in words(first)] == [["sudo", "-n", "apt-get"]] * 2
    assert second == PLAYWRIGHT


@pytest.mark.parametrize(("root", "has"), [(False, {"apt-get"}), (True, set()), (False, {"sudo"})])
def test_without_either_there_is_playwrights_own(root: bool, has: set[str]) -> None:
    assert ways(root, has.__contains__, "py") == [PLAYWRIGHT]


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_ci_may_not_skip(value: str, expected: bool) -> None:
    assert must({"CI": value}) is expected and not must({})


def program(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def script(folder: Path, **more: str) -> tuple[int, list[str]]:
    """The script where `folder` is all of PATH and playwright downloads nothing: its exit code and stdout's lines."""
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "PATH", "PYTHONPATH")} | {
        "PATH": str(folder),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PLAYWRIGHT_BROWSERS_PATH": str(folder / "browsers"),
        "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD": "1",
    }
    r = subprocess.run(
        [sys.executable, "-m", "tests.chromium"],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment | more,
        cwd=folder,
    )
    return r.returncode, r.stdout.splitlines()


def test_one_that_is_there_is_taken_unless_it_does_not_start(tmp_path: Path) -> None:
    good = program(tmp_path, "google-chrome", "exit 0")
    program(tmp_path, "chromium", "exit 1")  # as a distribution's stand-in
    assert script(tmp_path) == (0, [f"Browser tests: {good}"])


def test_one_is_installed_where_there_is_none(tmp_path: Path) -> None:
    program(tmp_path, "sudo", 'shift; exec "$@"')
    made = tmp_path / "chromium"
    install = f'printf "#!/bin/sh\\n" > {made}; /bin/chmod 755 {made}'
    program(tmp_path, "apt-get", f'case "$*" in *" install "*) {install};; esac')
    assert script(tmp_path) == (0, [f"Browser tests: {made}"])


def test_where_none_can_be_had_the_tests_are_skipped_in_one_line_and_ci_fails(tmp_path: Path) -> None:
    program(tmp_path, "sudo", "exit 1")
    program(tmp_path, "apt-get", "exit 100")
    code, lines = script(tmp_path)
    assert code == 0 and len(lines) == 1 and "skipped" in lines[0] and "playwright install" in lines[0]
    code, lines = script(tmp_path, CI="true")
    assert code == 1 and len(lines) == 1 and "FAILED" in lines[0]
