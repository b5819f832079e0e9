"""What the training pack's objects are called: names to the evaluator's classes, for its trainer only.

Names that mean one of the fixed prompts' nouns become its class (rules below, first match wins); the rest keep their
own noun without colour, size and "with ...", as further classes.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from typing import Any

from app.evaluate.nouns import COLOR_WORDS, class_of

SALT = "polymode evaluator, not the prior:"
_MORE_ADJECTIVES = (
    *("small", "medium", "large", "tall", "big", "long", "low", "thin", "fat", "old", "plain", "cartoon", "cute"),
    *("golden", "gold", "silver", "tan", "light", "dark", "gray", "deep", "single", "mini", "and"),
)
_ADJECTIVES = {*COLOR_WORDS, *_MORE_ADJECTIVES}

# (class, pattern of the whole name). None keeps the name as it is, as a class of its own.
_RULES: list[tuple[str | None, str]] = [
    ("mushroom", r"(group of )?(\w+ )?mushrooms?"),
    ("pine tree", r".*\bpine trees?\b.*"),
    (None, r"stack of .*|sci-fi .*|crate of .*|bucket of .*|chopped .*|pieces of .*|half .*|animal skull"),
    ("barrel", r".*\b(barrel|keg)"),
    ("treasure chest", r"(wooden |open )?(treasure )?chest( full of gold)?"),
    ("sofa", r".*\b(sofa|couch)"),
    ("chair", r"(modern |office |cushioned )?chair"),
    (None, r"kitchen table with a sink|workbench table.*"),
    ("table", r"(.* )?table( with (dishes|a tablecloth))?"),
    ("bed", r"(double |single |king-size |wooden |camping |bunk )?bed"),
    ("floor lamp", r"(square )?floor lamp|standing lamp"),
    ("street lantern", r"(futuristic )?street (light|lantern)"),
    ("refrigerator", r"refrigerator"),
    ("police car", r"police (suv )?car"),
    ("fire truck", r"fire ?truck"),
    ("car", r"((sports )?(sedan|hatchback)|(luxury )?suv)? ?car"),
    ("spaceship", r"(cartoon |mining |space racer |space speeder )?(spaceship|spacecraft|craft)"),
    ("windmill", r"(medieval )?windmill( with .*)?"),
    ("house", r"((suburban|small|medieval|medieval timber-framed|primitive village) )?house( with a .* roof)?"),
    ("tent", r"(camping )?tent"),
    (None, r"cactus flower"),
    ("cactus", r".*\bcactus\b.*"),
    ("donut", r".*\bdonut\b.*"),
    ("burger", r"(double |vegetable )?(cheese)?burger"),
    (None, r"pumpkin vine|pickaxe|ring of keys|banner with a shield emblem|alien skeleton bones"),
    ("pumpkin", r".*\bpumpkin"),
    ("sword", r"(.* )?sword( golden)?|claymore|katana|old blade"),
    ("shield", r".*\bshield\b.*"),
    ("axe", r"(\S+ )?axe"),
    ("skull", r"skull( with a candle)?"),
    ("gravestone", r"(cross )?gravestone|grave with a tombstone"),
    ("book", r"((open|closed) )?(spell)?book"),
    ("tree stump", r"(snowy )?tree stump"),
    ("rowboat", r".*\browboat"),
    ("muffin", r"cupcake.*"),
    ("cow", r"bull"),
    ("gift box", r"present|wrapped package|round gift"),
    ("tea cup", r"espresso cup|cup"),
]
_COMPILED = [(kind, re.compile(pattern)) for kind, pattern in _RULES]

# categories of the pack whose objects have a front; azimuth is learned from these alone
FRONTED = ("animal", "character", "vehicle", "robot")
_NO_FRONT = re.compile(r".*(wagon|wheel|balloon|raft|lander|snowman|slime|shipwreck|engine|tooth|shell|portal).*")


def label(name: str) -> str:
    """The class of an object called `name`."""
    for kind, pattern in _COMPILED:
        if pattern.fullmatch(name):
            return name if kind is None else kind
    words = name.split(" with ")[0].split()
    while len(words) > 1 and words[0] in _ADJECTIVES:
        words = words[1:]
    return class_of(" ".join(words))


def has_front(row: dict[str, Any]) -> bool:
    """Whether the object's azimuth can be seen from a picture, as far as its category says."""
    return row["category"] in FRONTED and not _NO_FRONT.fullmatch(row["name"])


_KINDS = (
    ("spacecraft", re.compile(r".*(space(ship|craft)|space \w+ craft|shuttle).*")),
    (
        "road vehicle",
        re.compile(r".*\b(car|truck|firetruck|bus|taxi|van|ambulance|go-kart|tractor|rover|speedster)\b.*"),
    ),
    ("boat", re.compile(r".*(ship|boat|canoe).*")),
    ("fish", re.compile(r".*(fish|shark|piranha|dolphin|ray|moorish idol|royal gramma).*")),
)


def front_kind(row: dict[str, Any]) -> str:
    """The kind of thing under which an object's front and back are counted (nouns.VIEW_DISTINCT names the same)."""
    if row["category"] in ("character", "robot"):
        return "character"
    for kind, pattern in _KINDS:
        if pattern.fullmatch(row["name"]):
            return kind
    return "animal" if row["category"] == "animal" else "other vehicle"


def family_hash(family: str) -> float:
    """In [0, 1), with a salt of the evaluator's own: its held-out families are not the prior's."""
    return int.from_bytes(hashlib.sha256((SALT + family).encode()).digest()[:4]) / 2**32


def split(rows: list[dict[str, Any]], wanted: set[str], share: float = 0.1) -> tuple[list[int], list[int]]:
    """Indices of (training, held-out) objects: whole families, never single objects.

    A tenth of the families by hash (15 % where objects have a front). In each class of `wanted` (the fixed prompts')
    instead one family of seven, at least one where there are two, in the order of their hashes, as long as at least
    half of the class's objects stay: so that nearly every class can be both learned and measured. A class of one
    family is only learned.
    """
    families: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for r in rows:
        families[label(r["name"])][r["family"]] += 1
    special = {f for kind in wanted for f in families.get(kind, {})}
    out: set[str] = set()
    for kind in sorted(wanted):
        sizes = families.get(kind, {})
        quota, room = max(1, round(len(sizes) / 7)), sum(sizes.values()) // 2
        for f in sorted(sizes, key=family_hash):
            if quota and len(sizes) > 1 and sizes[f] <= room:
                out.add(f)
                quota, room = quota - 1, room - sizes[f]
    for r in rows:
        if r["family"] not in special and family_hash(r["family"]) < (1.5 if has_front(r) else 1) * share:
            out.add(r["family"])
    held = [r["family"] in out for r in rows]
    return [i for i, h in enumerate(held) if not h], [i for i, h in enumerate(held) if h]
