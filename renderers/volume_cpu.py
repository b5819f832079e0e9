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
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from renderers.fields import NORMAL_EPSILON, GridField

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


# numba's own vectoriser gives up on eight possibly aliasing rows, so the two inner loops are spelled in LLVM's
# vectors (3x faster)
@_intrinsic
def _gather(typing_context: Any, row: Any, grid: Any, base: Any, resolution: Any, fx: Any, fy: Any, fz: Any) -> Any:
    """row[0:8] = the trilinear interpolation of the flat grid in the cell whose first vertex starts at `base`."""
    signature = types.void(row, grid, types.intp, types.intp, types.float32, types.float32, types.float32)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, grid, base, resolution, *fractions = args
        total = ir.Constant(_ROW, [0.0] * 8)
        for offset, weight in _corners(builder, base, resolution, fractions):
            value = builder.load(_row(context, builder, signature.args[1], grid, offset), align=4)
            total = builder.fadd(total, builder.fmul(weight, value, flags=("contract",)), flags=("contract",))
        builder.store(total, _row(context, builder, signature.args[0], row, ir.Constant(_INDEX, 0)), align=4)
        return context.get_dummy_value()

    return signature, codegen


@_intrinsic
def _scatter(typing_context: Any, row: Any, grid: Any, base: Any, resolution: Any, fx: Any, fy: Any, fz: Any) -> Any:
    """The adjoint of `_gather`: adds row[0:8] to the cell's corners, weighted."""
    signature = types.void(row, grid, types.intp, types.intp, types.float32, types.float32, types.float32)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
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
    y = f32(1.9875691500e-4)
    y = y * f + f32(1.3981999507e-3)
    y = y * f + f32(8.3334519073e-3)
    y = y * f + f32(4.1665795894e-2)
    y = y * f + f32(1.6666665459e-1)
    y = y * f + f32(5.0000001201e-1)
    y = y * f * f + f + f32(1.0)
    return y * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@_inline
def _sigmoid(x):
    return f32(1.0) / (f32(1.0) + _exp(-x))


@_inline
def _softplus(x):
    """max(x, 0) + log1p(exp(-|x|)), the logarithm as 2 atanh(e / (2 + e)): accurate relative to itself for very
    negative x."""
    e = _exp(-abs(x))
    s = e / (f32(2.0) + e)
    q = s * s
    y = f32(1 / 15) * q + f32(1 / 13)
    y = y * q + f32(1 / 11)
    y = y * q + f32(1 / 9)
    y = y * q + f32(1 / 7)
    y = y * q + f32(1 / 5)
    y = y * q + f32(1 / 3)
    y = y * q + f32(1.0)
    y = f32(2.0) * s * y
    return x + y if x > f32(0.0) else y


@_inline
def _inverse_norm(x, y, z, epsilon):
    return f32(1.0) / np.sqrt(x * x + y * y + z * z + epsilon * epsilon)


@_inline
def _locate(origins, directions, ray, t, resolution, cells, cell_count, fractions):
    """Where in the flat grid the cell of a ray's sample at distance t starts, or -1 if its occupancy cell is empty.
    Sets `fractions`, the sample's place within the cell."""
    half_cells = f32(0.5) * f32(cell_count)
    half_grid = f32(0.5) * f32(resolution - 1)
    cell = 0
    base = 0
    for axis in range(3):
        u = origins[3 * ray + axis] + t * directions[3 * ray + axis] + f32(1.0)
        c = min(max(int(u * half_cells), 0), cell_count - 1)
        cell = cell * cell_count + c
        g = u * half_grid
        i = min(max(int(g), 0), resolution - 2)
        base = base * resolution + i
        fractions[axis] = min(max(g - f32(i), f32(0.0)), f32(1.0))
    return 8 * base if cells[cell] else -1


@_jit
def _forward_chunk(grid, resolution, origins, directions, entry, count, step, scale, bias, minimum, epsilon,
                   cells, cell_count, pixels, order, out, span):  # fmt: skip
    row = np.empty(8, np.float32)
    total = np.empty(8, np.float32)
    fractions = np.empty(3, np.float32)
    for ray in order:
        view, pixel = ray // pixels, ray % pixels
        total[:] = f32(0.0)
        transmittance = f32(1.0)
        first = count[ray]
        last = 0
        for i in range(count[ray]):
            t = entry[ray] + f32(i) * step
            base = _locate(origins, directions, ray, t, resolution, cells, cell_count, fractions)
            if base < 0:
                continue
            first = min(first, i)
            last = i + 1
            _gather(row, grid, base, resolution, fractions[0], fractions[1], fractions[2])
            kept = _exp(-step * _softplus(scale * row[0] + bias))
            w = transmittance * (f32(1.0) - kept)
            inverse = _inverse_norm(row[4], row[5], row[6], epsilon)
            for c in range(3):
                total[c] += w * _sigmoid(row[1 + c])
                total[4 + c] -= w * inverse * row[4 + c]
            total[3] += w
            total[7] += w * t
            transmittance *= kept
            if transmittance < minimum:
                break
        span[2 * ray] = first
        span[2 * ray + 1] = last
        for c in range(8):
            out[(view * 8 + c) * pixels + pixel] = total[c]


@_jit
def _backward_chunk(grid, resolution, origins, directions, entry, step, scale, bias, epsilon,
                    cells, cell_count, pixels, order, out, span, upstream, gradient):  # fmt: skip
    gradient[:] = f32(0.0)
    row = np.empty(8, np.float32)
    up = np.empty(8, np.float32)
    down = np.zeros(8, np.float32)
    fractions = np.empty(3, np.float32)
    for ray in order:
        view, pixel = ray // pixels, ray % pixels
        behind = f32(0.0)  # <dL/dO, O> - P_i: what is still to come
        for c in range(8):
            up[c] = upstream[(view * 8 + c) * pixels + pixel]
            behind += up[c] * out[(view * 8 + c) * pixels + pixel]
        transmittance = f32(1.0)
        for i in range(span[2 * ray], span[2 * ray + 1]):
            t = entry[ray] + f32(i) * step
            base = _locate(origins, directions, ray, t, resolution, cells, cell_count, fractions)
            if base < 0:
                continue
            _gather(row, grid, base, resolution, fractions[0], fractions[1], fractions[2])
            logit = scale * row[0] + bias
            kept = _exp(-step * _softplus(logit))
            w = transmittance * (f32(1.0) - kept)
            inverse = _inverse_norm(row[4], row[5], row[6], epsilon)
            along = row[4] * up[4] + row[5] * up[5] + row[6] * up[6]
            value = up[3] + up[7] * t - inverse * along
            for c in range(3):
                color = _sigmoid(row[1 + c])
                value += up[c] * color
                down[1 + c] = w * up[c] * color * (f32(1.0) - color)
                down[4 + c] = w * inverse * (row[4 + c] * along * inverse * inverse - up[4 + c])
            behind -= w * value
            transmittance *= kept
            down[0] = step * (transmittance * value - behind) * scale * _sigmoid(logit)
            _scatter(down, gradient, base, resolution, fractions[0], fractions[1], fractions[2])


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
    """What the central difference in `channel` along one axis sends back to vertex v, at `position` of n on that
    axis."""
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


class _March(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, density: Tensor, color: Tensor, rays: tuple[Tensor, ...], cells: Tensor, constants: tuple[float, ...]
    ) -> Tensor:
        origins, directions, entry, count = rays
        batch, height, width = entry.shape
        r, chunks = density.shape[0], min(torch.get_num_threads(), MAX_CHUNKS)
        orders = _orders(batch, height, width, chunks)
        step, scale, bias, minimum = (f32(x) for x in constants)
        lines = (_flat(origins), _flat(directions), _flat(entry))
        occupied = (_flat(cells), cells.shape[0], height * width)
        raw = (_flat(density), _flat(color))
        grid = np.empty(8 * r**3, f32)
        out = torch.empty(batch, 8, height, width)
        span = np.empty(2 * batch * height * width, np.int32)
        out_flat, counts, epsilon = _flat(out), _flat(count), f32(NORMAL_EPSILON)
        _each(chunks, lambda c: _pack_slab(*raw, r, *_slab(r, c, chunks), grid))
        _each(
            chunks,
            lambda c: _forward_chunk(
                grid, r, *lines, counts, step, scale, bias, minimum, epsilon, *occupied, orders[c], out_flat, span
            ),
        )
        ctx.kept = (grid, r, *lines, step, scale, bias, epsilon, *occupied), orders, span
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        scene, orders, span = ctx.kept
        r, chunks = scene[1], len(orders)
        (out,) = ctx.saved_tensors
        out_flat, upstream = _flat(out), _flat(grad_outputs[0])
        gradients = np.empty((chunks, 8 * r**3), f32)
        density, color = torch.empty(r, r, r), torch.empty(r, r, r, 3)
        result = (_flat(density), _flat(color))
        _each(chunks, lambda c: _backward_chunk(*scene, orders[c], out_flat, span, upstream, gradients[c]))
        _each(chunks, lambda c: _sum_slab(gradients, *_slab(8 * r**3, c, chunks)))
        _each(chunks, lambda c: _unpack_slab(gradients[0], r, *_slab(r, c, chunks), *result))
        return density, color, None, None, None


def _flat(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy().reshape(-1)


def march_numba(
    field: GridField,
    origins: Tensor,
    directions: Tensor,
    entry: Tensor,
    count: Tensor,
    step: float,
    cells: Tensor,
    minimum: float,
) -> Tensor:
    """The fused twin of `volume.march_torch`: same arguments, same (B, 8, H, W). Raises ValueError unless all is
    float32 on the CPU."""
    for x in (field.raw_density, field.raw_color, origins, directions, entry):
        if x.device.type != "cpu" or x.dtype != torch.float32:
            raise ValueError(
                f"the numba marcher takes float32 on the CPU, got {x.dtype} on {x.device}; use backend='torch'"
            )
    constants = (step, field.density_scale, field.density_bias, minimum)
    march: Callable[..., Any] = _March.apply
    return march(field.raw_density, field.raw_color, (origins, directions, entry, count), cells, constants)


def compile_kernels() -> None:
    """Compiles every kernel on a tiny input (some seconds), or loads it from numba's cache."""
    field = GridField(torch.zeros(4, 4, 4, requires_grad=True), torch.zeros(4, 4, 4, 3, requires_grad=True))
    direction = torch.tensor([0.0, 0.0, -1.0]).expand(1, 1, 1, 3)
    entry, count = torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 4, dtype=torch.int32)
    cells = torch.ones(1, 1, 1, dtype=torch.bool)
    march_numba(field, -3 * direction, direction, entry, count, 0.5, cells, 1e-3).sum().backward()
