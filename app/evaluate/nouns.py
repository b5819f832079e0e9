"""The fixed prompts (assets/evaluator/eval100.txt), their nouns, and which nouns mean the same thing.

A prompt is article + colour + noun. Nouns of one class never compete: the score of a class is the best of its
names, and the rank of a prompt is the rank of its class among all classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

GROUPS = ("train", "recolour", "heldout", "near")
COLOR_WORDS = ("white", "black", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
_SPELLINGS = {"gray": "grey", "violet": "purple"}
_ARTICLES = ("a", "an", "the")

# class: its names beside itself. Classes of one name need no entry. A sports car is called any car's name: at 64
# pixels they cannot be told apart, and a medieval, a suburban and a blue house are houses.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "mushroom": ("toadstool",),
    "pine tree": ("fir",),
    "barrel": ("wooden barrel", "cask"),
    "treasure chest": ("wooden treasure chest",),
    "sofa": ("couch",),
    "table": ("round table",),
    "bed": ("double bed",),
    "street lantern": ("lantern on a pole",),
    "refrigerator": ("fridge",),
    "car": ("automobile", "sports car"),
    "spaceship": ("starship",),
    "house": ("medieval house", "suburban house", "cottage"),
    "tent": ("camping tent", "wigwam"),
    "cactus": ("prickly desert plant",),
    "donut": ("doughnut",),
    "pumpkin": ("jack-o'-lantern",),
    "shield": ("round shield",),
    "axe": ("hatchet",),
    "gravestone": ("tombstone",),
    "book": ("open book",),
    "cow": ("bull",),
    "muffin": ("cupcake",),
}
_CLASS_OF = {name: c for c, names in SYNONYMS.items() for name in (c, *names)}

# the fixed prompts' classes whose front and back differ, and the kind of thing under which the evaluator's front
# and back are judged: single nouns have one held-out object at most, kinds have several
VIEW_DISTINCT: dict[str, str] = {
    **dict.fromkeys(("police car", "fire truck", "monster truck", "car"), "road vehicle"),
    **{"spaceship": "spacecraft", "rowboat": "boat"},
    **dict.fromkeys(("skeleton", "knight", "astronaut", "robot", "pirate", "wizard", "zombie"), "character"),
    **dict.fromkeys(("woman", "man", "king", "soldier", "viking", "ninja", "farmer"), "character"),
    **dict.fromkeys(("bee", "octopus", "cow", "scorpion"), "animal"),
    "whale": "fish",
}


@dataclass(frozen=True)
class Prompt:
    """One fixed prompt. `noun` without article and colour; `color` one of COLOR_WORDS or None; `group` of GROUPS, or
    "other" for a user's own."""

    group: str
    text: str
    noun: str
    color: str | None

    @property
    def kind(self) -> str:
        """The class of the noun."""
        return class_of(self.noun)


def class_of(noun: str) -> str:
    """The class that a noun belongs to: itself unless SYNONYMS knows better."""
    return _CLASS_OF.get(noun, noun)


def names_of(kind: str) -> tuple[str, ...]:
    """All names of a class, the class's own first."""
    return (kind, *SYNONYMS.get(kind, ()))


def split_prompt(text: str) -> tuple[str, str | None]:
    """(noun, colour) of a prompt: article and colour words stripped, the first colour kept."""
    words = text.strip().rstrip(".").lower().split()
    color: str | None = None
    while len(words) > 1 and (words[0] in _ARTICLES or _SPELLINGS.get(words[0], words[0]) in COLOR_WORDS):
        word = _SPELLINGS.get(words[0], words[0])
        if word in COLOR_WORDS and color is None:
            color = word
        words = words[1:]
    return " ".join(words), color


def parse_prompts(text: str) -> list[Prompt]:
    """Prompts of a file in eval100's format (group, tab, prompt; # comments), or of plain lines (group "other").

    ValueError, one sentence, for an unknown group or an empty prompt.
    """
    prompts = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        group, tab, prompt = line.partition("\t")
        if not tab:
            group, prompt = "other", line
        if group not in (*GROUPS, "other") or not prompt.strip():
            raise ValueError(
                f"Not a prompt line: {line!r} (a prompt, or a group of {', '.join(GROUPS)}, tab, prompt)."
            )
        prompts.append(Prompt(group, prompt.strip(), *split_prompt(prompt)))
    return prompts


def eval100() -> list[Prompt]:
    """The 100 fixed prompts, in their order."""
    return parse_prompts((Path(str(files("assets"))) / "evaluator" / "eval100.txt").read_text(encoding="utf-8"))


def prompt_of(text: str, known: Iterable[Prompt]) -> Prompt:
    """The fixed prompt with this text, or one of group "other"."""
    for p in known:
        if p.text == text.strip():
            return p
    return Prompt("other", text.strip(), *split_prompt(text))


def classes(prompts: Iterable[Prompt]) -> list[str]:
    """The classes of the prompts' nouns, each once, in order of first appearance."""
    return list(dict.fromkeys(p.kind for p in prompts))


def class_scores(scores: Tensor, names: Sequence[str], kinds: Sequence[str]) -> Tensor:
    """(N, K) scores of classes from (N, M) scores of names: the best of each class's names."""
    columns = []
    for kind in kinds:
        index = [i for i, n in enumerate(names) if class_of(n) == kind]
        if not index:
            raise ValueError(f"No name of the class {kind!r} was scored.")
        columns.append(scores[:, index].amax(1))
    return torch.stack(columns, 1)


def rank_of(scores: Tensor, right: int) -> int:
    """Rank (1 = best) of class `right` in (K,) scores. Ties count against it."""
    better = scores >= scores[right]
    return int(better.sum())
