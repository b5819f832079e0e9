"""The web page's functions and endpoints, through real servers; and what it answers to nonsense."""

from __future__ import annotations

import html
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from app.errors import UsageError
from app.export.formats import write
from app.export.glb import write_glb
from app.export.report import as_json, report
from app.jobs.index import Index
from app.jobs.state import DONE, Job, now, write_job
from app.recipe_yaml import load_recipe
from app.recipes import Recipe, preset
from app.run.folder import Run, create_run
from app.settings import groups, with_settings
from app.settings import settings as every_setting
from app.web import actions, show
from app.web.files import downloads, served
from app.web.options import Serve
from app.web.serve import run_serve
from app.web.site import SYNC_EVERY, Site
from tests.test_formats import wedge
from tests.web import Served, page_alone, raw

SMALL = {"texture.size": 128, "direct.rounds": 1, "direct.fit": 2, "direct.steps": 2, "direct.hull": 32}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with page_alone(tmp_path_factory.mktemp("alone") / "runs", max_queue=100_000) as s:
        yield s


@pytest.fixture(scope="module")
def client(alone: Served) -> Client:
    return Client(alone.url, verbose=False)


def picture(path: Path, kind: str = "PNG") -> Path:
    image = Image.new("RGB", (96, 96), "white")
    image.paste((200, 30, 30), (24, 24, 72, 72))
    image.save(path, kind)
    return path


def finished_run(root: Path, name: str = "done-run", title: str = "a finished thing") -> Path:
    """A run folder as a finished run leaves it, without a mesh."""
    run = create_run(Recipe(prompt="a thing"), root / name)
    run.write_json("metadata.json", {"status": "done", "prompt": "a thing", "method": "direct"})
    write_job(run.folder, Job(name, title, DONE, "generate", "direct", created=now(), started=now(), ended=now()))
    Image.new("RGB", (400, 400), "red").save(run.folder / "contact_sheet.png")
    return run.folder


# settings, files and HTML


def test_every_setting_has_help_and_its_default_is_accepted():
    recipe = preset("draft", "a key")
    for name, s in every_setting().items():
        assert s.help, name
        value = recipe
        for part in s.path:
            value = getattr(value, part)
        assert with_settings(recipe, {name: value}) == recipe
    assert "rembg-model" not in " ".join(every_setting()) and "prior" not in every_setting()
    assert sum(map(len, groups().values())) == len(every_setting())


def test_formats_are_chosen_on_the_page_and_offered_afterwards(tmp_path: Path):
    site = Site(Index(tmp_path / "runs"), 10)
    jobs = actions.generate(site, "a key", format=["stl", "obj"])
    assert load_recipe(site.index.root / jobs[0].id / "config.yaml").export.format == "stl,obj"
    with pytest.raises(UsageError, match="fbx"):
        actions.generate(site, "a key", format=["fbx"])
    with pytest.raises(UsageError, match="80mm"):
        actions.generate(site, "a key", settings={"export.size": "large"})
    folder = finished_run(tmp_path / "other")
    write_glb(folder / "mesh.glb", wedge())
    write(folder / "mesh.stl", wedge(), 80.0)
    measured = replace(report(wedge()), warnings=("The <b>surface</b> is open.",))
    Run(folder).write_json("mesh.report.json", as_json(measured))
    job = Job("done-run", "a finished thing", DONE, "generate", "direct", created=now(), started=now(), ended=now())
    shown = show.result(tmp_path / "other", job)
    assert 'download="done-run-mesh.stl"' in shown and ">STL<" in shown and ">Report<" in shown
    assert "The &lt;b&gt;surface&lt;/b&gt; is open." in shown and ">Non-manifold edges<" in shown
    assert served(folder, "mesh.stl") and not served(folder, "mesh.exe")


def test_settings_replace_what_they_name():
    r = with_settings(preset("draft", "a key"), {"field.steps": 60, "--vsd.lora.rank": 2})
    assert r.field.steps == 60 and r.methods.vsd.lora.rank == 2
    assert with_settings(r, {"field.rate_density": 1}).field.rate_density == 1.0
    assert with_settings(r, {"direct.relax": "no"}).direct.relax is False
    assert with_settings(r, {"field.steps": None, "field.sets": ""}) == r


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("field.steps", 1.5),
        ("field.steps", "many"),
        ("field.steps", True),
        ("field.rate-density", float("nan")),
        ("field.anneal", "steep"),
        ("guide.negative", "a\0b"),
        ("guide.negative", "a" * 501),
        ("picture.rembg-model", "/etc/passwd"),
        ("picture.count", 3),
        ("prior", "/etc"),
        ("no.such", 1),
        ("field", 1),
    ],
)
def test_settings_refuse(name: str, value: Any):
    with pytest.raises(UsageError):
        with_settings(preset("draft", "a key"), {name: value})


def test_only_named_files_of_a_run_are_served(tmp_path: Path):
    folder = finished_run(tmp_path)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "previews/field-00001.png").write_bytes(b"x")
    (folder / "previews/field-00002.png").symlink_to(tmp_path / "secret.png")
    assert set(downloads(folder)) == {"contact_sheet.png", "metadata.json", "config.yaml"}
    assert served(folder, "previews/field-00001.png") and served(folder, "config.yaml")
    for name in (
        "job.json",
        ".lock",
        "events.jsonl",
        "checkpoints/field.safetensors",
        "../secret.png",
        "previews/../job.json",
        "previews/field-00002.png",  # a link to elsewhere
        "/etc/passwd",
        "",
    ):
        assert served(folder, name) is None, name


def test_html_of_titles_is_text(tmp_path: Path):
    title = '<img src=x onerror="alert(1)">&\'"'
    folder = finished_run(tmp_path, title=title)
    index = Index(tmp_path)
    job = index.get(folder.name)
    for out in (
        show.head(tmp_path, job),
        show.gallery(tmp_path, [job], ""),
        show.result(tmp_path, job),
        show.waiting(tmp_path, [replace(job, state="running")], "", "<b>trouble</b>"),
        show.head(tmp_path, replace(job, state="failed", reason=title)),
        *show.compared(tmp_path, [job, job]),
    ):
        assert "<img src=x" not in out and "<b>trouble" not in out
        assert "onerror" not in out or html.escape('onerror="alert(1)"') in out


def test_where_a_job_is_in_words(tmp_path: Path):
    folder = finished_run(tmp_path)
    job = replace(Index(tmp_path).get(folder.name), state="running", started=now())
    status = {"stage": "field", "number": 1, "stages": 4, "step": 3, "steps": 12, "stage_eta": 9, "eta": 200}
    (folder / "progress.json").write_text(json.dumps(status | {"time": time.time()}))
    words, share = show.progress(folder, job)
    assert words == "stage 1 of 4, growing the field: step 3 of 12, about 3 min left" and share == 0.25
    assert show.progress(folder, replace(job, started=now() + 60)) == ("starts", 0.0)  # it is of an earlier attempt
    assert "number 2 in the queue" in show.progress(folder, replace(job, state="queued"), 2)[0]


def test_angles():
    assert actions.angles("0, 90", "azimuth") == (0.0, 90.0)
    assert actions.angles("", "azimuth") == actions.angles(None, "azimuth") == ()
    for bad in ("north", [None], "1,,2", [float("inf")], [True], 5, {"a": 1}):
        with pytest.raises(UsageError):
            actions.angles(bad, "azimuth")


# endpoints, without workers


def test_generate_queues_a_group(client: Client, alone: Served):
    jobs = client.predict("a red key", seed=5, count=3, faces=500, settings=SMALL, api_name="/generate")
    assert len(jobs) == 3 and len({j["group"] for j in jobs}) == 1 and jobs[0]["group"]
    recipes = [load_recipe(alone.runs / j["id"] / "config.yaml") for j in jobs]
    assert [r.seed for r in recipes] == [5, 6, 7]
    assert all(r.mesh.faces == 500 and r.method == "direct" and r.texture.size == 128 for r in recipes)
    assert client.predict(jobs[0]["id"], api_name="/status")["state"] == "queued"


def test_cancel_resume_rename_trash(client: Client, alone: Served):
    (job,) = client.predict("a blue key", api_name="/generate")
    id = job["id"]
    assert client.predict(id, api_name="/cancel")["state"] == "cancelled"
    assert client.predict(id, api_name="/resume")["state"] == "queued"
    assert client.predict(id, "<b>mine</b>", api_name="/rename")["title"] == "<b>mine</b>"
    assert [j["id"] for j in client.predict(search="<B>MINE", api_name="/runs")] == [id]
    with pytest.raises(AppError, match="cancel it first"):
        client.predict(id, api_name="/trash")
    client.predict(id, api_name="/cancel")
    where = Path(client.predict(id, api_name="/trash"))
    assert (where / "config.yaml").is_file() and not (alone.runs / id).exists()
    with pytest.raises(AppError, match="There is no run"):
        client.predict(id, api_name="/status")
    with pytest.raises(AppError, match="only finished runs"):
        client.predict(client.predict("a key", api_name="/generate")[0]["id"], api_name="/result")


def test_reconstruct_takes_uploads(client: Client, alone: Served, tmp_path: Path):
    files = [handle_file(picture(tmp_path / f"{n}.png")) for n in ("front", "back")]
    (job,) = client.predict(files, azimuth=[0, 180], elevation=[10, 10], api_name="/reconstruct")
    assert job["kind"] == "reconstruct" and job["title"] == "front"
    posed = json.loads((alone.runs / job["id"] / "pictures/pictures.json").read_text())
    assert [p["azimuth"] for p in posed] == [0.0, 180.0]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not a PNG, JPEG or WebP"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 100, "PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not a PNG, JPEG or WebP"),
        (b"cos\nsystem\n(S'touch /tmp/polymode-was-here'\ntR.", "not a PNG, JPEG or WebP"),
    ],
)
def test_what_is_no_picture_is_refused(client: Client, alone: Served, tmp_path: Path, content: bytes, sentence: str):
    before = set(os.listdir(alone.runs))
    path = tmp_path / "thing.png"
    path.write_bytes(content)
    with pytest.raises(AppError) as e:
        client.predict([handle_file(path)], api_name="/reconstruct")
    assert sentence in str(e.value) and os.environ["GRADIO_TEMP_DIR"] not in str(e.value)
    assert set(os.listdir(alone.runs)) == before and not Path("/tmp/polymode-was-here").exists()


def test_files_of_the_server_are_not_taken_as_uploads(client: Client, alone: Served):
    (job,) = client.predict("a key", api_name="/generate")
    inside = alone.runs / job["id"] / "config.yaml"
    meta = {"_type": "gradio.FileData"}
    for value in (
        [str(inside)],
        [{"path": "/etc/passwd"}],
        ["/etc/passwd"],
        [{"path": "http://127.0.0.1:1/x.png"}],
        ["../../etc/passwd"],
    ):
        with pytest.raises(AppError, match="uploaded"):
            client.predict(value, api_name="/reconstruct")
    # as raw requests, with the mark of an uploaded file
    for path in (str(inside), "/etc/passwd", "http://127.0.0.1:1/x.png", "https://example.com/x.png"):
        answer = raw(alone.url, "reconstruct", [[{"path": path, "meta": meta}]])
        assert answer["error"] and "raceback" not in json.dumps(answer), answer


def test_prompts_and_queue_have_limits(tmp_path: Path):
    with page_alone(tmp_path / "runs", max_queue=3) as s:
        c = Client(s.url, verbose=False)
        with pytest.raises(AppError, match="501 characters"):
            c.predict("a" * 501, api_name="/generate")
        with pytest.raises(AppError, match="control characters"):
            c.predict("a\x07b", api_name="/generate")
        with pytest.raises(AppError, match="Unknown prior"):
            c.predict("a key", prior=str(tmp_path), api_name="/generate")
        with pytest.raises(AppError, match="limit of 3"):
            c.predict("a key", count=4, api_name="/generate")
        jobs = c.predict("a key", count=3, api_name="/generate")
        with pytest.raises(AppError, match="limit"):
            c.predict("a key", api_name="/generate")
        c.predict(jobs[0]["id"], api_name="/cancel")
        c.predict("a key", api_name="/generate")
        with pytest.raises(AppError, match="limit"):
            c.predict(jobs[0]["id"], api_name="/resume")


def test_an_upload_may_not_be_huge(tmp_path: Path):
    with page_alone(tmp_path / "runs", max_upload=1) as s:
        big = httpx.post(s.url + "gradio_api/upload", files={"files": ("big.png", b"0" * 2_000_000)}, timeout=60)
        assert big.status_code >= 400 and "raceback" not in big.text
        small = httpx.post(s.url + "gradio_api/upload", files={"files": ("small.png", b"0" * 1000)})
        assert small.status_code == 200


def test_a_password_guards_page_endpoints_and_files(tmp_path: Path):
    folder = finished_run(tmp_path / "runs")
    with page_alone(tmp_path / "runs", auth="ann:secret") as s:
        for path in ("config", f"run/{folder.name}/config.yaml", f"run/{folder.name}/thumbnail", "gradio_api/info"):
            assert httpx.get(s.url + path).status_code == 401, path
        assert httpx.post(s.url + "gradio_api/queue/join", json={"fn_index": 0, "data": []}).status_code == 401
        c = Client(s.url, auth=("ann", "secret"), verbose=False)
        assert c.predict(api_name="/runs")[0]["id"] == folder.name
        with httpx.Client(base_url=s.url) as http:
            assert http.post("login", data={"username": "ann", "password": "wrong"}).status_code == 400
            http.post("login", data={"username": "ann", "password": "secret"})
            assert http.get(f"run/{folder.name}/config.yaml").status_code == 200


TRAVERSALS = [
    "run/{id}/../.jobs.sqlite",
    "run/{id}/%2e%2e/.jobs.sqlite",
    "run/{id}/..%2f.jobs.sqlite",
    "run/../runs/.jobs.sqlite",
    "run/.trash/x",
    "run/..%2f..%2fetc/passwd",
    "run/%2e%2e/.jobs.sqlite",
    "run/.jobs.sqlite/x",
    "run/{id}/job.json",
    "run/{id}/.lock",
    "run/{id}/%00",
    "run/{id}//etc/passwd",
    "run/{id}/previews/../job.json",
    "run/" + "a" * 5000 + "/mesh.glb",
    "gradio_api/file={runs}/.jobs.sqlite",
    "gradio_api/file={runs}/{id}/job.json",
    "gradio_api/file={runs}/{id}/config.yaml",
    "gradio_api/file=/etc/passwd",
    "gradio_api/file=../../../etc/passwd",
    "gradio_api/file=app/cli.py",
    "gradio_api/file=http://127.0.0.1:1/",
    "gradio_api/file/etc/passwd",
    "file=/etc/passwd",
    "static/../../../../etc/passwd",
    "static/%2e%2e/%2e%2e/app/cli.py",
    "assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "custom_component/x/y/z/..%2f..%2fetc%2fpasswd",
    "gradio_api/proxy=http://127.0.0.1:1/",
    "monitoring",
    "docs",
    "openapi.json",
]


def test_nothing_else_is_served(alone: Served, client: Client):
    (job,) = client.predict("a key", api_name="/generate")
    host, port = alone.url.split("//")[1].strip("/").split(":")
    for template in TRAVERSALS:
        target = "/" + template.format(id=job["id"], runs=alone.runs)
        status, body = plain_get(host, int(port), target)
        assert status != 200, (target, body[:200])
        assert b"root:" not in body and b"SQLite" not in body and b"raceback" not in body, target
    status, body = plain_get(host, int(port), f"/run/{job['id']}/config.yaml")
    assert status == 200 and b"a key" in body


def plain_get(host: str, port: int, target: str, name: str = "") -> tuple[int, bytes]:
    """GET without a client that would tidy the path."""
    with socket.create_connection((host, port), 30) as s:
        s.sendall(f"GET {target} HTTP/1.1\r\nHost: {name or host}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := s.recv(65536):
            answer += chunk
    return int(answer.split(b" ")[1]), answer


def test_other_host_names_are_refused(alone: Served):
    host, port = alone.url.split("//")[1].strip("/").split(":")
    assert plain_get(host, int(port), "/config", "evil.example")[0] == 400
    assert plain_get(host, int(port), "/config", "localhost")[0] == 200


def test_only_named_endpoints_are_public(alone: Served):
    named = set(httpx.get(alone.url + "gradio_api/info").json()["named_endpoints"])
    wanted = "generate reconstruct status runs cancel resume rename trash result"
    assert named == {f"/{n}" for n in wanted.split()}


def test_the_page_needs_no_other_host(alone: Served):
    page, style = httpx.get(alone.url).text, httpx.get(alone.url + "theme.css").text
    for text in (page, style):
        for host in ("googleapis", "gstatic", "cdn", "unpkg", "huggingface.co/front"):
            assert host not in text.lower().split("<body")[0], host
    assert json.loads(httpx.get(alone.url + "config").text)["analytics_enabled"] is False


@pytest.mark.parametrize(
    "flags", [{"port": 0}, {"auth": "ann"}, {"auth": "ann:"}, {"max_queue": 0}, {"max_upload": 1000}, {"workers": 0}]
)
def test_bad_flags_are_one_sentence(tmp_path: Path, flags: dict[str, Any]):
    with pytest.raises(UsageError, match=r"^--"):
        run_serve(Serve(runs=tmp_path / "runs", **flags))
    assert not (tmp_path / "runs").exists()


def test_again_repeats_recipe_and_pictures(tmp_path: Path):
    with page_alone(tmp_path / "runs") as s:
        c = Client(s.url, verbose=False)
        (job,) = c.predict([handle_file(picture(tmp_path / "front.png"))], api_name="/reconstruct")
        site = Site(Index(s.runs))
        same, other = actions.again(site, job["id"]), actions.again(site, job["id"], True)
        old = s.runs / job["id"]
        assert (s.runs / same.id / "config.yaml").read_bytes() == (old / "config.yaml").read_bytes()
        assert load_recipe(s.runs / other.id / "config.yaml").seed != load_recipe(old / "config.yaml").seed
        for path in (old / "pictures").iterdir():
            assert (s.runs / same.id / "pictures" / path.name).read_bytes() == path.read_bytes()
        assert same.title == "front" and same.id != job["id"]


def test_addresses_of_any_folder_lead_to_its_files(alone: Served, client: Client):
    """Blanks, #, %, ? and other scripts in a run's name; and a name that is no text takes nothing down with it."""
    odd = "a b#c%20d?e&f+蘑菇"
    folder = finished_run(alone.runs, odd, "odd")
    finished_run(alone.runs, os.fsdecode(b"no\xfftext"), "no text")
    (folder / "previews" / "field-00001.webp").write_bytes((folder / "contact_sheet.png").read_bytes())
    index = Index(alone.runs)
    index.sync()
    job = index.get(odd)
    shown = show.gallery(alone.runs, [job, replace(job, state="running")], "") + show.result(alone.runs, job)
    shown += show.live(alone.runs, replace(job, state="running"))
    addresses = {html.unescape(a) for a in re.findall(r'(?:src|href)="([^"]+)"', shown)}
    assert len(addresses) >= 5
    for address in addresses:
        answer = httpx.get(alone.url + address)
        assert answer.status_code == 200 and answer.content, address
    result = client.predict(odd, api_name="/result")[0]
    for address in result["files"].values():
        assert httpx.get(alone.url + address.lstrip("/")).status_code == 200
    time.sleep(SYNC_EVERY)
    listed = [j["title"] for j in client.predict(limit=500, api_name="/runs")]
    assert "odd" in listed and "no text" not in listed


def test_what_a_run_noted_is_on_its_page(tmp_path: Path):
    folder = finished_run(tmp_path)
    job = Index(tmp_path).get(folder.name)
    Run(folder).write_json("metadata.json", {"status": "done", "notes": ['It does not know "<xqzt>".']})
    assert "does not know &quot;&lt;xqzt&gt;&quot;." in show.head(tmp_path, job)
    at_work = replace(job, state="running")
    assert "xqzt" not in show.head(tmp_path, at_work)
    (folder / "progress.json").write_text(json.dumps({"notes": ["Left out: a hat."], "step": 1, "time": time.time()}))
    assert "Left out: a hat." in show.head(tmp_path, at_work)
