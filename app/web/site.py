"""What every request needs, and how an error becomes a sentence on the page."""

from __future__ import annotations

import functools
import html
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.exceptions import Error
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like, traverse

from app.errors import UsageError, UserError
from app.jobs.index import Index
from app.jobs.state import ACTIVE, QUEUED, Job
from app.jobs.supervisor import Supervisor
from app.text import plainly

SYNC_EVERY = 3.0  # seconds between looks for runs that were made or moved behind the index's back


@dataclass
class Site:
    """One folder of runs, as the page sees it. Without a supervisor jobs only wait."""

    index: Index
    max_queue: int = 64
    supervisor: Supervisor | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)  # one request at a time adds jobs
    synced: float = -SYNC_EVERY

    def sync(self) -> None:
        now = time.monotonic()
        if now - self.synced >= SYNC_EVERY:
            self.synced = now
            self.index.sync()

    def jobs(self, *which: Any, **more: Any) -> list[Job]:
        """As the index has them, but for those whose folder has no name that an address can have."""
        return [j for j in self.index.list(*which, **more) if plainly(j.id) == j.id]

    def waiting(self) -> list[Job]:
        """Queued and running jobs, the first to be run first."""
        jobs = self.jobs((QUEUED, *ACTIVE))
        return sorted(jobs, key=lambda j: (j.state == QUEUED, -j.priority, j.created, j.id))


def plain(value: Any, what: str, limit: int = 200) -> str:
    """A short text from a request. UsageError for what is none."""
    if not isinstance(value, str):
        raise UsageError(f"{what} must be text; correct it.")
    if len(value) > limit:
        raise UsageError(f"{what} has {len(value)} characters; the limit is {limit}, so shorten it.")
    return value


def whole(value: Any, what: str, low: int, high: int) -> int:
    """A whole number from a request. UsageError for what is none, or out of range."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{what} must be a whole number from {low} to {high}; correct it.")
    return value


def escaped(text: str) -> str:
    """For a message box, which shows HTML."""
    return html.escape(plainly(text), quote=False)


def worded(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f`, whose errors reach the page and the endpoints as one sentence. What is no error of the user's goes to the
    server's log, and the page only says so."""

    @functools.wraps(f)
    def inner(*args: Any, **kwargs: Any) -> Any:
        try:
            return f(*args, **kwargs)
        except UserError as e:
            raise gr.Error(escaped(str(e)), print_exception=False) from e
        except gr.Error:
            raise
        except Exception as e:
            traceback.print_exc(file=sys.stderr)
            sentence = f"An error of Polymode itself ({type(e).__name__}); the server's log has the details."
            raise gr.Error(sentence, print_exception=False) from e

    return inner


class Page(gr.Blocks):
    """Blocks that answer a malformed request with a sentence, and fetch nothing from elsewhere: a file is what was
    uploaded here."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        def refuse(value: dict[str, Any]) -> dict[str, Any]:
            if is_http_url_like(str(value.get("path"))):
                raise gr.Error("Upload a file itself; addresses are not fetched.", print_exception=False)
            return value

        try:
            traverse(inputs, refuse, is_file_obj_with_meta)
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except Error:
            raise
        except Exception as e:
            sentence = "That is not what this takes; see the page's API description."
            raise gr.Error(sentence, print_exception=False) from e
