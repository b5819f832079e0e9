"""Captions by number, in several wordings, and their embeddings: end to end in one tensor on the device."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.training.augment import SYNONYMS, reworded
from guidance.priors.text import WIDTH, TextEmbedding, TextEncoder

DRAWS = 12  # of a synonym
WORDINGS = 3 + DRAWS
BLOCK = 16  # captions that are encoded together, always the same: neighbours change an embedding's last bits
_ENDS = re.compile(rf"\b(?:{'|'.join(map(re.escape, SYNONYMS))})$")


def wordings(caption: str) -> list[str]:
    """What `reworded` can make of a caption: as it is, without its article, "a 3D model of" it, DRAWS synonyms."""
    synonyms = [caption] * DRAWS
    if _ENDS.search(caption):
        synonyms = [reworded(caption, 0.9, (k + 0.5) / DRAWS) for k in range(DRAWS)]
    return [caption, reworded(caption, 0.75, 0), reworded(caption, 0.82, 0), *synonyms]


def wording(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which of a caption's wordings, for uniform u and v of one shape: 70 % as it is, as `reworded` has it."""
    return np.select([u < 0.7, u < 0.8, u < 0.85], [0, 1, 2], 3 + (v * DRAWS).astype(int))


class Texts:
    """Captions get numbers in the order they are added in. An embedding is made when it is first asked for: bf16, in
    `flat` (used, 384), from row `start` on, `length` rows. Batches are padded to `least` tokens at least."""

    def __init__(self, encoder: TextEncoder, device: torch.device):
        self.encoder, self.device = encoder, device
        self.strings: list[str] = []
        self._number: dict[str, int] = {}
        self.flat = torch.zeros(4096, WIDTH, dtype=torch.bfloat16, device=device)
        self.used = self.least = 0
        self.start = self.length = np.zeros(0, np.int64)

    def add(self, caption: str) -> int:
        if caption not in self._number:
            self._number[caption] = len(self.strings)
            self.strings.append(caption)
        return self._number[caption]

    def add_wordings(self, caption: str) -> list[int]:
        return [self.add(c) for c in wordings(caption)]

    def encode(self, numbers: NDArray[np.int64], block: int = BLOCK) -> None:
        """Make the embeddings of `numbers` and of their blocks that are not there yet."""
        if (more := len(self.strings) - len(self.start)) > 0:
            self.start = np.concatenate([self.start, np.full(more, -1)])
            self.length = np.concatenate([self.length, np.zeros(more, np.int64)])
        for b in np.unique(numbers[self.start[numbers] < 0] // block):
            some = np.arange(b * block, min((b + 1) * block, len(self.strings)))
            e = self.encoder([self.strings[i] for i in some])
            lengths = e.mask.sum(1).cpu().numpy()
            first, self.used = self.used, self.used + int(lengths.sum())
            if self.used > len(self.flat):
                flat = self.flat.new_zeros(2 * self.used, WIDTH)
                flat[:first] = self.flat[:first]
                self.flat = flat
            self.flat[first : self.used] = e.tokens[e.mask].to(self.flat.dtype)
            self.start[some], self.length[some] = first + np.cumsum(lengths) - lengths, lengths

    def encode_all(self) -> None:
        """All at once, and every batch then as long as the longest: for a device whose kernels are chosen by shape."""
        self.encode(np.arange(len(self.strings)), 2048)
        self.least = -(-int(self.length.max()) // 8) * 8

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N, L) rows of `flat` for N captions, -1 where padded."""
        self.encode(numbers)
        start, length = self.start[numbers, None], self.length[numbers, None]
        k = np.arange(max(self.least, int(length.max())))
        return np.where(k < length, start + k, -1)

    def embedding(self, rows: Tensor, times: int) -> TextEmbedding:
        """Of (N, L) rows on the device, each `times` times."""
        mask = rows >= 0
        tokens = self.flat[rows.clamp(min=0)].float() * mask[..., None]
        return TextEmbedding(tokens.repeat_interleave(times, 0), mask.repeat_interleave(times, 0))

    def of(self, captions: Sequence[str]) -> TextEmbedding:
        rows = torch.from_numpy(self.rows(np.array([self.add(c) for c in captions])))
        return self.embedding(rows.to(self.device), 1)
