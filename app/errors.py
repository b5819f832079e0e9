"""What can go wrong for a user, and the exit code of each: one sentence what, one sentence do, never a traceback."""

from __future__ import annotations


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


class Cancelled(UserError):
    """The user stopped the run; its folder can be resumed."""

    exit_code = 130


OUT_OF_MEMORY = 4
