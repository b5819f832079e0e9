"""Visibility and silhouette search in plain torch, on any device: the twin of renderers/raster/cpu.py, equal on every
pixel.

Visibility. Every (view, triangle, pixel of its bounding box) triple is tested; triples are made in chunks, so memory
stays bounded. The nearest depth is found by a minimum, then the lowest triangle among those at that depth: neither
depends on the order of execution.

Silhouette search. For each pixel and its right and upper neighbour that see different triangles, start at the nearer
triangle and find the edge through which the line from its pixel's centre to the other one leaves it. A silhouette
edge (open, or with both its triangles on the same side on screen) that leans towards the pixels' shared border is a
crossing. Any other edge leads into the triangle behind it, where the search goes on until the line ends: nvdiffrast
stops at the first triangle and so misses the outlines of meshes whose triangles are smaller than a pixel. Nothing
here is differentiable. Both versions do the same double arithmetic in the same order, and list crossings in the same
order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.raster.screen import MAX_STEPS, SKIPPED, SLACK, SUBPIXEL, SUBPIXEL_BITS, Crossings, Screen
from renderers.raster.topology import Topology

CHUNK = 1 << 20  # (triangle, pixel) pairs tested at once, about 150 MB; one triangle alone may need height * width
_HALF = SUBPIXEL // 2
_NONE = torch.iinfo(torch.int32).max


def _edge(x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor, px: Tensor, py: Tensor) -> tuple[Tensor, Tensor]:
    """The edge function (positive to the left of the edge) and whether the pixel counts as inside."""
    dx, dy = x1 - x0, y1 - y0
    value = dx * (py - y0) - dy * (px - x0)
    keep = (dy > 0) | ((dy == 0) & (dx < 0))
    return value, value >= (~keep).long()


def visible(screen: Screen, tri: Tensor) -> Tensor:
    """Visible triangle + 1 at every pixel centre, 0 where empty: (B, H, W) int32. `tri` (F, 3) int32 on the screen's
    device."""
    height, width = screen.height, screen.width
    views, faces = screen.xy.shape[0], tri.shape[0]
    device = screen.xy.device
    corner = tri.long().reshape(-1)
    x = screen.xy[:, corner, 0].long().reshape(views * faces, 3)
    y = screen.xy[:, corner, 1].long().reshape(views * faces, 3)
    z = screen.z[:, corner].reshape(views * faces, 3)

    # the pixels whose centres lie in the bounding box; boxes without one, flat and skipped triangles are dropped
    column0 = ((x.amin(1) + (SUBPIXEL - 1 - _HALF)) >> SUBPIXEL_BITS).clamp(min=0)
    column1 = ((x.amax(1) - _HALF) >> SUBPIXEL_BITS).clamp(max=width - 1)
    row0 = ((y.amin(1) + (SUBPIXEL - 1 - _HALF)) >> SUBPIXEL_BITS).clamp(min=0)
    row1 = ((y.amax(1) - _HALF) >> SUBPIXEL_BITS).clamp(max=height - 1)
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    drawn = (x.amin(1) > SKIPPED) & (column0 <= column1) & (row0 <= row1) & (area != 0)
    which = drawn.nonzero()[:, 0]
    clockwise = (area < 0)[which][:, None]
    swapped = torch.tensor([0, 2, 1], device=device)
    x, y, z = (torch.where(clockwise, v[which][:, swapped], v[which]) for v in (x, y, z))
    area, column0, row0 = area[which].abs(), column0[which], row0[which]
    columns = column1[which] - column0 + 1
    counts = columns * (row1[which] - row0 + 1)
    base = which // faces * (height * width)
    face = which % faces

    depth = torch.full((views * height * width,), torch.inf, dtype=torch.float64, device=device)
    ids = torch.full((views * height * width,), _NONE, dtype=torch.int32, device=device)
    ends = counts.cumsum(0)
    start, done = 0, 0
    while start < len(which):
        stop = max(int(torch.searchsorted(ends, done + CHUNK, right=True)), start + 1)
        n = torch.repeat_interleave(torch.arange(start, stop, device=device), counts[start:stop])
        offset = torch.arange(len(n), device=device) + done - (ends - counts)[n]
        column, row = column0[n] + offset % columns[n], row0[n] + offset // columns[n]
        px, py = column * SUBPIXEL + _HALF, row * SUBPIXEL + _HALF
        x0, x1, x2 = x[n].unbind(1)
        y0, y1, y2 = y[n].unbind(1)
        z0, z1, z2 = z[n].unbind(1)
        e0, in0 = _edge(x1, y1, x2, y2, px, py)
        e1, in1 = _edge(x2, y2, x0, y0, px, py)
        e2, in2 = _edge(x0, y0, x1, y1, px, py)
        d = (e0.double() * z0 + e1.double() * z1 + e2.double() * z2) * (1 / area[n].double())
        hit = in0 & in1 & in2 & (d >= -1) & (d <= 1)
        pixel, d, f = (base[n] + row * width + column)[hit], d[hit], face[n][hit].int()
        nearest = depth.scatter_reduce(0, pixel, d, "amin")
        # earlier triangles keep a pixel at equal depth: theirs is the lower number
        ids = ids.where(nearest == depth, _NONE)
        depth = nearest
        front = d == depth[pixel]
        ids = ids.scatter_reduce(0, pixel[front], f[front], "amin")
        start, done = stop, int(ends[stop - 1])
    return torch.where(ids == _NONE, 0, ids + 1).reshape(views, height, width)


def crossings(rast: Tensor, points: Tensor, tri: Tensor, topology: Topology) -> Crossings:
    """All crossings of rast (B, H, W, 4) for projected vertices (B, V, 2), on any device."""
    views, height, width, _ = rast.shape
    ids, z = rast[..., 3].long(), rast[..., 2]
    differs = torch.zeros(views, height, width, 2, dtype=torch.bool, device=rast.device)
    differs[:, :, :-1, 0] = ids[:, :, :-1] != ids[:, :, 1:]
    differs[:, :-1, :, 1] = ids[:, :-1] != ids[:, 1:]
    pair = differs.reshape(-1).nonzero()[:, 0]
    pixel, vertical = pair // 2, pair % 2
    other_pixel = pixel + torch.where(vertical == 1, width, 1)
    ids, z = ids.reshape(-1), z.reshape(-1)
    id0, id1 = ids[pixel], ids[other_pixel]
    first = (id1 == 0) | ((id0 != 0) & (z[pixel] < z[other_pixel]))
    face, other = torch.where(first, id0, id1) - 1, torch.where(first, id1, id0) - 1
    centre = torch.where(first, pixel, other_pixel)
    forward = torch.where(first, 1.0, -1.0).double()

    faces, vertices = tri.long(), points.shape[1]
    points = points.reshape(-1, 2)
    item = torch.arange(len(pair), device=rast.device)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(MAX_STEPS):
        if len(item) == 0:
            break
        swap = vertical[item] == 1
        row = centre[item] // width % height
        column = centre[item] % width
        origin = torch.stack([column, row], 1).double()
        offset = centre[item] // (height * width) * vertices
        index = faces[face] + offset[:, None]
        p = points[index] - origin[:, None]
        x, y = torch.where(swap[:, None], p[..., 1], p[..., 0]), torch.where(swap[:, None], p[..., 0], p[..., 1])
        xj, xk, yj, yk = x[:, [1, 2, 0]], x[:, [2, 0, 1]], y[:, [1, 2, 0]], y[:, [2, 0, 1]]
        dx, dy = xk - xj, yk - yj
        ds = forward[item]
        crossing = (yj >= 0) != (yk >= 0)
        distance = (ds[:, None] * (xj * dy - yj * dx) / torch.where(crossing, dy, 1.0)).where(crossing, -torch.inf)
        distance, edge = distance.max(1)
        edge_of = edge[:, None]
        xi, yi, xj, yj, xk, yk, dx, dy = (v.gather(1, edge_of)[:, 0] for v in (x, y, xj, yj, xk, yk, dx, dy))
        o = points[topology.opposite[face].gather(1, edge_of)[:, 0] + offset] - origin
        xo, yo = torch.where(swap, o[:, 1], o[:, 0]), torch.where(swap, o[:, 0], o[:, 1])
        inner = (xj - xi) * (yk - yi) - (xk - xi) * (yj - yi)
        wing = (xj - xo) * (yk - yo) - (xk - xo) * (yj - yo)
        silhouette = wing.isnan() | ((inner >= 0) == (wing >= 0))
        within = (distance > -SLACK) & (distance < 1 + SLACK)
        hit = within & silhouette & (dy.abs() >= dx.abs())
        ends = index.gather(1, torch.stack([(edge + 1) % 3, (edge + 2) % 3], 1))
        found.append((item[hit], ends[hit, 0], ends[hit, 1]))
        face = topology.neighbour[face].gather(1, edge_of)[:, 0]
        onward = within & ~silhouette & (distance < 1) & (face != other[item])
        item, face = item[onward], face[onward]
    items, a, b = (torch.cat(v) if v else pair for v in (zip(*found, strict=True) if found else ((), (), ())))
    order = items.argsort()
    items = items[order]
    return Crossings(pixel[items], vertical[items], forward[items], a[order], b[order])
