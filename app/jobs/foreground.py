"""A run in the foreground (`polymode generate`, `reconstruct`) as a job: it can be listed, shown and cancelled from
elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Cancelled, UsageError, UserError
from app.jobs import state
from app.jobs.index import NAME, Index
from app.jobs.state import CANCELLED, DONE, FAILED, RUNNING, Job
from app.recipes import Recipe
from app.runs import Run


def record(run: Run, job: Job) -> None:
    """Into the run's folder, and into the index of the folder around it where there is one. A full disk is left to the
    run itself to report."""
    with contextlib.suppress(OSError, UsageError):
        state.write_job(run.folder, job)
        if (run.folder.parent / NAME).is_file():
            Index(run.folder.parent).put(job)


@contextmanager
def foreground(run: Run, recipe: Recipe) -> Iterator[None]:
    """Hold the run's lock and say how it goes. UsageError where another process runs it."""
    with state.locked(run.folder) as mine:
        if not mine:
            raise UsageError(
                f"The run in {run.folder} is at work already; see `polymode jobs show {run.folder.name}`."
            )
        (run.folder / state.CANCEL).unlink(missing_ok=True)
        known = state.read_job(run.folder) if (run.folder / state.JOB).is_file() else None
        now = state.now()
        job = dataclasses.replace(
            known or state.new_job(run, recipe), state=RUNNING, started=now, ended=None, pid=os.getpid(), reason=""
        )
        record(run, job)

        def end(to: str, code: int, reason: str = "") -> None:
            (run.folder / state.CANCEL).unlink(missing_ok=True)
            ended = dataclasses.replace(job, state=to, ended=state.now(), pid=None, exit_code=code, reason=reason)
            record(run, ended)

        try:
            yield
        except Cancelled as e:
            end(CANCELLED, e.exit_code, str(e))
            raise
        except UserError as e:
            end(FAILED, e.exit_code, str(e))
            raise
        except BaseException as e:
            stopped = isinstance(e, KeyboardInterrupt)
            end(CANCELLED if stopped else FAILED, 130 if stopped else 1, "Interrupted." if stopped else repr(e)[:300])
            raise
        end(DONE, 0)
