"""Text of people: prompts, titles, names of files. What is a control character, what is only unusual, and how each is
printed and stored."""

from __future__ import annotations

import json
import os
import re
import shlex
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

BREAKS = "\t\n\v\f\r\x85"  # control characters that people type
LOST = "\N{REPLACEMENT CHARACTER}"
SELECTORS = range(0xFE00, 0xFE10)  # variation selectors: this heart as an emoji, that one as a letter


def tidy(text: str) -> str:
    """One line: any kind of space a single U+0020, none around it. Joiners and other format characters stay."""
    return re.sub(" +", " ", "".join(" " if blank(c) else c for c in mended(text))).strip(" \ufeff")


def mended(text: str) -> str:
    """Text whose UTF-8 came in as bytes (surrogateescape: a command line, a file name, in the C locale) with its
    characters; bytes that are none stay as they are."""

    def decoded(m: re.Match[str]) -> str:
        return m[0].encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")

    return re.sub("[\udc80-\udcff]+", decoded, text)


def blank(c: str) -> bool:
    return c in BREAKS or unicodedata.category(c) in ("Zs", "Zl", "Zp")


def control(text: str) -> bool:
    """Whether there is a control character, a line break or half of a surrogate pair in it."""
    return any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def visible(text: str) -> bool:
    """Whether anything would be seen of it."""
    return any(unicodedata.category(c)[0] in "LNPS" or unicodedata.category(c) in ("Co", "Cn") for c in text)


def shown(text: str, most: int = 80) -> str:
    """Text from elsewhere as one line of at most `most` characters, with a mark for what is no character."""
    clean = "".join(" " if blank(c) else LOST if control(c) else c for c in mended(text))
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def plainly(text: str) -> str:
    """Text that any encoding of Unicode can hold: a mark for bytes that are no text."""
    return re.sub("[\ud800-\udfff]", LOST, mended(text))


def slug(text: str, most: int = 40, most_bytes: int = 100) -> str:
    """A file name from a text: its letters and digits, lower case and without accents, and dashes. "run" for a text
    without any. The same bytes whatever the locale."""
    name, base = "", ""
    for c in unicodedata.normalize("NFKD", tidy(text)).lower():
        kind = unicodedata.category(c)
        if kind[0] in "LN":
            name, base = name + c, c
        elif kind[0] == "M":  # a vowel of Hindi or Thai; over a Latin letter an accent
            name += c if base and not base.isascii() and ord(c) not in SELECTORS else ""
        elif kind != "Cf":
            name, base = name + "-", ""
    name = re.sub("-+", "-", unicodedata.normalize("NFC", name)).strip("-")[:most]
    name = name.encode(errors="ignore")[:most_bytes].decode(errors="ignore").strip("-")
    return os.fsdecode(name.encode()) or "run"


def quoted(path: Path | str) -> str:
    """A path as a word of a command that can be pasted."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def to_json(
    value: Any, indent: int | None = 1, encoding: str = "utf-8", default: Callable[[Any], Any] | None = None
) -> str:
    """JSON for a stream or a file of this encoding; `default` as json.dumps has it. Bytes of a file name that are no
    text stand as \\udcXX, as Python has them."""
    text = mended(json.dumps(value, ensure_ascii=False, indent=indent, default=default))
    plain = encoding.lower().replace("-", "").replace("_", "") != "utf8"
    return re.sub("[^\0-\x7f]" if plain else "[\ud800-\udfff]", lambda m: json.dumps(m[0])[1:-1], text)
