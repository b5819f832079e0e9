"""summary.json, summary.csv and index.html of a batch, written anew whenever a line is over."""

from __future__ import annotations

import csv
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from app.batch.entries import Entry
from app.batch.table import counts, duration
from app.errors import UsageError
from app.jobs import state
from app.jobs.state import CANCELLED, DONE, FAILED
from app.run.folder import Run, atomic
from app.text import shown

KIND = "polymode batch"
SUMMARY, TABLE, PAGE, THUMBNAILS = "summary.json", "summary.csv", "index.html", "thumbnails"
WIDTH = 360  # pixels of a thumbnail
COLUMNS: tuple[str, ...] = (
    "line",
    "state",
    "title",
    "folder",
    "method",
    "seed",
    "seconds",
    "faces",
    "attempts",
    "exit_code",
    "reason",
    "notes",
)
STYLE = """:root{color-scheme:light dark}body{font:15px/1.4 system-ui,sans-serif;margin:24px;max-width:1500px}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(280px,1fr));gap:16px}
article{border:1px solid #8886;border-radius:8px;overflow:hidden}article div{padding:8px 12px}
img{width:100%;display:block;background:#8882}h2{font-size:15px;margin:0;overflow-wrap:anywhere}
p{margin:4px 0}small{opacity:.75}table{border-collapse:collapse;margin:12px 0}
td,th{padding:4px 10px;text-align:left;vertical-align:top;border-bottom:1px solid #8884;overflow-wrap:anywhere}
.bad{color:#c0392b}a{margin-right:10px}"""


@dataclass
class Report:
    """The files about a batch in its folder."""

    root: Path
    source: Path
    known: dict[str, dict[str, Any]] = field(default_factory=dict)  # rows of finished runs, which do not change

    def claim(self) -> None:
        """UsageError where files of these names are somebody else's."""
        mine = (state.read_json(self.root / SUMMARY) or {}).get("kind") == KIND
        for name in (SUMMARY, TABLE, PAGE, THUMBNAILS):
            if not mine and (self.root / name).exists():
                raise UsageError(
                    f"{self.root / name} was not written by a batch and would be replaced; give a new folder with "
                    "--out."
                )

    def row(self, e: Entry) -> dict[str, Any]:
        """A line of the summary."""
        if e.state == DONE and e.id in self.known:
            return self.known[e.id] | {"line": e.line.number, "title": e.line.title}
        recipe, job = e.line.recipe, e.job
        out: dict[str, Any] = dict.fromkeys(COLUMNS) | {
            "line": e.line.number,
            "state": e.state,
            "title": e.line.title,
            "method": None if recipe is None else recipe.method,
            "seed": None if recipe is None else recipe.seed,
            "exit_code": e.exit_code if e.error else (None if job is None else job.exit_code),
            "reason": e.reason,
        }
        if job is not None:
            out |= {"folder": job.id, "attempts": job.attempts}
        if job is not None and job.started is not None and job.ended is not None:
            out["seconds"] = round(job.ended - job.started, 2)
        if e.state == DONE:
            metadata = state.read_json(self.root / e.id / "metadata.json") or {}
            out["faces"] = (metadata.get("mesh") or {}).get("faces")
            out["notes"] = " ".join(state.notes(self.root / e.id, e.state)) or None
            self.thumbnail(e.id)
            self.known[e.id] = out
        return out

    def thumbnail(self, id: str) -> None:
        """A small copy of a run's contact sheet; none where that cannot be read."""
        source, target = self.root / id / "contact_sheet.png", self.root / THUMBNAILS / f"{id}.webp"
        if target.is_file() and source.is_file() and target.stat().st_mtime >= source.stat().st_mtime:
            return
        try:
            with Image.open(source, formats=("PNG",)) as image:
                small = image.convert("RGB")
        except (OSError, ValueError, SyntaxError):
            return
        small.thumbnail((WIDTH, WIDTH))
        target.parent.mkdir(exist_ok=True)
        with atomic(target) as path:
            small.save(path, "WEBP", quality=80)

    def write(self, entries: Sequence[Entry], status: str, seconds: float) -> dict[str, Any]:
        """All three files. Returns summary.json's content. `status`: running, done or interrupted; `seconds` that this
        start has taken. OSError where the folder cannot be written."""
        rows = [self.row(e) for e in entries]
        summary: dict[str, Any] = {"kind": KIND, "source": str(self.source), "folder": str(self.root)}
        summary |= {"status": status, "seconds": round(seconds, 2), "lines": len(rows), "counts": counts(entries)}
        summary["runs"] = rows
        run = Run(self.root)
        run.write_json(SUMMARY, summary)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(COLUMNS))
        writer.writeheader()
        writer.writerows(rows)
        run.write_text(TABLE, text.getvalue())
        run.write_text(PAGE, self.page(summary))
        return summary

    def page(self, summary: dict[str, Any]) -> str:
        """index.html: no script, nothing from elsewhere, links into the run folders beside it."""
        rows, n, source = summary["runs"], summary["counts"], html.escape(shown(self.source.name))
        bad = [r for r in rows if r["state"] in (FAILED, CANCELLED)]
        said = ", ".join(f"{v} {k}" for k, v in n.items() if v)
        parts = [
            "<!doctype html><html lang=en><meta charset=utf-8>"
            '<meta name=viewport content="width=device-width,initial-scale=1">'
            f"<title>{source}</title><style>{STYLE}</style>",
            f"<h1>{source}</h1><p>{summary['lines']} lines: {said}.</p>",
        ]
        if bad:
            body = "".join(
                f"<tr><td>{r['line']}<td>{html.escape(r['title'])}<td class=bad>{html.escape(r['reason'] or '')}"
                + (f"<td>{link(r['folder'], '', 'folder')}" if r["folder"] else "<td>")
                for r in bad
            )
            parts.append(f"<h2>Not made</h2><table><tr><th>line<th>what<th>why<th>{body}</table>")
        parts += ["<main>", *(self.card(r) for r in rows if r["state"] == DONE), "</main></html>\n"]
        return "\n".join(parts)

    def card(self, r: dict[str, Any]) -> str:
        """A finished run."""
        id, title = r["folder"], html.escape(r["title"])
        facts = [f"line {r['line']}", html.escape(str(r["method"])), f"seed {r['seed']}"]
        facts += [f"{r['faces']} triangles"] if r["faces"] else []
        facts += [duration(r["seconds"])] if r["seconds"] is not None else []
        notes = f"<p><small>{html.escape(r['notes'])}</small></p>" if r.get("notes") else ""
        picture = f'<img loading=lazy src="{THUMBNAILS}/{quote(os.fsencode(id))}.webp" alt="{title}">'
        links = [("mesh.glb", "GLB"), ("contact_sheet.png", "contact sheet"), ("turntable.mp4", "turntable")]
        links = [link(id, f, t) for f, t in links if os.path.isfile(self.root / id / f)]
        return (
            f'<article><a href="{quote(os.fsencode(id))}/contact_sheet.png">{picture}</a><div><h2>{title}</h2>'
            f"<p><small>{' · '.join(facts)}</small></p>{notes}<p>{''.join(links)}</p></div></article>"
        )


def link(id: str, file: str, text: str) -> str:
    return f'<a href="{quote(os.fsencode(id))}/{quote(file)}">{text}</a>'
