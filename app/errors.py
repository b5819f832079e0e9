"""What can go wrong for a user, and the exit code of each: one sentence what, one sentence do, never a traceback."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.text import quoted


class UserError(Exception):
    """Base of the errors that end a command with a sentence."""

    exit_code = 1


class UsageError(UserError):
    """Bad input: a flag, a prompt, an output folder."""

    exit_code = 2


class MissingError(UserError):
    """A model or an optional package is missing or damaged."""

    exit_code = 3


class CollapseError(UserError):
    """The optimisation died (NaN, empty, full, no gradient) or its result is empty."""

    exit_code = 5


class DiskError(UserError):
    """The disk is full, or a folder can no longer be written."""

    exit_code = 6


class Cancelled(UserError):
    """The user stopped the run; its folder can be resumed."""

    exit_code = 130


OUT_OF_MEMORY = 4
NO_MEMORY = "Out of memory; use a smaller preset, or fewer --field.sets and a smaller --field.resolution."


def out_of_memory(e: BaseException) -> bool:
    """Whether Python, or torch by a RuntimeError, says that memory ran out."""
    return isinstance(e, MemoryError) or (isinstance(e, RuntimeError) and "memory" in str(e).lower())


REFUSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)  # of a path, by the system


def as_user_error(e: Exception) -> UserError:
    """What to tell of an error that nobody foresaw where others must go on: one sentence, and an exit code."""
    if isinstance(e, UserError):
        return e
    if out_of_memory(e):
        told = UserError(NO_MEMORY)
        told.exit_code = OUT_OF_MEMORY
        return told
    what = f"{type(e).__name__}: {' '.join(str(e).split())[:120]}".rstrip(".: ")
    return UserError(f"An error of Polymode itself ({what}); report it, or change the settings.")


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def disk_errors(folder: Path, goes_on: str | None = None) -> Iterator[None]:
    """DiskError, in two sentences, for a write into `folder` that the system refuses. What was written stays;
    `goes_on` says how to continue."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:  # safetensors has an error of its own, with the system's number in its text
        number = getattr(e, "errno", None)
        if number not in FULL and not any(f"os error {n})" in str(e) for n in FULL):
            raise
        why = os.strerror(number) if number else str(e).split(" (os error")[0].split(": ")[-1]
        goes_on = goes_on or f"continue with `polymode generate --resume {quoted(folder)}`"
        raise DiskError(f"{folder} cannot be written ({why}). Make room, then {goes_on}.") from e
