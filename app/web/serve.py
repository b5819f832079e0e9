"""`polymode serve`: a supervisor of workers in a thread, and the page."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from app.errors import UsageError
from app.jobs.supervisor import Supervisor, slots
from app.run.signals import stop_signals
from app.web.options import Serve


def run_serve(a: Serve) -> int:
    """The command's body: until a signal. Returns the exit code."""
    judge(a)
    supervisor = Supervisor(a.runs, slots(a.workers, a.device), a.idle)
    ended = threading.Event()
    with uploads_folder(), stop_signals(lambda *_: ended.set(), hangup=True):
        thread = threading.Thread(target=supervisor.run, args=(lambda: False,))
        try:
            with without_proxies():
                from app.web.site import Site

                page, address = launch(Site(supervisor.index, a.max_queue, supervisor), a)
            thread.start()
            sys.stdout.write(f"Polymode: {address}  (runs in {a.runs.resolve()}; Ctrl-C stops)\n")
            sys.stdout.flush()
            if not loopback(a.host) and not a.auth:
                sys.stderr.write(
                    "polymode: everyone who reaches this address can use it; --auth asks for a password.\n"
                )
            ended.wait()
            sys.stderr.write("polymode: stopping; runs at work go back into the queue.\n")
        finally:
            supervisor.stop()
            if thread.ident is not None:
                thread.join()
        page.close(verbose=False)
    return 0


def judge(a: Serve) -> None:
    """UsageError for flags that cannot be."""
    for name, value, low, high in (
        ("port", a.port, 1, 65535),
        ("max-queue", a.max_queue, 1, 100_000),
        ("max-upload", a.max_upload, 1, 100),
        ("workers", a.workers, 1, 64),
        ("idle", a.idle, 0, 1e9),
    ):
        if not low <= value <= high:
            raise UsageError(f"--{name} {value} is out of range; use {low} to {high:g}.")
    user, colon, password = a.auth.partition(":")
    if a.auth and not (user and colon and password):
        raise UsageError("--auth needs a name and a password; give them as USER:PASSWORD.")


def loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


@contextlib.contextmanager
def without_proxies() -> Iterator[None]:
    """Gradio asks its own address whether it stands, by an HTTP client that it makes when it is imported: no proxy has
    a part in that, and no certificate. Workers, which are started later, have the environment as it was."""
    names = [n for n in os.environ if n.lower().endswith("_proxy") or n in ("SSL_CERT_FILE", "SSL_CERT_DIR")]
    before = {n: os.environ.pop(n) for n in names}
    try:
        yield
    finally:
        os.environ |= before


@contextlib.contextmanager
def uploads_folder() -> Iterator[None]:
    """A folder of this server's own for uploads and copies, removed at the end. Gradio reads the environment when it
    is imported and later: nothing is reported to anybody, and nothing else is served."""
    folder = tempfile.mkdtemp(prefix="polymode-")
    ours = {
        "GRADIO_TEMP_DIR": os.path.realpath(folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    widening = ("GRADIO_ALLOWED_PATHS", "GRADIO_ROOT_PATH", "GRADIO_SHARE", "GRADIO_NUM_WORKERS", "GRADIO_MCP_SERVER")
    before = {name: os.environ.pop(name, None) for name in (*ours, *widening)}
    os.environ |= ours
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


def launch(site: Any, a: Serve) -> tuple[Any, str]:
    """Start to serve in a thread. Returns (the Blocks, the page's address). UsageError where the address cannot be
    used."""
    from fastapi import Request
    from fastapi.routing import APIRoute
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from app.web.files import route
    from app.web.page import build
    from app.web.style import CSS, HEAD, THEME

    page = build(site)

    def signed_in(request: Request) -> bool:
        app = request.app
        names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
        return not a.auth or any(request.cookies.get(n) in app.tokens for n in names)

    # a page elsewhere that has its own name point to this machine must not read what only this machine may
    hosts = ["localhost", "127.0.0.1", "[::1]", a.host] if loopback(a.host) else ["*"]
    own = APIRoute("/run/{id}/{name:path}", route(site, signed_in), methods=["GET", "HEAD"], include_in_schema=False)
    user, _, password = a.auth.partition(":")
    try:
        _, address, _ = page.queue(max_size=None, api_open=False).launch(
            server_name=a.host,
            server_port=a.port,
            auth=(user, password) if a.auth else None,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            pwa=False,
            max_file_size=a.max_upload * 1_000_000,
            footer_links=["api", "settings"],
            app_kwargs={
                "routes": [own],
                "middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
                "openapi_url": None,
                "docs_url": None,
                "redoc_url": None,
            },
            theme=THEME,
            css=CSS,
            head=HEAD,
        )
    except OSError as e:
        raise UsageError(
            f"The address {a.host}:{a.port} cannot be used; another program may have it: choose another with --port."
        ) from e
    return page, address
