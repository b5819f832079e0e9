"""Chromium against `polymode serve` with its workers and the shipped prior. `make test` installs one where it can
(tests/chromium.py); without one these are skipped, and under CI=true they fail."""

from __future__ import annotations

import io
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect, sync_playwright

from app.export.glb import read_glb
from tests import chromium
from tests.web import Served, serving

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SLOW = 180.0  # seconds, on a busy machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium.found()
    if path is None and chromium.must(os.environ):
        pytest.fail(chromium.MISSING)
    if path is None:
        pytest.skip(chromium.MISSING)
    with sync_playwright() as p:
        started = p.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "runs", "--idle", "60") as s:
        yield s


def opened(browser: Browser, url: str, width: int = 1280) -> tuple[Page, list[str]]:
    """A fresh page, and what goes wrong on it: requests to other hosts and errors of its scripts."""
    page, trouble = browser.new_page(viewport={"width": width, "height": 900}), []
    page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else trouble.append(r.url))
    page.on("pageerror", lambda e: trouble.append(str(e)))
    page.goto(url)
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_visible(timeout=30_000)
    return page, trouble


def until(what: Callable[[], Any], seconds: float = SLOW, every: float = 0.1) -> Any:
    """What `what` returns, once that is something."""
    ends = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < ends, f"not within {seconds} s"
        time.sleep(every)
    return found


def job(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "job.json").read_text())


def run_of(server: Served, prompt: str) -> Path:
    return until(
        lambda: next(
            (f for f in server.runs.glob("*") if (f / "job.json").is_file() and job(f)["title"] == prompt), None
        )
    )


def advanced(page: Page, group: str, **values: str) -> None:
    """Fill in settings of the advanced drawer, which is open."""
    page.get_by_role("button", name=group).click()
    for name, value in values.items():
        page.get_by_label(name.replace("__", "."), exact=False).first.fill(value)


def cpu(pid: int, seconds: float) -> float:
    """Cores that a process keeps busy; 0 where it is gone."""

    def used() -> float:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, start = used(), time.monotonic()
    time.sleep(seconds)
    return max(0.0, used() - before) / (time.monotonic() - start)


def live_pictures(page: Page, url: str, enough: int) -> dict[tuple[str, int], np.ndarray]:
    """The first frames of the live pictures as they come, by stage and step."""
    found: dict[tuple[str, int], np.ndarray] = {}

    def look() -> bool:
        figure = page.evaluate(
            """() => { const f = document.querySelector('#panel figure.turn'), i = f && f.querySelector('img.live');
            const c = f && f.querySelector('figcaption');
            return i && c ? [i.getAttribute('src'), c.dataset.stage, c.dataset.step, c.innerText] : null; }"""
        )
        if figure:
            src, stage, step, words = figure
            assert f"step {step}" in words
            if (stage, int(step)) not in found:
                answer = page.request.get(url + src)
                if answer.ok:
                    with Image.open(io.BytesIO(answer.body())) as image:
                        assert image.n_frames == 12  # pyright: ignore[reportAttributeAccessIssue]
                        found[stage, int(step)] = np.asarray(image.convert("RGB"), np.float32) / 255
        return len(found) >= enough

    until(look, every=0.2)
    return found


def test_generate_watch_cancel_reload_download(browser: Browser, server: Served):
    page, trouble = opened(browser, server.url)
    page.get_by_label("What to make, in English").fill("a red mushroom")
    page.get_by_label("Method").first.click()
    page.get_by_role("option", name="sds").click()
    page.get_by_role("button", name="Advanced").click()
    advanced(page, "Stage 1: the field", field__steps="60")
    advanced(page, "Stage 3: refinement", refine__steps="10")
    advanced(page, "Stage 4: the texture", texture__size="256")
    page.get_by_role("button", name="Generate", exact=True).click()

    first = run_of(server, "a red mushroom")
    pictures = live_pictures(page, server.url, 4)
    assert len({step for _, step in pictures}) >= 3
    frames = [pictures[k] for k in sorted(pictures, key=lambda k: (k[0] != "field", k[1]))]
    changes = [float(np.abs(b - a).mean()) for a, b in itertools.pairwise(frames)]
    assert np.mean(changes) > 0.01 and float(np.abs(frames[-1] - frames[0]).mean()) > 0.01, changes
    expect(page.locator("#panel")).to_contain_text("What the prior sees")
    assert "field.steps" not in page.locator("#panel").inner_text()

    # another run waits; the page survives a reload meanwhile
    page.get_by_label("What to make, in English").fill("a blue car")
    page.get_by_label("field.steps", exact=False).first.fill("5000")
    page.get_by_role("button", name="Generate", exact=True).click()
    second = run_of(server, "a blue car")
    expect(page.locator("#panel h2")).to_contain_text("a blue car", timeout=30_000)
    page.reload()
    expect(page.locator("#panel")).to_contain_text("a blue car", timeout=30_000)
    until(lambda: job(first)["state"] == "done")
    until(lambda: job(second)["state"] == "running" and list(second.glob("previews/*.webp")))
    pid = job(second)["pid"]
    busy = cpu(pid, 1.0)
    assert busy > 0.2
    clicked = time.monotonic()
    page.get_by_role("button", name="Cancel a blue car").click()
    until(lambda: job(second)["state"] in ("cancelling", "cancelled"), 2.0, 0.02)
    acknowledged = time.monotonic() - clicked
    time.sleep(max(0.0, 2.0 - (time.monotonic() - clicked)))
    idle = cpu(pid, 1.0)
    assert idle < 0.25 * busy
    print(f"changes {changes}, acknowledged in {acknowledged:.2f} s, cores {busy:.2f} then {idle:.2f}")
    until(lambda: job(second)["state"] == "cancelled", 5.0)
    expect(page.locator("#panel .head .badge")).to_have_text("cancelled", timeout=10_000)

    page.reload()
    page.get_by_role("tab", name="Runs").click()
    cards = page.locator(".gallery .card")
    expect(cards).to_have_count(2, timeout=20_000)
    expect(cards.filter(has_text="a blue car")).to_contain_text("cancelled")
    page.get_by_label("Search in titles").fill("MUSHROOM")
    expect(cards).to_have_count(1, timeout=20_000)
    cards.filter(has_text="a red mushroom").click()
    expect(page.locator("#panel h2")).to_contain_text("a red mushroom", timeout=20_000)
    expect(page.locator("#panel table.facts")).to_contain_text("Watertight")
    expect(page.locator("#model canvas")).to_have_count(1, timeout=20_000)  # hidden here: no WebGL without a GPU
    video = page.locator("#panel video")
    until(lambda: video.evaluate("v => v.readyState >= 2 && v.videoWidth > 0"), 30)
    with page.expect_download() as download:
        page.get_by_role("link", name="GLB").click()
    mesh = read_glb(Path(download.value.path()))
    assert len(mesh.faces) > 100 and download.value.suggested_filename.endswith("mesh.glb")
    assert Path(download.value.path()).read_bytes() == (first / "mesh.glb").read_bytes()
    assert not trouble, trouble
    page.close()


def mushroom(path: Path) -> Path:
    """A red cap on a white stem, on grey."""
    image = Image.new("RGB", (256, 256), (128, 160, 190))
    draw = ImageDraw.Draw(image)
    draw.rectangle((108, 130, 148, 215), fill=(235, 225, 205))
    draw.pieslice((50, 40, 206, 210), 180, 360, fill=(200, 30, 25))
    image.save(path)
    return path


def test_reconstruct_from_an_uploaded_picture(browser: Browser, server: Served, tmp_path: Path):
    page, trouble = opened(browser, server.url)
    page.get_by_role("tab", name="Picture").click()
    page.locator("input[type=file]").first.set_input_files(mushroom(tmp_path / "mine.png"))
    expect(page.locator(".uploaded img")).to_have_count(1, timeout=20_000)
    until(lambda: page.locator(".uploaded img").evaluate("i => i.naturalWidth > 0"), 20)
    page.get_by_role("button", name="Advanced").click()
    advanced(page, "Stage 4: the texture", texture__size="256")
    page.get_by_role("button", name="Reconstruct", exact=True).click()
    folder = run_of(server, "mine")
    until(lambda: job(folder)["state"] in ("done", "failed"))
    assert job(folder)["state"] == "done", job(folder)
    assert len(read_glb(folder / "mesh.glb").faces) > 100
    expect(page.locator("#panel .badge").first).to_be_visible()
    expect(page.locator("#panel video")).to_be_visible(timeout=20_000)
    expect(page.get_by_alt_text("Pictures and result")).to_be_visible()
    assert not trouble, trouble
    page.close()


def test_errors_are_sentences_on_the_page(browser: Browser, server: Served):
    page, _ = opened(browser, server.url)
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_text("The prompt is empty")).to_be_visible(timeout=10_000)
    page.get_by_label("What to make, in English").fill("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Advanced").click()
    advanced(page, "Stage 1: the field", field__steps="0")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_text("field.steps 0 is out of range")).to_be_visible(timeout=10_000)
    assert "Traceback" not in page.content() and page.locator("img[src=x]").count() == 0
    page.close()


def test_a_phone_and_a_keyboard_suffice(browser: Browser, server: Served):
    page, _ = opened(browser, server.url, 390)
    for tab in ("Picture", "Runs", "Compare", "Text"):
        page.get_by_role("tab", name=tab).click()
        time.sleep(1.5)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, (tab, wide)
    page.get_by_label("What to make, in English").focus()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "() => { const a = document.activeElement;"
            "return [a.innerText || a.ariaLabel || '', getComputedStyle(a).outlineStyle]; }"
        )
        reached.add(name.strip())
        if name.strip() == "Generate":
            assert outline != "none"
            break
    assert {"Generate", "Random seed"} <= reached, reached
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, select, a[href]')].filter(
        (x) => x.offsetParent && !(x.innerText || x.ariaLabel || x.title || (x.labels && x.labels.length)
        || x.getAttribute('aria-labelledby') || x.querySelector('[aria-label], img[alt]')))
        .map((x) => x.outerHTML.slice(0, 200))"""
    )
    assert not unnamed, unnamed
    page.close()
