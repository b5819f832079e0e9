"""A Chromium for tests/test_browser.py. `python -m tests.chromium`, part of `make test`, says which one is there, or
installs one: Debian's package as root or by sudo, playwright's own elsewhere.

Where neither can be done it says that the browser tests are skipped, and under CI=true it fails.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
MISSING = "There is no Chromium here; `python -m tests.chromium` installs one, or says why it cannot."
PATIENCE = 900.0  # seconds of one attempt to install

Command = tuple[str, ...]


def works(path: str) -> bool:
    """Whether it starts: some distributions have a file of that name that only asks for another package."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def candidates() -> Iterator[str]:
    """Where a Chromium may be, those of the system before playwright's own."""
    for name in NAMES:
        if path := shutil.which(name):
            yield path
    yield from (p for p in MAC if Path(p).is_file())
    if Path(playwrights()).is_file():
        yield playwrights()


@functools.cache
def playwrights() -> str:
    """Where playwright keeps its own, if it has one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        return p.chromium.executable_path


def found() -> str | None:
    """The first one that starts."""
    return next((p for p in candidates() if works(p)), None)


def ways(root: bool, has: Callable[[str], object], python: str = sys.executable) -> list[tuple[Command, ...]]:
    """How one may be installed, best first; each way a few commands. `has(name)`: whether there is such a program."""
    out: list[tuple[Command, ...]] = []
    if has("apt-get") and (root or has("sudo")):
        become = () if root else ("sudo", "-n")  # it must not ask for a password in the middle of a test run
        apt = (*become, "apt-get", "-q", "-y", "-o", "Acquire::http::Timeout=30", "-o", "Acquire::Retries=1")
        out.append(((*apt, "update"), (*apt, "install", "--no-install-recommends", "chromium")))
    out.append(((python, "-m", "playwright", "install", "chromium"),))
    return out


def tried(commands: Sequence[Command]) -> str:
    """Run them in order, their output on stderr. Empty, or what went wrong with the last of them."""
    why = ""
    for command in commands:
        sys.stderr.write(f"+ {' '.join(command)}\n")
        sys.stderr.flush()
        try:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=PATIENCE, env=quiet()
            ).returncode
            why = f"`{' '.join(command)}` ended with {code}" if code else ""
        except (OSError, subprocess.TimeoutExpired) as e:
            why = f"`{' '.join(command)}` failed ({e})"
    return why


def quiet() -> dict[str, str]:
    """The environment in which a package's questions are not asked."""
    return os.environ | {"DEBIAN_FRONTEND": "noninteractive"}


def must(environment: dict[str, str] | os._Environ[str]) -> bool:
    """Whether the browser tests may not be skipped."""
    return environment.get("CI", "").lower() in ("true", "1")


def main() -> int:
    reasons = []
    path = found()
    for commands in () if path else ways(os.geteuid() == 0, shutil.which):
        reasons.append(tried(commands) or f"`{' '.join(commands[-1])}` left none that starts")
        if path := found():
            break
    if path:
        sys.stdout.write(f"Browser tests: {path}\n")
        return 0
    verdict, why = "FAILED" if must(os.environ) else "skipped", "; ".join(reasons)
    sys.stdout.write(
        f"Browser tests: {verdict}, no Chromium is here and none could be installed ({why}); install one.\n"
    )
    return 1 if must(os.environ) else 0


if __name__ == "__main__":
    sys.exit(main())
