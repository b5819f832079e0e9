"""A run in the foreground (`polymode generate`, `reconstruct`) as a job: it can be listed, shown and cancelled from
elsewhere. It is no worker's: when its process is killed it waits for a person to resume it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import Cancelled, UsageError, UserError
from app.jobs import state
from app.jobs.index import NAME, Index
from app.jobs.state import CANCELLED, DONE, FAILED, RUNNING, Job
from app.recipes import Recipe
from app.run.folder import Run
from app.text import quoted

LOOK = 0.2  # seconds between looks for a cancellation


def record(folder: Path, change: Callable[[Job], Job], fresh: Job) -> None:
    """Change the run's job (`fresh` where it has none) in its folder, and in the index of the folder around it where
    there is one. A full disk is left to the run itself to report."""
    known = (folder / state.JOB).is_file()
    with contextlib.suppress(OSError):
        if (folder.parent / NAME).is_file():
            with contextlib.suppress(UserError):
                index = Index(folder.parent)
                index.change(folder.name, change) if known else index.put(change(fresh))
                return
        state.write_job(folder, change((state.read_job(folder) if known else None) or fresh))


@contextmanager
def foreground(run: Run, recipe: Recipe) -> Iterator[None]:
    """Hold the run's lock and say how it goes. UsageError where another process runs it."""
    folder = Path(os.path.abspath(run.folder))
    fresh = state.new_job(Run(folder), recipe)
    with state.locked(folder) as mine:
        if not mine:
            raise UsageError(
                f"The run in {folder} is at work already; see `polymode jobs show {quoted(folder.name)}`."
            )
        state.sweep(folder)
        (folder / state.CANCEL).unlink(missing_ok=True)
        begun = {"state": RUNNING, "started": state.now(), "ended": None, "exit_code": None, "reason": ""}
        begun |= {"pid": os.getpid(), "attempts": 0}
        record(folder, lambda j: dataclasses.replace(j, **begun), fresh)

        def end(to: str, code: int, reason: str = "") -> None:
            over = {"state": to, "ended": state.now(), "pid": None, "exit_code": code, "reason": reason}
            record(folder, lambda j: dataclasses.replace(j, **over), fresh)
            with contextlib.suppress(OSError):
                (folder / state.CANCEL).unlink(missing_ok=True)

        try:
            with _impatient(folder):
                yield
        except Cancelled as e:
            end(CANCELLED, e.exit_code, str(e))
            raise
        except UserError as e:
            end(FAILED, e.exit_code, str(e))
            raise
        except KeyboardInterrupt:
            end(CANCELLED, Cancelled.exit_code, "Interrupted.")
            raise
        except BaseException as e:
            end(FAILED, 1, f"An error of Polymode itself: {e!r}"[:300])
            raise
        end(DONE, 0)


@contextmanager
def _impatient(folder: Path) -> Iterator[None]:
    """Interrupt the process where the run has not stopped GRACE seconds after it was cancelled."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK):
            if state.cancel_asked(folder) and not over.wait(state.GRACE):
                os.kill(os.getpid(), signal.SIGINT)  # twice: the first asks what the run was asked already
                if not over.wait(LOOK):
                    os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
