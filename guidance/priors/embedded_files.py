"""The embedded prior's files: bf16 safetensors shards of at most 15 MB beside a config.json that names them.

config.json: {"format": 1, "channels": [...], "condition_width": 416, "refined": true, "size": 64,
"shards": {file: sha256}, "training": {...}}. Nothing here needs torch: what is on disk can be asked before it loads.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from guidance.errors import MissingWeights

FORMAT = 1
CAMERA_WIDTH = 16  # of the vector that tells a frame's camera; all that the first weights were told


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a weights folder. MissingWeights, in one sentence, if it is absent or not ours."""
    path = folder / "config.json"
    if not path.is_file():
        raise MissingWeights(
            f"No prior at {folder} (config.json is missing); give --prior a folder of exported weights."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise KeyError("format")
        return {
            "channels": tuple(int(c) for c in config["channels"]),
            "condition_width": CAMERA_WIDTH,  # of the first weights, whose config.json does not say
            "refined": False,  # likewise
            "pictured": False,
            "size": int(config["size"]),
        } | config
    except (ValueError, KeyError, TypeError) as e:
        raise MissingWeights(
            f"{path} is not a Polymode prior's configuration; restore the file or choose another --prior."
        ) from e


def read_shards(folder: Path) -> tuple[list[bytes], dict[str, Any]]:
    """The shards' bytes, their checksums verified, and the config. MissingWeights for absent, truncated or altered
    files."""
    config = read_config(folder)
    shards = []
    for name, digest in config["shards"].items():
        path = folder / Path(name).name
        if not path.is_file():
            raise MissingWeights(f"The weights file {path} is missing; reinstall Polymode or choose another --prior.")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise MissingWeights(
                f"The weights file {path} is truncated or altered; reinstall Polymode or restore the file."
            )
        shards.append(data)
    return shards, config
