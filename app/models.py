"""The table of priors: alias, licence, where the weights are, and whether this version can run them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import MissingError, UsageError
from app.text import shown
from guidance.errors import MissingWeights
from guidance.priors.embedded_files import read_config, read_shards

if TYPE_CHECKING:
    import torch

    from guidance.priors.embedded import EmbeddedPrior

SHIPPED = ("embedded",)


@dataclass(frozen=True)
class Model:
    """One line of `polymode models list`. `folder` is where weights are looked for; none is ever downloaded."""

    alias: str
    what: str
    licence: str
    folder: Path

    def state(self) -> str:
        """ "ready", or why not, in a few words."""
        try:
            read_config(self.folder)
        except MissingWeights:
            return f"weights not on disk ({self.folder})"
        except OSError as e:
            return f"weights cannot be read ({self.folder}: {e.strerror})"
        return "ready"


def models_folder() -> Path:
    """Where a user keeps other exported priors: $POLYMODE_MODELS, or ~/.polymode/models."""
    return Path(os.environ.get("POLYMODE_MODELS") or os.path.expanduser("~/.polymode/models"))


def known_models() -> list[Model]:
    """The shipped prior, the local slot for one's own training, and every folder of exported weights in
    `models_folder`."""
    assets = Path(str(files("assets")))
    table = [
        Model(
            "embedded",
            "multi-view frames of low-poly game assets, from text and pictures, 64 px, runs on a CPU",
            "Apache-2.0",
            assets / "prior",
        ),
        Model(
            "local",
            "a prior of your own, from `polymode train`",
            "yours",
            models_folder() / "local",
        ),
    ]
    taken = {m.alias for m in table}
    with suppress(OSError):  # a folder that is closed to us has nothing for us
        for folder in sorted(models_folder().iterdir()):
            if folder.name not in taken and (folder / "config.json").is_file():
                table.append(Model(folder.name, "exported weights", "see the folder", folder))
    return table


def weights_folder(name: str) -> Path:
    """Where an alias or a path points. UsageError for a name that is neither."""
    table = {m.alias: m for m in known_models()}
    if name in table:
        return table[name].folder
    try:
        if Path(name).is_dir() or "/" in name:
            return Path(name)
    except OSError as e:  # too long a name, a folder that is closed to us
        raise UsageError(f"The prior {shown(name)!r} cannot be read ({e.strerror}); give another.") from e
    raise UsageError(
        f"Unknown prior {name!r}; use one of {', '.join(table)}, or the path of a folder of exported weights."
    )


def require(name: str) -> None:
    """Refuse, before anything is written, a prior that is unknown, or whose files are absent or damaged."""
    folder = weights_folder(name)
    try:
        with unreadable(folder):
            read_shards(folder)
    except (AttributeError, KeyError, TypeError, ValueError) as e:  # a config.json of somebody else's
        raise MissingError(
            f"{folder / 'config.json'} is not a Polymode prior's configuration; restore the file or choose another "
            "--prior."
        ) from e


@contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """MissingError, in one sentence, for weights in `folder` that are absent, damaged or closed to us."""
    try:
        yield
    except MissingWeights as e:
        raise MissingError(str(e)) from e
    except OSError as e:
        raise MissingError(f"The weights in {folder} cannot be read ({e.strerror}); see who may read them.") from e


def load_prior(name: str, device: torch.device, precision: str = "float32") -> EmbeddedPrior:
    """By alias or folder, in a precision of app/recipes.py. UsageError for a name that is neither, MissingError where
    the weights are absent or damaged."""
    from guidance.priors.embedded import EmbeddedPrior  # seconds to import: not for a list of models

    folder = weights_folder(name)
    with unreadable(folder):
        return EmbeddedPrior.load(folder, device, name, precision)
