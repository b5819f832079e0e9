"""`polymode compare`: make every cell that is not on disk yet, measure them, write report.html and results.json."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch
import yaml
from tqdm import tqdm

from app.compare.cells import cell_path, make_cell, save_made
from app.compare.options import DIRECT, NAMES, Compare
from app.errors import UsageError
from app.models import load_prior, require
from app.ranges import SCALE, SIGMA
from app.recipes import ANNEALS, check
from app.run.folder import atomic
from app.run.work import choose_device
from app.text import tidy, to_json
from guidance.priors.embedded import EmbeddedPrior

SETTINGS = "compare.yaml"
Key = tuple[str, str, int]  # prompt, method, seed


def checked(a: Compare) -> Compare:
    """`a` with plain prompts. UsageError, one sentence, for anything that could not run."""
    prompts = tuple(dict.fromkeys(tidy(p) for p in a.prompts))
    if not prompts:
        raise UsageError('Say what to compare on, for instance polymode compare "a red mushroom" "a key".')
    a = dataclasses.replace(a, prompts=prompts)
    names = a.names()
    if not names:
        raise UsageError("--methods names no method; give some of them, separated by commas.")
    for name in names:
        if (method := name.split(":")[0]) not in NAMES:
            raise UsageError(f"Unknown method {method!r}; choose among {', '.join(NAMES)}.")
    if any(n.split(":")[0] == DIRECT for n in names) and a.space == "image":
        raise UsageError("Direct fuses frames into a mesh; leave it out of --methods, or use --space 3d.")
    for name, value, low, high in (
        ("seeds", a.seeds, 1, 256),
        ("workers", a.workers, 1, 64),
        ("reference", a.reference, 2, 256),
        ("image.steps", a.image.steps, 1, 100_000),
        ("image.rate", a.image.rate, 0, 10),
        ("image.scale", a.image.scale, *SCALE),
        ("image.sigma-max", a.image.sigma_max, *SIGMA),
        ("image.sigma-min", a.image.sigma_min, 0.01, a.image.sigma_max),
        ("image.elevation", a.image.elevation, -80, 80),
    ):
        if not low <= value <= high:
            raise UsageError(f"--{name} {value} is out of range; use {low} to {high}.")
    if a.image.anneal not in ANNEALS:
        raise UsageError(f"Unknown anneal {a.image.anneal!r}; choose one of {', '.join(ANNEALS)}.")
    for prompt in prompts:
        for name in names:
            try:
                check(a.recipe(prompt, name, 0))
            except ValueError as e:
                raise UsageError(f"--methods: {e}") from e
    return a


def keys(a: Compare) -> list[Key]:
    """Every cell, prompt by prompt: a comparison that is stopped has whole prompts to show."""
    return [(p, m, s) for p in a.prompts for m in a.rows() for s in range(a.seeds)]


def settings(a: Compare) -> str:
    """What a cell's content follows from, as YAML: everything but which cells, where and how many at once."""
    values = dataclasses.asdict(a)
    for name in ("prompts", "methods", "seeds", "out", "workers", "json", "reference"):
        del values[name]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def prepare(a: Compare) -> None:
    """Make --out, or continue in it. UsageError where it holds something else, or a comparison of other settings."""
    try:
        if (a.out / SETTINGS).is_file():
            if (a.out / SETTINGS).read_text(encoding="utf-8") != settings(a):
                raise UsageError(f"{a.out} holds a comparison with other settings; give another folder with --out.")
        elif a.out.exists() and (not a.out.is_dir() or any(a.out.iterdir())):
            raise UsageError(f"{a.out} is not empty, and holds no comparison; give a new folder with --out.")
        a.out.mkdir(parents=True, exist_ok=True)
        with atomic(a.out / SETTINGS) as path:
            path.write_text(settings(a), encoding="utf-8")
    except OSError as e:
        raise UsageError(f"The folder {a.out} cannot be written ({e.strerror}); choose another with --out.") from e


_prior: EmbeddedPrior | None = None  # a worker process's own


def _start_worker(prior: str, device: str, precision: str, threads: int) -> None:
    global _prior
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and stops us
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(threads)
    _prior = load_prior(prior, choose_device(device), precision)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(a: Compare, key: Key, prior: EmbeddedPrior | None = None) -> Key:
    prior = prior or _prior
    assert prior is not None
    save_made(cell_path(a.out, *key), make_cell(a, *key, prior))
    return key


def make_cells(a: Compare, todo: list[Key], prior: EmbeddedPrior) -> Iterator[Key]:
    """Yield each cell's key as it is finished and on disk."""
    if a.workers == 1:
        for key in todo:
            yield _work(a, key, prior)
        return
    threads = max(1, (os.cpu_count() or 1) // a.workers)
    # numba and BLAS read these when they are first imported, in the new process
    os.environ |= {name: str(threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    pool = ProcessPoolExecutor(
        a.workers, get_context("spawn"), _start_worker, (a.prior, a.device, a.precision, threads)
    )
    try:
        for done in as_completed([pool.submit(_work, a, key) for key in todo]):
            yield done.result()
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def run_compare(a: Compare) -> int:
    """The command's body. Returns the exit code."""
    a = checked(a)
    device = choose_device(a.device)
    require(a.prior)
    prepare(a)
    prior = load_prior(a.prior, device, a.precision)
    todo = [k for k in keys(a) if not cell_path(a.out, *k).is_file()]
    bar = tqdm(total=len(keys(a)), initial=len(keys(a)) - len(todo), unit="cell", file=sys.stderr)
    for prompt, method, seed in make_cells(a, todo, prior):
        bar.set_postfix_str(f"{prompt} · {method} · {seed}")
        bar.update(1)
    bar.close()
    from app.compare.report import report, text_table

    results = report(a, prior)
    files = {"report": str(a.out / "report.html"), "results": str(a.out / "results.json")}
    if a.json:
        kept = {k: results[k] for k in ("summary", "paired", "base")}
        sys.stdout.write(to_json({"status": "done", **files, **kept}, encoding=sys.stdout.encoding) + "\n")
    else:
        sys.stdout.write(text_table(results["summary"]) + f"\n{files['report']}\n{files['results']}\n")
    return 0
