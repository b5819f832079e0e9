"""What a mesh is worth, measured: how its triangles hang together, whether it prints, how its texture is used; and
what a person should know, in words.

Vertices at one place count as one, as the seams of an atlas need several. Sizes are in metres; walls, and texels a
millimetre, are those of the print.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.export.crossing import crossings, grid, texel_counts, thin_share
from app.export.glb import TexturedMesh
from app.export.solid import welded
from renderers.topology import compact, face_areas, faults, labels, parts, volumes

WALL = 1.0  # millimetres: thinner ones break in most printers
PRINTED = 100.0  # millimetres, where nobody says how large
COUNTED = 2048  # texels along a side, at most, of the picture in which use and overlap are counted
AXES = "Y up, front +Z"


@dataclass(frozen=True)
class Report:
    """A mesh, measured. Shares are 0 to 1; None is what the mesh does not have, or what took too long to count."""

    faces: int
    vertices: int
    """As in the file."""
    components: int
    watertight: bool
    open_edges: int
    nonmanifold_edges: int
    doubled_faces: int
    degenerate_faces: int
    bowties: int
    """Vertices where the surface meets itself in a point."""
    genus: int | None
    """Handles of all components together; None where the surface is not a closed manifold."""
    flipped: bool
    """Closed, and inside out."""
    crossings: int
    """Pairs of faces that pass through one another."""
    crossings_capped: bool
    """There may be more: counting was cut off."""
    thin_walls: float
    """Share of the surface with less than `wall_mm` behind it, printed at `printed_mm`."""
    wall_mm: float
    printed_mm: float
    size: tuple[float, float, float]
    """Of the bounding box, x, y, z, in metres."""
    axes: str
    texture: tuple[int, int] | None
    """Width and height; None where the mesh is painted by vertex."""
    charts: int | None
    """Pieces of the atlas; None where each face has one point of a palette."""
    palette: int | None
    """Colours of the palette, where there is one."""
    texels_used: float | None
    texels_per_mm: float | None
    stretch: float | None
    """The texels a millimetre of the densest faces (95th percentile by area), over those of the coarsest (5th)."""
    overlap: float | None
    """Share of the used texels that several faces claim."""
    outside: float
    """Share of the faces with texture coordinates outside the picture."""
    darkest: tuple[int, int, int]
    brightest: tuple[int, int, int]
    """sRGB, the 1st and 99th percentile of each channel over what is used."""
    warnings: tuple[str, ...] = ()


def report(mesh: TexturedMesh, printed: float | None = PRINTED) -> Report:
    """Measure a mesh that is not empty. `printed`: its longest side when it is printed, in millimetres; None: its own
    size, in metres."""
    points = mesh.vertices.double().numpy()
    first, place = welded(mesh.vertices.numpy())
    used, faces = compact(points[first], place[mesh.faces.numpy()].astype(np.int64))
    whole = np.flatnonzero((faces != np.roll(faces, -1, 1)).all(1))
    wrong = faults(faces[whole] if len(whole) else faces)
    box = used.max(0) - used.min(0)
    longest = max(float(box.max()), 1e-30)
    area = face_areas(used, faces)
    components = int(parts(faces).max()) + 1
    characteristic = len(used) - len(whole) * 3 // 2 + len(whole)
    genus = components - characteristic // 2 if wrong.manifold else None
    millimetres = longest * 1000 if printed is None else printed

    triangles = used[faces]
    cells = grid(triangles)
    pairs, capped = crossings(triangles, faces, cells)
    atlas = atlas_of(mesh, place, area, millimetres / longest)
    found = Report(
        faces=len(faces),
        vertices=len(points),
        components=components,
        watertight=wrong.closed,
        open_edges=wrong.open_edges,
        nonmanifold_edges=wrong.nonmanifold_edges,
        doubled_faces=wrong.doubled_faces,
        degenerate_faces=int((area <= 1e-14 * longest**2).sum()),
        bowties=wrong.bowties,
        genus=genus,
        flipped=wrong.closed and float(volumes(used - used.mean(0), faces).sum()) < 0,
        crossings=pairs,
        crossings_capped=capped,
        thin_walls=round(thin_share(triangles, WALL * longest / millimetres, cells), 4),
        wall_mm=WALL,
        printed_mm=round(millimetres, 3),
        size=(round(float(box[0]), 6), round(float(box[1]), 6), round(float(box[2]), 6)),
        axes=AXES,
        **atlas,
    )
    return dataclasses.replace(found, warnings=tuple(warnings(found)))


def atlas_of(mesh: TexturedMesh, place: NDArray, area: NDArray, scale: float) -> dict[str, Any]:
    """The report's part about texture and colours. `place` (V,) of each vertex, `area` (F,) of the faces in square
    metres, `scale` millimetres of the print a metre."""
    faces, picture = mesh.faces.numpy(), mesh.texture.numpy()
    none: dict[str, Any] = dict.fromkeys(
        ("texture", "charts", "palette", "texels_used", "texels_per_mm", "stretch", "overlap")
    )
    if mesh.colors is not None:
        return none | {"outside": 0.0} | extremes(mesh.colors.numpy())
    high, wide = picture.shape[:2]
    uv = mesh.uv.double().numpy()
    beyond = np.abs(uv - 0.5).max(1) > 0.5 + 1e-6
    outside = round(float(beyond[faces].any(1).mean()), 4)
    share = min(1.0, COUNTED / max(high, wide))
    rows, columns = max(1, round(high * share)), max(1, round(wide * share))
    t = uv[faces]
    u, v = t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]
    texels = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]) / 2 * high * wide  # of each face
    out = none | {"texture": (wide, high), "outside": outside}
    if texels.max() < 1e-3:
        spots = (uv * [wide, high]).astype(np.int64).clip(0, [wide - 1, high - 1])[np.unique(faces)]
        colors = picture[spots[:, 1], spots[:, 0]]
        return out | {"palette": len(np.unique(colors, axis=0))} | extremes(colors)
    _, split = welded(np.concatenate([place[:, None].astype(np.float64), uv], 1))
    corner = split[faces]
    chart = labels(int(corner.max()) + 1, corner[:, :2].reshape(-1), corner[:, 1:].reshape(-1))
    out["charts"] = len(np.unique(chart[corner[:, 0]]))
    if float(area.sum()) > 0:
        solid = area > 1e-14 * area.sum()
        density = np.sqrt(texels[solid] / area[solid]) / scale
        order = np.argsort(density)
        ranks = np.cumsum(area[solid][order]) / area[solid].sum()
        coarse, middle, dense = (float(density[order][np.searchsorted(ranks, q)]) for q in (0.05, 0.5, 0.95))
        out["texels_per_mm"] = round(middle, 3)
        out["stretch"] = round(dense / coarse, 2) if coarse > 0 else None
    counts = texel_counts(np.ascontiguousarray(t * [columns, rows]), rows, columns)
    if counts is None or not counts.any():
        return out | extremes(picture.reshape(-1, 3))
    covered = counts > 0
    out["texels_used"] = round(float(covered.mean()), 4)
    out["overlap"] = round(float((counts > 1).sum() / covered.sum()), 4)
    row, column = (np.linspace(0, n - 1, m).astype(np.int64) for n, m in ((high, rows), (wide, columns)))
    return out | extremes(picture[np.ix_(row, column)][covered])


def extremes(colors: NDArray) -> dict[str, tuple[int, int, int]]:
    low, high = np.percentile(colors, [1, 99], axis=0).round().astype(int).tolist()
    return {"darkest": tuple(low), "brightest": tuple(high)}


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def warnings(r: Report) -> list[str]:
    """What a person should know, a sentence each."""
    more = "at least " if r.crossings_capped else ""
    longest = max(r.size)
    found = (
        (
            r.open_edges > 0,
            f"The surface is open at {r.open_edges} edges; STL and 3MF are closed when they are written.",
        ),
        (
            r.nonmanifold_edges > 0,
            f"{r.nonmanifold_edges} edges do not join exactly two faces that agree (non-manifold).",
        ),
        (r.doubled_faces > 0, f"{r.doubled_faces} faces are there twice."),
        (r.degenerate_faces > 0, f"{r.degenerate_faces} faces have no area."),
        (r.flipped, "The object is inside out: its faces look inwards."),
        (r.components > 20, f"The mesh falls into {r.components} parts."),
        (r.crossings > 0, f"{more}{r.crossings} pairs of faces pass through one another.".capitalize()),
        (
            r.thin_walls > 0.01,
            f"{percent(r.thin_walls)} of the surface is thinner than {r.wall_mm:g} mm when it is printed "
            f"{r.printed_mm:g} mm long.",
        ),
        ((r.overlap or 0) > 0.01, f"{percent(r.overlap or 0)} of the used texels belong to several faces."),
        (r.outside > 0, f"{percent(r.outside)} of the faces have texture coordinates outside the picture."),
        (
            r.texels_used is not None and r.texels_used < 0.2 and max(r.texture or (0,)) > 64,
            f"Only {percent(r.texels_used or 0)} of the texture is used.",
        ),
        (max(r.brightest) < 20, "The object is all but black."),
        (
            not 1e-3 <= longest <= 100,
            f"The longest side is {longest:g} m if a unit is a metre; the file may be meant in other units.",
        ),
    )
    return [words for true, words in found if true]


def rows(r: Report) -> list[tuple[str, str]]:
    """The report in words: (what, how much)."""
    closed = "yes" if r.watertight else f"no, {r.open_edges} open edges"
    more = "at least " if r.crossings_capped else ""
    out = [
        ("Faces", f"{r.faces:,}"),
        ("Vertices", f"{r.vertices:,}"),
        ("Components", f"{r.components:,}"),
        ("Watertight", closed),
        ("Non-manifold edges", f"{r.nonmanifold_edges:,}"),
        ("Doubled faces", f"{r.doubled_faces:,}"),
        ("Faces without area", f"{r.degenerate_faces:,}"),
        ("Genus", "-" if r.genus is None else str(r.genus)),
        ("Crossing faces", f"{more}{r.crossings:,} pairs"),
        (
            f"Thinner than {r.wall_mm:g} mm",
            f"{percent(r.thin_walls)} of the surface, printed {r.printed_mm:g} mm long",
        ),
        ("Size", " × ".join(f"{x:.4g}" for x in r.size) + " m"),
        ("Axes", r.axes),
    ]
    if r.texture is not None:
        out.append(("Texture", f"{r.texture[0]} × {r.texture[1]}"))
    if r.palette is not None:
        out.append(("Palette", f"{r.palette} colours"))
    if r.charts is not None:
        out.append(("Charts", f"{r.charts:,}"))
    if r.texels_used is not None:
        out.append(("Texels in use", f"{percent(r.texels_used)}, {percent(r.overlap or 0)} of them twice"))
    if r.texels_per_mm is not None:
        uneven = "" if r.stretch is None else f", from coarse to dense {r.stretch:.1f} times"
        out.append(("Texels a millimetre", f"{r.texels_per_mm:.2f}{uneven}"))
    colors = ("#" + "".join(f"{c:02x}" for c in rgb) for rgb in (r.darkest, r.brightest))
    return [*out, ("Colours", " to ".join(colors))]


def as_json(r: Report) -> dict[str, Any]:
    """For JSON: tuples as lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(r).items()}


def from_json(value: Any) -> Report | None:
    """A report that `as_json` made, or None where that is none."""
    names = {f.name for f in dataclasses.fields(Report)}
    if not isinstance(value, dict) or set(value) != names:
        return None
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    return Report(**fields)
