"""Nonsense for the web page: at least 500 calls of wrong types, huge sizes, paths, HTML and control characters. The
answer is a result or a sentence, never a traceback, and nothing outside the run folders is written or shown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import UserError
from app.jobs.index import Index
from app.recipe_yaml import load_recipe
from app.recipes import check
from app.settings import settings as every_setting
from app.web import actions
from app.web.site import Site
from tests.web import Served, event, page_alone

OWN_ERROR = "An error of Polymode itself"  # the sentence for a bug of ours
EXAMPLES = 150  # for each of four


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with page_alone(tmp_path_factory.mktemp("alone") / "runs", max_queue=100_000) as s:
        yield s


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)
nasty = st.sampled_from(
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        ".jobs.sqlite",
        ".trash",
        "<script>alert(1)</script>",
        "a\0b",
        "\u202e\ud7ff",
        "%2e%2e%2f",
        "a" * 100_000,
        "'; DROP TABLE jobs; --",
        "{{7*7}}",
        "\r\nSet-Cookie: x=1",
        "file:///etc/passwd",
        "",
    ]
)
file_like = st.fixed_dictionaries(
    {"path": nasty | st.text(max_size=30), "meta": st.just({"_type": "gradio.FileData"})},
    optional={"url": nasty, "orig_name": nasty, "size": st.integers(), "is_stream": st.booleans()},
)
values = json_values | nasty | file_like | st.lists(file_like, max_size=3)
names = st.sampled_from(sorted(every_setting()) + ["prior", "seed", "__class__", "", "x" * 300])
COUNTS = {"generate": 9, "reconstruct": 13, "status": 1, "runs": 4, "cancel": 1, "resume": 1, "rename": 2, "trash": 1}
fuzzed = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
Http = httpx.Client


@pytest.fixture(scope="module")
def http(alone: Served) -> Iterator[Http]:
    with httpx.Client(base_url=alone.url, timeout=120) as c:
        yield c


@pytest.fixture(scope="module")
def numbers(http: Http) -> dict[str, int]:
    return {d["api_name"]: d["id"] for d in http.get("config").json()["dependencies"]}


@pytest.fixture(scope="module")
def hidden(http: Http) -> list[tuple[int, int]]:
    """(number, inputs) of every function of the page that runs on the server."""
    config = http.get("config").json()
    return [(d["id"], len(d["inputs"])) for d in config["dependencies"] if d["backend_fn"]]


def judged(answer: dict[str, Any], alone: Served, before: set[str]) -> None:
    """An answer is a result, or one sentence; and nothing was written outside the run folders."""
    text = json.dumps(answer)
    assert "raceback" not in text and 'File \\"' not in text and OWN_ERROR not in text, text[:2000]
    assert "root:x:" not in text
    if not answer.get("success"):
        assert isinstance(answer.get("error"), str) and answer["error"], text[:2000]
    assert set(os.listdir(alone.runs.parent)) == before


@fuzzed
@given(data=st.data())
def test_fuzzed_calls_are_answered_in_words(data: st.DataObject, http: Http, numbers: dict[str, int], alone: Served):
    name = data.draw(st.sampled_from(sorted(COUNTS)))
    count = data.draw(st.integers(0, COUNTS[name] + 1) | st.just(COUNTS[name]))
    arguments = data.draw(st.lists(values, min_size=count, max_size=count))
    before = set(os.listdir(alone.runs.parent))
    judged(event(http, numbers[name], arguments), alone, before)


@fuzzed
@given(
    prompt=st.just("a key") | st.text(min_size=1, max_size=60) | nasty,
    given_settings=st.dictionaries(names, json_values | st.integers(0, 500), max_size=3),
    chosen=st.dictionaries(
        st.sampled_from(["preset", "method", "prior", "faces"]),
        json_values | nasty | st.sampled_from(["draft", "high", "sds", "direct", "embedded", 500, None]),
        max_size=2,
    ),
    seed=st.integers(0, 99) | st.integers(-5, 2**64) | json_values,
)
def test_fuzzed_recipes_run_or_are_refused(
    prompt: str, given_settings: dict[str, Any], chosen: dict[str, Any], seed: Any, alone: Served
):
    """Straight to the function, with valid shapes more often: what is queued can be read back and is valid."""
    site = Site(Index(alone.runs), 100_000)
    try:
        (job,) = actions.generate(site, prompt, settings=given_settings, seed=seed, **chosen)
    except UserError as e:
        assert "\n" not in str(e)
        return
    folder = alone.runs / job.id
    assert folder.resolve().parent == alone.runs.resolve()
    check(load_recipe(folder / "config.yaml"))


@fuzzed
@given(
    content=st.binary(max_size=300),
    head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP"]),
)
def test_fuzzed_uploads_are_refused_in_words(
    content: bytes, head: bytes, http: Http, numbers: dict[str, int], alone: Served
):
    name = "..%2f<b>x</b>.png"
    uploaded = http.post("gradio_api/upload", files={"files": (name, head + content)})
    assert uploaded.status_code == 200
    (path,) = uploaded.json()
    assert Path(path).resolve().is_relative_to(Path(os.environ["GRADIO_TEMP_DIR"]).resolve())
    before = set(os.listdir(alone.runs.parent))
    answer = event(http, numbers["reconstruct"], [[{"path": path, "meta": {"_type": "gradio.FileData"}}]] + [""] * 11)
    judged(answer, alone, before)
    assert not answer["success"] and "must be an uploaded file" not in answer["error"]  # its content was judged


@fuzzed
@given(data=st.data())
def test_fuzzed_events_of_the_page_itself(
    data: st.DataObject, http: Http, hidden: list[tuple[int, int]], alone: Served
):
    """The hidden functions, as a hostile browser would call them."""
    number, count = data.draw(st.sampled_from(hidden))
    arguments = [data.draw(values)] * count  # the forms have more than a hundred
    for k in data.draw(st.lists(st.integers(0, max(0, count - 1)), max_size=6 if count else 0)):
        arguments[k] = data.draw(values)
    before = set(os.listdir(alone.runs.parent))
    more = {"event_data": data.draw(st.none() | st.dictionaries(st.sampled_from(["what", "run"]), values))}
    judged(event(http, number, arguments, **more), alone, before)
