"""The batch runner: 24 prompts with 2 bad lines, interrupted at the half and started again; and what two workers gain.

    python -m benchmarks.batch                                 # the whole, about half an hour on two cores
    python -m benchmarks.batch --prompts 6 --lines 3 --tiny    # to see that it works

Throughput: lines an hour of the same lines by one worker of one thread, one of two threads, and two of one thread
each, from the first run's start to the last one's end, so without imports. Ratios of one sitting: leave the machine
alone meanwhile. A pass uses every configuration once; the order turns round with each.
"""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from app.evaluate.nouns import eval100
from app.export.glb import read_glb
from app.jobs.state import finished

TINY: dict[str, Any] = {"direct.steps": 2, "direct.rounds": 1, "direct.fit": 5, "direct.hull": 32}
TINY |= {"texture.size": 128, "mesh.faces": 800}
BAD = ('{"prompt": "a cow", "method": "magic"}', '{"prompt": "a cow", ')
CONFIGURATIONS = ((1, 1), (1, 2), (2, 1))  # workers, threads of each


@dataclass(frozen=True)
class Arguments:
    """Measure the batch runner."""

    out: Path = Path(".cache/benchmark-batch")
    """Folders of batches: made anew."""
    prompts: int = 24
    """Lines of the first part, the bad ones among them."""
    lines: int = 6
    """Lines of a batch of the second part."""
    passes: int = 2
    """Times each configuration is measured."""
    tiny: bool = False
    """Runs of seconds that look like nothing."""


def write(path: Path, prompts: list[str], tiny: bool, bad: tuple[str, ...] = ()) -> Path:
    rows = [json.dumps({"prompt": p, "method": "direct"} | (TINY if tiny else {})) for p in prompts]
    for k, row in enumerate(bad, 1):
        rows.insert(k * len(rows) // (len(bad) + 1), row)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def command(path: Path, out: Path, workers: int, threads: int) -> list[str]:
    numbers = ["--workers", str(workers), "--threads", str(threads)]
    return [sys.executable, "-m", "app.cli", "batch", str(path), "--out", str(out), *numbers, "--json"]


def summary_of(out: Path) -> dict[str, Any] | None:
    path = out / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def meshes(out: Path) -> dict[str, int]:
    """Of finished runs; one that is interrupted between its mesh and its pictures goes on."""
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("*/mesh.glb") if finished(p.parent)}


def interrupted_and_resumed(a: Arguments) -> dict[str, Any]:
    """The first part: what its two starts left."""
    good = a.prompts - len(BAD)
    path, out = write(a.out / "prompts.jsonl", [p.text for p in eval100()[:good]], a.tiny, BAD), a.out / "batch"
    process = subprocess.Popen(command(path, out, 2, 1), stdout=subprocess.DEVNULL)
    while process.poll() is None and ((s := summary_of(out)) is None or s["counts"]["done"] < good // 2):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    first, half = process.wait(), meshes(out)
    second = subprocess.run(command(path, out, 2, 1), stdout=subprocess.PIPE, text=True, encoding="utf-8")
    summary = json.loads(second.stdout)
    after = meshes(out)
    return {
        "exit codes": f"{first}, {second.returncode}",
        "done at the interruption": len(half),
        "of these run again": sum(after[k] != v for k, v in half.items()),
        "GLBs that read back": sum(len(read_glb(out / k / "mesh.glb").faces) > 0 for k in after),
        "failures": summary["counts"]["failed"],
        "sentences": [r["reason"] for r in summary["runs"] if r["state"] == "failed"],
    }


def lines_an_hour(a: Arguments, workers: int, threads: int, turn: int) -> float:
    path, out = a.out / "throughput.jsonl", a.out / f"throughput-{workers}x{threads}-{turn}"
    subprocess.run(command(path, out, workers, threads), stdout=subprocess.DEVNULL, check=True)
    jobs = [json.loads(p.read_text(encoding="utf-8")) for p in out.glob("*/job.json")]
    return 3600 * len(jobs) / (max(j["ended"] for j in jobs) - min(j["started"] for j in jobs))


def throughput(a: Arguments) -> dict[tuple[int, int], list[float]]:
    write(a.out / "throughput.jsonl", [p.text for p in eval100()[: a.lines]], a.tiny)
    found: dict[tuple[int, int], list[float]] = {c: [] for c in CONFIGURATIONS}
    for turn in range(a.passes):
        for c in CONFIGURATIONS if turn % 2 == 0 else CONFIGURATIONS[::-1]:
            found[c].append(lines_an_hour(a, *c, turn))
    return found


def main() -> None:
    a = tyro.cli(Arguments)
    if a.out.exists() and not (a.out / "throughput.jsonl").exists() and any(a.out.iterdir()):
        sys.exit(f"{a.out} holds something else; give another folder with --out.")
    shutil.rmtree(a.out, ignore_errors=True)
    rates = throughput(a)
    first = interrupted_and_resumed(a)
    print(f"\n{a.prompts} lines, {len(BAD)} of them bad, interrupted at the half and started again")
    for name, value in first.items():
        for v in value if isinstance(value, list) else [value]:
            print(f"  {name:<26} {v}")
    one, wide, two = (statistics.median(rates[c]) for c in CONFIGURATIONS)
    print(f"\n{a.lines} lines, {a.passes} passes, lines an hour (median; all)")
    for (workers, threads), values in rates.items():
        every = ", ".join(f"{v:.0f}" for v in values)
        print(f"  {workers} worker(s) of {threads} thread(s)   {statistics.median(values):6.0f}   ({every})")
    print(f"  two of one thread to one of one    {two / one:.2f}   (wanted: 1.6 or more)")
    print(f"  two of one thread to one of two    {two / wide:.2f}   (wanted: 1.0 or more)")


if __name__ == "__main__":
    main()
