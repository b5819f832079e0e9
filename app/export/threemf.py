"""3MF for printing: a closed solid in millimetres, Z up, front to -Y, its lowest corner at the origin, with a colour
for each corner of a triangle (the materials extension), taken from the nearest vertex of the painted mesh."""

from __future__ import annotations

import io
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from app.export.glb import TexturedMesh, write_atomically
from app.export.solid import printable, vertex_colors, welded, z_up

CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
MATERIALS = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
TYPES = """<?xml version="1.0" encoding="UTF-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>
</Types>
"""
RELATIONS = """<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Target="/3D/3dmodel.model" Id="rel0" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>
</Relationships>
"""
STEPS = 16  # of a channel: a print has no more, and slicers list every colour


def write_3mf(path: Path, mesh: TexturedMesh, size: float | None) -> str:
    """`size`: the longest side, in millimetres; None keeps the mesh's own, in metres. Returns what it took to close
    the surface, and ValueError, as `printable`."""
    vertices, faces, took = printable(mesh, size)
    palette, painted = corner_colors(mesh, vertices)
    points = "".join('<vertex x="%.9g" y="%.9g" z="%.9g"/>\n' % tuple(v) for v in vertices.tolist())  # noqa: UP031
    triangles = "".join(
        f'<triangle v1="{a}" v2="{b}" v3="{c}" pid="1" p1="{painted[a]}" p2="{painted[b]}" p3="{painted[c]}"/>\n'
        for a, b, c in faces.tolist()
    )
    colors = "".join('<m:color color="#%02X%02X%02X"/>\n' % tuple(c) for c in palette.tolist())  # noqa: UP031
    model = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<model unit="millimeter" xml:lang="en-US" xmlns="{CORE}" xmlns:m="{MATERIALS}">\n'
        f'<metadata name="Application">polymode {version("polymode")}</metadata>\n'
        f'<resources>\n<m:colorgroup id="1">\n{colors}</m:colorgroup>\n'
        f'<object id="2" type="model" pid="1" pindex="0">\n<mesh>\n<vertices>\n{points}</vertices>\n'
        f"<triangles>\n{triangles}</triangles>\n</mesh>\n</object>\n</resources>\n"
        '<build>\n<item objectid="2"/>\n</build>\n</model>\n'
    )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as z:
        for name, text in (
            ("[Content_Types].xml", TYPES),
            ("_rels/.rels", RELATIONS),
            ("3D/3dmodel.model", model),
        ):
            entry = zipfile.ZipInfo(name)  # dated 1980: the same mesh gives the same bytes
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            z.writestr(entry, text)
    write_atomically(path, packed.getvalue())
    return took


def corner_colors(mesh: TexturedMesh, vertices: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The palette (P, 3) uint8, and which of it each of the solid's `vertices` (V, 3) has."""
    from scipy.spatial import KDTree

    painted = z_up(mesh.vertices.numpy().astype(np.float64))
    painted -= painted.min(0)
    scale = float(vertices.max()) / max(float(painted.max()), 1e-30)
    _, nearest = KDTree(painted * scale).query(vertices)
    step = 255 / (STEPS - 1)
    colors = np.rint(np.rint(vertex_colors(mesh)[nearest] / step) * step).astype(np.uint8)
    first, index = welded(colors)
    return colors[first], index.tolist()
