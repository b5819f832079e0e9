"""Numbers over prompts and sets: bootstrap intervals, kernel distance, nearest neighbours, PSNR and SSIM.

Bootstrap: percentiles 2.5 and 97.5 of the mean over resampled prompts, from a fixed generator. Fewer than FEWEST
values have no interval: the resamples of two numbers say nothing of a third.
Kernel distance (KID, 1801.01401): the unbiased squared MMD with k(x, y) = (x . y / d + 1)^3, x and y features as they
are. Of unit vectors x . y / d is at most 1/d, the kernel is a straight line, and a collapse to the mean goes unseen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

RESAMPLES = 2000
FEWEST = 5  # values behind an interval


def mean_interval(values: Sequence[float], seed: int = 0) -> list[float] | None:
    """[mean, low, high]: the mean and its 95 % bootstrap interval over the values; [mean] of fewer than FEWEST, None
    without values."""
    if not values:
        return None
    x = torch.tensor(values, dtype=torch.float64)
    if len(values) < FEWEST:
        return [float(x.mean())]
    generator = torch.Generator().manual_seed(seed)
    means = x[torch.randint(len(x), (RESAMPLES, len(x)), generator=generator)].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return [float(x.mean()), low, high]


def interval_text(value: Sequence[float] | None, scale: float = 1.0, digits: int = 2) -> str:
    """What `mean_interval` found, for people: "mean [low, high]", "mean" or "-"."""
    if value is None:
        return "-"
    mean, *ends = (f"{scale * v:.{digits}f}" for v in value)
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def kernel_distance(x: Tensor, y: Tensor, views: int = 1) -> float:
    """Unbiased squared MMD of feature sets (N, D) and (M, D), at least two objects each. May be slightly negative.
    `views`: so many neighbouring rows are of one object; they are not independent, so pairs of one object are left
    out."""
    if len(x) < 2 * views or len(y) < 2 * views:
        raise ValueError(
            f"A kernel distance needs at least two objects on each side, got {len(x)} and {len(y)} features "
            f"of {views} views an object."
        )
    x, y, d = x.double(), y.double(), x.shape[1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / d + 1) ** 3

    def between_objects(k: Tensor) -> Tensor:
        of = torch.arange(len(k)) // views
        return k[of[:, None] != of].mean()

    return float(between_objects(kernel(x, x)) + between_objects(kernel(y, y)) - 2 * kernel(x, y).mean())


def nearest(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine distance (N,) of each query (N, D) to its nearest of the bank (M, D), and that one's index (N,)."""
    q = torch.nn.functional.normalize(queries, dim=1)
    b = torch.nn.functional.normalize(bank, dim=1)
    best, index = (q @ b.T).max(1)
    return 1 - best, index


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio, decibel, of pictures (B, C, H, W) in [0, 1]; infinite where they are equal."""
    return -10 * (x - y).square().mean((1, 2, 3)).log10()


def psnr_in_masks(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) PSNR, decibel, of the colours of frames (B, >= 4, H, W) in [0, 1] inside the union of both silhouettes,
    at most 100; and (B,) intersection over union of the silhouettes."""
    a, b = x[:, 3] > 0.5, y[:, 3] > 0.5
    pixels = (a | b).flatten(1).sum(1).clamp(min=1)
    error = ((x[:, :3] - y[:, :3]).square().mean(1) * (a | b)).flatten(1).sum(1) / pixels
    return -10 * error.clamp(min=1e-10).log10(), (a & b).flatten(1).sum(1) / pixels


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """(B,) structural similarity of pictures (B, C, H, W) in [0, 1]: Gaussian window of sigma 1.5 (Wang et al.
    2004)."""
    options = {"channel_axis": 0, "data_range": 1.0, "gaussian_weights": True, "sigma": 1.5}
    pairs = zip(x.cpu().numpy(), y.cpu().numpy(), strict=True)
    values = [structural_similarity(a, b, use_sample_covariance=False, **options) for a, b in pairs]  # pyright: ignore
    return torch.tensor([float(v) for v in values])  # pyright: ignore[reportArgumentType]
