"""One markdown table of several evaluations: `python -m benchmarks.tables prior=a/results.json direct=b.json`.

Each file is what `polymode evaluate --out` or benchmarks/gallery.py wrote. Mean [95 % bootstrap interval].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from app.evaluate.report import COLUMNS, cell


def markdown(named: dict[str, list[dict[str, Any]]]) -> str:
    """Rows of `app.evaluate.measure.table` by name, one line a name and group."""
    lines = ["| what | group | prompts | " + " | ".join(title for _, title, _ in COLUMNS) + " |"]
    lines.append("|---" * (3 + len(COLUMNS)) + "|")
    for name, rows in named.items():
        for r in rows:
            cells = [cell(r, key, scale) for key, _, scale in COLUMNS]
            lines.append("| " + " | ".join([name, r["group"], str(r["prompts"]), *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    files = dict(argument.split("=", 1) for argument in sys.argv[1:])
    print(
        markdown({name: json.loads(Path(path).read_text(encoding="utf-8"))["table"] for name, path in files.items()})
    )
