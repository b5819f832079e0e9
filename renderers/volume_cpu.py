"""The ray marcher's fused CPU path: numba kernels, forward and hand-written backward, of what `volume.march_torch`
spells out.

The grid is packed as (R, R, R, 8): raw density, raw colour (3), central differences (3), padding: one vertex is one
AVX register. Forward keeps only each ray's eight totals O = sum_i w_i v_i and the span of samples it visited.
Backward visits them again, front to back: with T_i the transmittance before sample i, e_i = exp(-sigma_i d), s_i =
<dL/dO, v_i> and P_i = sum_{j<=i} w_j s_j,

    dL/dsigma_i = d * (T_i e_i s_i - (<dL/dO, O> - P_i)).

Pixels are dealt to chunks in a checkerboard of tiles. A chunk is one task of a thread pool and has a gradient grid of
its own; the grids are added in a fixed order, so the result depends on the number of threads, not on their timing.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

BLOCK = 8  # samples of a ray that are activated together: one AVX register
TILE = 8  # pixels: a tile's rays meet the same cells
MAX_CHUNKS = 8  # each costs a gradient grid (8 MB at 64^3)
FLAGS = {"contract", "nsz"}  # multiply-add may fuse; NaN and infinity keep their meaning
f32 = np.float32

_pool = ThreadPoolExecutor(MAX_CHUNKS, thread_name_prefix="march")
_jit: Any = njit(cache=True, nogil=True, fastmath=FLAGS, error_model="numpy")
_inline: Any = njit(nogil=True, fastmath=FLAGS, error_model="numpy", forceinline=True)
_intrinsic: Any = intrinsic

_ROW = ir.VectorType(ir.FloatType(), 8)
_INDEX = ir.IntType(64)


def _row(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """A pointer to eight floats of a flat array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), _ROW.as_pointer())


def _corners(builder: Any, base: Any, resolution: Any, fractions: Any) -> Any:
    """Yields the offset and the splatted trilinear weight of a cell's eight corners."""
    one, undefined = ir.Constant(ir.FloatType(), 1.0), ir.Constant(_ROW, ir.Undefined)
    stride_z = ir.Constant(_INDEX, 8)
    stride_y = builder.mul(resolution, stride_z)
    strides = (builder.mul(resolution, stride_y), stride_y, stride_z)
    for corner in range(8):
        offset, weight = base, one
        for axis in range(3):
            if corner >> axis & 1:
                offset = builder.add(offset, strides[axis])
                factor = fractions[axis]
            else:
                factor = builder.fsub(one, fractions[axis])
            weight = factor if axis == 0 else builder.fmul(weight, factor)
        lane = builder.insert_element(undefined, weight, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8)
        yield offset, builder.shuffle_vector(lane, undefined, zeros)


# numba's vectoriser gives up on rows that may alias, so the two inner loops are spelled in LLVM's vectors: 2-3x faster
@_intrinsic
def _gather(typing_context, row, at, grid, base, resolution, fx, fy, fz):
    """row[at : at + 8] = the flat grid, interpolated in the cell whose first vertex starts at `base`."""
    signature = types.void(row, types.intp, grid, types.intp, types.intp, types.float32, types.float32, types.float32)

    def codegen(context, builder, signature, args):
        row, at, grid, base, resolution, *fractions = args
        total = ir.Constant(_ROW, [0.0] * 8)
        for offset, weight in _corners(builder, base, resolution, fractions):
            value = builder.load(_row(context, builder, signature.args[2], grid, offset), align=4)
            total = builder.fadd(total, builder.fmul(weight, value, flags=("contract",)), flags=("contract",))
        builder.store(total, _row(context, builder, signature.args[0], row, at), align=4)
        return context.get_dummy_value()

    return signature, codegen


@_intrinsic
def _scatter(typing_context, row, grid, base, resolution, fx, fy, fz):
    """The adjoint of `_gather`: adds row[0:8] to the cell's corners, weighted."""
    signature = types.void(row, grid, types.intp, types.intp, types.float32, types.float32, types.float32)

    def codegen(context, builder, signature, args):
        row, grid, base, resolution, *fractions = args
        value = builder.load(_row(context, builder, signature.args[0], row, ir.Constant(_INDEX, 0)), align=4)
        for offset, weight in _corners(builder, base, resolution, fractions):
            at = _row(context, builder, signature.args[1], grid, offset)
            term = builder.fmul(weight, value, flags=("contract",))
            builder.store(builder.fadd(builder.load(at, align=4), term, flags=("contract",)), at, align=4)
        return context.get_dummy_value()

    return signature, codegen


@_inline
def _exp(x):
    """exp in float32, within 1e-7 of itself (Cephes' polynomial); clamped to [-43, 88], NaN stays NaN."""
    if x > f32(88.0):
        x = f32(88.0)
    if x < f32(-43.0):  # its square is still a normal number; denormal ones are slow
        x = f32(-43.0)
    n = f32(np.floor(x * f32(1.44269504) + f32(0.5)))
    f = x - n * f32(0.693359375)
    f = f + n * f32(2.12194440e-4)
    y = ((f32(1.9875691500e-4) * f + f32(1.3981999507e-3)) * f + f32(8.3334519073e-3)) * f + f32(4.1665795894e-2)
    y = ((y * f + f32(1.6666665459e-1)) * f + f32(5.0000001201e-1)) * f * f + f + f32(1.0)
    return y * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@_inline
def _sigmoid(x):
    return f32(1.0) / (f32(1.0) + _exp(-x))


@_inline
def _softplus(x):
    """max(x, 0) + log1p(exp(-|x|)), the logarithm as 2 atanh(e / (2 + e)), which keeps its digits for small e."""
    e = _exp(-abs(x))
    s = e / (f32(2.0) + e)
    q = s * s
    y = ((f32(1 / 15) * q + f32(1 / 13)) * q + f32(1 / 11)) * q + f32(1 / 9)
    y = (((y * q + f32(1 / 7)) * q + f32(1 / 5)) * q + f32(1 / 3)) * q + f32(1.0)
    y = f32(2.0) * s * y
    return x + y if x > f32(0.0) else y


@_inline
def _locate(origins, directions, ray, t, resolution, cells, cell_count, fractions, at):
    """Where in the flat grid the cell of a ray's sample at distance t starts, or -1 if its occupancy cell is empty.
    Sets fractions[at : at + 3], the sample's place within the cell."""
    half_cells = f32(0.5) * f32(cell_count)
    half_grid = f32(0.5) * f32(resolution - 1)
    cell, base = 0, 0
    for axis in range(3):
        u = origins[3 * ray + axis] + t * directions[3 * ray + axis] + f32(1.0)
        c = min(max(int(u * half_cells), 0), cell_count - 1)
        cell = cell * cell_count + c
        g = u * half_grid
        i = min(max(int(g), 0), resolution - 2)
        base = base * resolution + i
        fractions[at + axis] = min(max(g - f32(i), f32(0.0)), f32(1.0))
    return 8 * base if cells[cell] else -1


@_inline
def _block(grid, resolution, origins, directions, ray, entry, i, stop, step, scale, bias, epsilon, cells, cell_count,
           at, place, fractions, rows, kept, activated, inverse):  # fmt: skip
    """Gathers a ray's next occupied samples from i on, BLOCK at most, and activates all of them at once: one by one,
    each would wait for its own chain of exponentials. Returns how many they are and where to go on.

    Per sample k: at[k] its index, place[k] and fractions[3 k ...] where it lies, rows[8 k ...] the raw values,
    kept[k] = exp(-sigma d), activated[k] = sigmoid(logit), activated[BLOCK (1 + c) + k] colour c, inverse[k] =
    1 / sqrt(|g|^2 + eps^2).
    """
    m = 0
    while i < stop and m < BLOCK:
        t = entry[ray] + f32(i) * step
        base = _locate(origins, directions, ray, t, resolution, cells, cell_count, fractions, 3 * m)
        if base >= 0:
            r = 8 * m
            _gather(rows, r, grid, base, resolution, fractions[3 * m], fractions[3 * m + 1], fractions[3 * m + 2])
            at[m] = i
            place[m] = base
            kept[m] = scale * rows[r] + bias
            activated[m] = kept[m]
            for c in range(3):
                activated[BLOCK * (1 + c) + m] = rows[r + 1 + c]
            inverse[m] = rows[r + 4] * rows[r + 4] + rows[r + 5] * rows[r + 5] + rows[r + 6] * rows[r + 6]
            m += 1
        i += 1
    # whole blocks whatever m is: lanes beyond it hold old values that nobody reads
    for k in range(kept.size):
        kept[k] = _exp(-step * _softplus(kept[k]))
    for k in range(activated.size):
        activated[k] = _sigmoid(activated[k])
    for k in range(inverse.size):
        inverse[k] = f32(1.0) / np.sqrt(inverse[k] + epsilon * epsilon)
    return m, i


@_inline
def _scratch():
    """A block's arrays, in the order of `_block`'s arguments."""
    at, place = np.zeros(BLOCK, np.intp), np.zeros(BLOCK, np.intp)
    fractions, rows = np.zeros(3 * BLOCK, np.float32), np.zeros(8 * BLOCK, np.float32)
    kept, activated = np.zeros(BLOCK, np.float32), np.zeros(4 * BLOCK, np.float32)
    inverse = np.zeros(BLOCK, np.float32)
    return at, place, fractions, rows, kept, activated, inverse


@_jit
def _forward_chunk(grid, resolution, origins, directions, entry, step, scale, bias, epsilon, cells, cell_count, pixels,
                   order, out, span, count, minimum):  # fmt: skip
    at, place, fractions, rows, kept, activated, inverse = _scratch()
    total = np.empty(8, np.float32)
    for ray in order:
        total[:] = f32(0.0)
        transmittance = f32(1.0)
        first, last = count[ray], 0
        i, stop = 0, count[ray]
        while i < stop:
            m, i = _block(grid, resolution, origins, directions, ray, entry, i, stop, step, scale, bias, epsilon,
                          cells, cell_count, at, place, fractions, rows, kept, activated, inverse)  # fmt: skip
            for k in range(m):
                first = min(first, at[k])
                last = at[k] + 1
                w = transmittance * (f32(1.0) - kept[k])
                for c in range(3):
                    total[c] += w * activated[BLOCK * (1 + c) + k]
                    total[4 + c] -= w * inverse[k] * rows[8 * k + 4 + c]
                total[3] += w
                total[7] += w * (entry[ray] + f32(at[k]) * step)
                transmittance *= kept[k]
                if transmittance < minimum:
                    i = stop
                    break
        span[2 * ray], span[2 * ray + 1] = first, last
        first_out = ray // pixels * 8 * pixels + ray % pixels
        for c in range(8):
            out[first_out + c * pixels] = total[c]


@_jit
def _backward_chunk(grid, resolution, origins, directions, entry, step, scale, bias, epsilon, cells, cell_count,
                    pixels, order, out, span, upstream, gradient):  # fmt: skip
    gradient[:] = f32(0.0)
    at, place, fractions, rows, kept, activated, inverse = _scratch()
    up, down = np.empty(8, np.float32), np.zeros(8, np.float32)
    for ray in order:
        first_out = ray // pixels * 8 * pixels + ray % pixels
        behind = f32(0.0)  # <dL/dO, O> - P_i: what is still to come
        for c in range(8):
            up[c] = upstream[first_out + c * pixels]
            behind += up[c] * out[first_out + c * pixels]
        transmittance = f32(1.0)
        i, stop = span[2 * ray], span[2 * ray + 1]
        while i < stop:
            m, i = _block(grid, resolution, origins, directions, ray, entry, i, stop, step, scale, bias, epsilon,
                          cells, cell_count, at, place, fractions, rows, kept, activated, inverse)  # fmt: skip
            for k in range(m):
                r = 8 * k
                w = transmittance * (f32(1.0) - kept[k])
                along = rows[r + 4] * up[4] + rows[r + 5] * up[5] + rows[r + 6] * up[6]
                value = up[3] + up[7] * (entry[ray] + f32(at[k]) * step) - inverse[k] * along
                for c in range(3):
                    color = activated[BLOCK * (1 + c) + k]
                    value += up[c] * color
                    down[1 + c] = w * up[c] * color * (f32(1.0) - color)
                    down[4 + c] = w * inverse[k] * (rows[r + 4 + c] * along * inverse[k] * inverse[k] - up[4 + c])
                behind -= w * value
                transmittance *= kept[k]
                down[0] = step * (transmittance * value - behind) * scale * activated[k]
                f = 3 * k
                _scatter(down, gradient, place[k], resolution, fractions[f], fractions[f + 1], fractions[f + 2])


@_jit
def _pack_slab(density, color, resolution, start, stop, grid):
    """`GridField.packed` for the planes x in [start, stop)."""
    n = resolution
    for i in range(start, stop):
        for j in range(n):
            for k in range(n):
                v = (i * n + j) * n + k
                grid[8 * v] = density[v]
                for c in range(3):
                    grid[8 * v + 1 + c] = color[3 * v + c]
                x0, x1 = (max(i - 1, 0) * n + j) * n + k, (min(i + 1, n - 1) * n + j) * n + k
                y0, y1 = (i * n + max(j - 1, 0)) * n + k, (i * n + min(j + 1, n - 1)) * n + k
                z0, z1 = (i * n + j) * n + max(k - 1, 0), (i * n + j) * n + min(k + 1, n - 1)
                grid[8 * v + 4] = f32(0.5) * (density[x1] - density[x0])
                grid[8 * v + 5] = f32(0.5) * (density[y1] - density[y0])
                grid[8 * v + 6] = f32(0.5) * (density[z1] - density[z0])
                grid[8 * v + 7] = f32(0.0)


@_jit
def _sum_slab(gradients, start, stop):
    """gradients[0] += the other chunks' grids, in order."""
    for chunk in range(1, gradients.shape[0]):
        for v in range(start, stop):
            gradients[0, v] += gradients[chunk, v]


@_inline
def _difference_adjoint(gradient, channel, position, n, v, stride):
    """What the differences in `channel` along one axis send back to vertex v, at `position` of n on that axis."""
    total = f32(0.0)
    total += gradient[8 * (v - stride) + channel] if position > 0 else -gradient[8 * v + channel]
    total -= gradient[8 * (v + stride) + channel] if position < n - 1 else -gradient[8 * v + channel]
    return f32(0.5) * total


@_jit
def _unpack_slab(gradient, resolution, start, stop, density, color):
    """The adjoint of `_pack_slab` for the planes x in [start, stop)."""
    n = resolution
    for i in range(start, stop):
        for j in range(n):
            for k in range(n):
                v = (i * n + j) * n + k
                total = gradient[8 * v]
                total += _difference_adjoint(gradient, 4, i, n, v, n * n)
                total += _difference_adjoint(gradient, 5, j, n, v, n)
                total += _difference_adjoint(gradient, 6, k, n, v, 1)
                density[v] = total
                for c in range(3):
                    color[3 * v + c] = gradient[8 * v + 1 + c]


def _each(chunks: int, task: Callable[[int], None]) -> None:
    """Runs task(0..chunks-1), all but the first in the pool; re-raises what any of them raises."""
    others = [_pool.submit(task, i) for i in range(1, chunks)]
    task(0)
    for other in others:
        other.result()


def _slab(total: int, chunk: int, chunks: int) -> tuple[int, int]:
    return total * chunk // chunks, total * (chunk + 1) // chunks


@lru_cache(maxsize=8)
def _orders(batch: int, height: int, width: int, chunks: int) -> tuple[np.ndarray, ...]:
    """Each chunk's ray indices (int64), tile after tile."""
    view, y, x = np.indices((batch, height, width)).reshape(3, -1)
    tile_y, tile_x = y // TILE, x // TILE
    chunk = (tile_y + tile_x + view) % chunks
    order = np.lexsort((x, y, tile_x, tile_y, view))
    return tuple(order[chunk[order] == c] for c in range(chunks))


class Marched(NamedTuple):
    """What backward needs of a forward: the kernels' common arguments, each chunk's rays, the visited spans."""

    scene: tuple[Any, ...]
    orders: tuple[np.ndarray, ...]
    span: np.ndarray


def march_forward(
    raw: tuple[np.ndarray, ...],
    rays: tuple[np.ndarray, ...],
    cells: np.ndarray,
    constants: tuple[float, ...],
    threads: int,
) -> tuple[np.ndarray, Marched]:
    """The totals (B, 8, H, W) that `volume.march_torch` describes, and what `march_backward` needs.

    raw: density (R, R, R), colour (R, R, R, 3); rays: origins and directions (B, H, W, 3), entry (B, H, W), count
    (B, H, W) int32; cells (C, C, C) bool; constants: step, density scale and bias, normal epsilon, transmittance that
    ends a ray. All else is float32, and all is C-contiguous: the caller sees to that.
    """
    origins, directions, entry, count = (x.reshape(-1) for x in rays)
    batch, height, width = rays[2].shape
    r, chunks = raw[0].shape[0], min(threads, MAX_CHUNKS)
    step, scale, bias, epsilon, minimum = (f32(x) for x in constants)
    orders = _orders(batch, height, width, chunks)
    density, color = (x.reshape(-1) for x in raw)
    grid = np.empty(8 * r**3, f32)
    out = np.empty((batch, 8, height, width), f32)
    span = np.empty(2 * entry.size, np.int32)
    place = (cells.reshape(-1), cells.shape[0], height * width)
    scene = (grid, r, origins, directions, entry, step, scale, bias, epsilon, *place)
    result = (out.reshape(-1), span, count, minimum)
    _each(chunks, lambda c: _pack_slab(density, color, r, *_slab(r, c, chunks), grid))
    _each(chunks, lambda c: _forward_chunk(*scene, orders[c], *result))
    return out, Marched(scene, orders, span)


def march_backward(marched: Marched, out: np.ndarray, upstream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of <upstream, out> in raw density (R, R, R) and raw colour (R, R, R, 3). Arguments C-contiguous."""
    scene, orders, span = marched
    r, chunks = scene[1], len(orders)
    gradients = np.empty((chunks, 8 * r**3), f32)
    density, color = np.empty((r, r, r), f32), np.empty((r, r, r, 3), f32)
    totals = (out.reshape(-1), span, upstream.reshape(-1))
    result = (density.reshape(-1), color.reshape(-1))
    _each(chunks, lambda c: _backward_chunk(*scene, orders[c], *totals, gradients[c]))
    _each(chunks, lambda c: _sum_slab(gradients, *_slab(8 * r**3, c, chunks)))
    _each(chunks, lambda c: _unpack_slab(gradients[0], r, *_slab(r, c, chunks), *result))
    return density, color


def compile_kernels() -> None:
    """Compiles every kernel on a tiny input (some seconds), or loads it from numba's cache."""
    line = np.zeros((1, 1, 1, 3), f32)
    rays = (line, line + 1, np.ones((1, 1, 1), f32), np.ones((1, 1, 1), np.int32))
    raw = (np.zeros((2, 2, 2), f32), np.zeros((2, 2, 2, 3), f32))
    out, marched = march_forward(raw, rays, np.ones((1, 1, 1), np.bool_), (0.1, 1.0, 0.0, 0.1, 0.0), threads=1)
    march_backward(marched, out, out)
