"""Where numba keeps the compiled kernels, chosen before it is imported: beside their sources, as it would itself, or
where these are read-only, or another user's, in the user's cache. Numba alone gives up without a home to write to.

What is in such a folder is run, so one among the temporary files must be this user's alone.
"""

from __future__ import annotations

import atexit
import os
import stat
from collections.abc import Mapping, Sequence

ROOMS = ("renderers", "renderers/raster", "app/export")  # have kernels


def sources() -> list[str]:
    """The folders of the modules that have kernels."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [os.path.join(root, *room.split("/")) for room in ROOMS]


def cache_folder(folders: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """The folder for kernels of modules in `folders`, made; None where numba's own choice, or the user's, is right, or
    nothing can be written anywhere."""
    if environment.get("NUMBA_CACHE_DIR") or all(writable(f) for f in folders):
        return None
    home = environment.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if os.path.isabs(home):
        folder = os.path.join(home, "polymode", "kernels")
        try:
            os.makedirs(folder, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
        except OSError:
            pass
    return temporary()


def writable(folder: str) -> bool:
    """Whether files can be written into its __pycache__."""
    inside = os.path.join(folder, "__pycache__")
    return os.access(inside if os.path.isdir(inside) else folder, os.W_OK)


def temporary() -> str | None:
    """A folder of this user's among the temporary files, the same the next time; one for this process where somebody
    else has taken its name."""
    import shutil
    import tempfile

    try:
        folder = os.path.join(tempfile.gettempdir(), f"polymode-kernels-{os.getuid() if os.name != 'nt' else 0}")
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            found = os.lstat(folder)
            theirs = os.name != "nt" and (found.st_uid != os.getuid() or found.st_mode & 0o022)
            if theirs or not stat.S_ISDIR(found.st_mode):
                folder = tempfile.mkdtemp(prefix="polymode-kernels-")
                atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder
    except OSError:
        return None
