"""What the trainer makes of an object besides the object itself: mirrored, recoloured with a caption that says so, and
captions in other words.

Recolouring gives the prior a compositional vocabulary ("a blue chair") that the pack's own captions do not have: the
dominant colour group of an object is moved in CIELAB to a named colour, its own shades of light and dark kept.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from skimage.color import lab2rgb, rgb2lab

from app.training.data import Mesh

# sRGB of the colours an object may be given
PALETTE: Mapping[str, tuple[float, float, float]] = {
    "red": (0.80, 0.14, 0.12),
    "orange": (0.93, 0.50, 0.12),
    "yellow": (0.95, 0.83, 0.20),
    "green": (0.25, 0.62, 0.24),
    "blue": (0.16, 0.34, 0.80),
    "purple": (0.50, 0.22, 0.66),
    "pink": (0.94, 0.52, 0.70),
    "brown": (0.45, 0.29, 0.17),
    "white": (0.94, 0.94, 0.94),
    "black": (0.09, 0.09, 0.10),
    "gray": (0.50, 0.50, 0.50),
    "turquoise": (0.22, 0.76, 0.72),
}
COLOR_WORDS = frozenset(PALETTE) | set(
    "grey gold golden silver tan beige teal magenta olive violet cyan crimson dark light pale colored colorful".split()
)
NEUTRAL = 12.0  # CIELAB chroma below which a colour has no hue to speak of
SAME_HUE = np.radians(35)
SHARE = 0.4  # of the surface that the dominant group must cover

# Everyday words for things of the pack. The `near` words of eval100 are left out on purpose: that group asks what the
# text encoder knows by itself.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "sofa": ("settee", "loveseat"),
    "car": ("motorcar", "sedan"),
    "house": ("home", "dwelling"),
    "tree": ("sapling",),
    "refrigerator": ("icebox", "cooler"),
    "gravestone": ("headstone", "grave marker"),
    "mushroom": ("fungus", "champignon"),
    "spaceship": ("spacecraft", "space ship"),
    "spacecraft": ("spaceship", "rocket ship"),
    "axe": ("ax",),
    "barrel": ("keg",),
    "tent": ("camp shelter",),
    "treasure chest": ("coffer", "loot chest"),
    "chest": ("coffer",),
    "trash can": ("garbage bin", "waste bin"),
    "television": ("TV", "TV set"),
    "lamp": ("light",),
    "table": ("desk",),
    "bed": ("bedstead",),
    "stone": ("rock",),
    "rock": ("stone", "boulder"),
    "boat": ("vessel",),
    "ship": ("vessel",),
    "truck": ("lorry",),
    "motorcycle": ("motorbike",),
    "airplane": ("plane", "aircraft"),
    "bag": ("sack",),
    "pot": ("pan",),
    "cup": ("mug",),
    "pistol": ("handgun",),
    "gun": ("firearm",),
    "bush": ("shrub",),
    "flower": ("blossom",),
    "log": ("piece of timber",),
    "fence": ("railing",),
    "crate": ("wooden box",),
    "box": ("carton",),
    "path": ("trail",),
    "toilet": ("lavatory",),
    "sword": ("blade",),
    "shield": ("buckler",),
    "hamburger": ("burger",),
    "burger": ("hamburger", "cheeseburger"),
    "pumpkin": ("gourd", "squash"),
    "dog": ("hound", "puppy"),
    "cat": ("kitten",),
    "cow": ("cattle",),
    "horse": ("pony",),
    "pig": ("hog",),
    "sheep": ("lamb",),
    "skull": ("cranium",),
    "book": ("tome",),
    "well": ("water well",),
    "tower": ("turret",),
    "castle": ("fortress",),
    "church": ("chapel",),
    "rug": ("carpet",),
    "carpet": ("rug",),
    "wardrobe": ("closet",),
    "cabinet": ("cupboard",),
    "stool": ("seat",),
    "bench": ("seat",),
    "candy": ("sweet",),
    "cookie": ("biscuit",),
    "zombie": ("undead",),
    "robot": ("android",),
    "monster": ("creature",),
    "street lamp": ("street light", "lamp post"),
}
_LONGEST_FIRST = sorted(SYNONYMS, key=len, reverse=True)


def mirrored(mesh: Mesh) -> Mesh:
    """`mesh` reflected left to right (x -> -x). A front stays a front."""
    v, n, c, f = mesh
    flip = np.array([-1, 1, 1], np.float32)
    return v * flip, n * flip, c, np.ascontiguousarray(f[:, ::-1])


def dominant_group(mesh: Mesh) -> tuple[NDArray[np.bool_], float]:
    """The vertices (V,) whose colour shares its hue (or its lack of one) with the colour that covers most surface, and
    the share of the surface they cover."""
    v, _, c, f = mesh
    p = v[f]
    area = np.linalg.norm(np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), axis=1)
    weight = sum(np.bincount(f[:, k], area, minlength=len(v)) for k in range(3))
    colors, index = np.unique(np.round(c * 255).astype(np.uint8), axis=0, return_inverse=True)
    index = index.reshape(-1)
    cover = np.bincount(index, weight, minlength=len(colors)) / max(float(np.sum(weight)), 1e-12)
    lab = rgb2lab(colors[None] / 255.0)[0]
    chroma, hue = np.hypot(lab[:, 1], lab[:, 2]), np.arctan2(lab[:, 2], lab[:, 1])
    top = int(cover.argmax())
    if chroma[top] < NEUTRAL:
        group = chroma < NEUTRAL
    else:
        group = (chroma >= NEUTRAL) & (np.abs(np.angle(np.exp(1j * (hue - hue[top])))) < SAME_HUE)
    return group[index], float(cover[group].sum())


def recolored(mesh: Mesh, color: str) -> Mesh | None:
    """`mesh` with its dominant group in the palette's `color`; None where no group covers SHARE of the surface.

    Lab' = Lab_target + 0.7 (L - mean L): shades stay, hue and mean lightness are the target's."""
    v, n, c, f = mesh
    group, share = dominant_group(mesh)
    if share < SHARE:
        return None
    target = rgb2lab(np.array(PALETTE[color])[None, None])[0, 0]
    lightness = rgb2lab(c[group][None])[0, :, 0]
    lab = np.tile(target, (len(lightness), 1))
    lab[:, 0] = np.clip(target[0] + 0.7 * (lightness - lightness.mean()), 4, 97)
    out = c.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of colours outside sRGB, which are clipped below
        out[group] = np.clip(lab2rgb(lab[None])[0], 0, 1)
    return v, n, out, f


def can_recolor(row: Mapping[str, object]) -> bool:
    """Objects whose name says a colour, and scans, keep theirs."""
    return row["category"] != "real scan" and not COLOR_WORDS & set(re.findall(r"[a-z]+", str(row["name"]).lower()))


def article(words: str) -> str:
    return ("an " if words[:1].lower() in "aeiou" else "a ") + words


def reworded(caption: str, u: float, v: float) -> str:
    """`caption` in other words; u and v, uniform in [0, 1), choose. 70 % stay as they are."""
    if u < 0.70:
        return caption
    if u < 0.80:
        return re.sub(r"^(an?|the) ", "", caption)
    if u < 0.85:
        return f"a 3D model of {caption}"
    for phrase in _LONGEST_FIRST:
        if re.search(rf"\b{phrase}$", caption):
            options = SYNONYMS[phrase]
            return re.sub(rf"\b{phrase}$", options[int(v * len(options))], caption)
    return caption
