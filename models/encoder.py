"""Texts -> unit sentence vectors and token vectors, one forward for both.

The sentence vector is what the folder's pooling makes of the last hidden states (SimBERT: kexue.fm/archives/7427). The token
vectors are what Word Rotator's Distance (arXiv:2004.15003) compares: their direction is the meaning, their norm the importance.
Three kinds, named by the card:

- ``static``: a row of a table per token id; a document need only keep its ids
- ``projected``: the summands of the sentence vector, word weight x dense(hidden state)
- ``hidden``: the last hidden states as they are

A text's vectors do not depend on what else is in its batch (to 1e-5 in float32): padding is masked out, and the CPU computes in
float32. On a CUDA device the network runs in bfloat16, and the rounding depends on the shapes that the matrix library meets.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.encoder_folder import EncoderFolder, Pooling, read_encoder_folder

MAX_BATCH_TOKENS = {"cpu": 4_096, "cuda": 16_384}
"""Padded tokens in one forward; more makes a CPU batch leave the cache, fewer leaves the matrix units idle."""
NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "bad allocation", "alloc_failed")
"""What the libraries' errors say when memory runs out; they have no common class for it."""
LEAST_FILLED = {"cpu": 0.7, "cuda": 0.0}
"""Least share of a batch's longest text that a text of the same batch has."""


class Tokenized(NamedTuple):
    """A text as the network reads it."""

    ids: list[int]  # with special tokens
    offsets: list[tuple[int, int]]  # of every id, in characters of the text; (0, 0) for special tokens
    inner: list[int]  # positions in ids that are no special tokens
    truncated: bool

    @property
    def inner_ids(self) -> NDArray[np.int32]:
        """Token ids without special tokens, (t,)."""
        return np.array([self.ids[i] for i in self.inner], dtype=np.int32)


class Encoded(NamedTuple):
    """Vectors of n texts."""

    sentences: NDArray[np.float32]  # (n, dim), unit length
    tokens: list[NDArray[np.float32]]  # n times (t_i, token_dim), not normalised: the norm is the mass
    token_ids: list[NDArray[np.int32]]  # n times (t_i,)


class Forward(Protocol):
    """One padded batch through the network. As many threads as ``concurrency`` says may ask at the same time."""

    @property
    def concurrency(self) -> int:
        """How many batches are computed at the same time with profit."""
        ...

    def __call__(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Map ids and mask (b, t) to unit sentence vectors (b, dim) and token vectors (b, t, token_dim).

        Raises:
            MemoryError: memory does not suffice for the batch.
        """
        ...


class EncoderNetwork(nn.Module):
    """The transformer with its pooling: ids and mask (b, t) in, sentence vectors (b, dim) and token vectors (b, t, ...) out.

    With word weights w and dense layers D the sentence vector is ``normalise(D(sum_i w_i h_i / sum_i w_i))``. Where D is one
    linear layer without bias or activation, ``w_i D(h_i)`` are summands of it, the "projected" token vectors.
    """

    def __init__(self, folder: EncoderFolder) -> None:
        super().__init__()
        self.network = folder.load_network()
        self.pooling = folder.pooling
        self.has_tokens = folder.token_vectors != "static"
        self.is_projected = folder.token_vectors == "projected"
        self.word_weights: torch.Tensor | None
        self.register_buffer(
            "word_weights", None if folder.word_weights is None else torch.from_numpy(folder.word_weights)
        )
        self.dense = nn.Sequential()
        for layer in folder.dense:
            linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], bias=layer.bias is not None)
            linear.weight.data = torch.from_numpy(layer.weight)
            if layer.bias is not None:
                linear.bias.data = torch.from_numpy(layer.bias)
            self.dense.append(linear)
            if layer.activation == "Tanh":
                self.dense.append(nn.Tanh())
        if self.is_projected and (
            len(folder.dense) > 1 or any(d.bias is not None or d.activation != "Identity" for d in folder.dense)
        ):
            raise ValueError(f"{folder.path}: projected token vectors need one dense layer without bias and activation")
        self.eval().requires_grad_(False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute unit sentence vectors and token vectors in float32."""
        output = self.network(input_ids=ids, attention_mask=mask)
        hidden = output.last_hidden_state  # (b, t, hidden)
        weights = mask.to(hidden.dtype)  # (b, t)
        if self.word_weights is not None:
            weights = weights * self.word_weights[ids].to(hidden.dtype)
        if self.pooling == "mean":
            total = weights.sum(1, keepdim=True).clamp(min=1e-9)
            pooled = (hidden * weights.unsqueeze(-1)).sum(1) / total
        else:
            pooled = output.pooler_output if self.pooling == "pooler" else hidden[:, 0]
        sentences = nn.functional.normalize(self.dense(pooled).float(), dim=-1)  # (b, dim)
        if not self.has_tokens:
            return sentences, sentences[:, None, :0]
        tokens = self.dense(hidden) * weights.unsqueeze(-1) if self.is_projected else hidden
        return sentences, tokens.float()  # (b, t, token_dim)


class TorchForward:
    """The network on a torch device; the reference that any faster forward must agree with."""

    concurrency = 1

    def __init__(self, network: EncoderNetwork, device: str, dtype: torch.dtype | None = None) -> None:
        """Bring the network to the device; `dtype` None is what is served: bfloat16 on CUDA, float32 on a CPU."""
        self._device = torch.device(device)
        dtype = dtype or (torch.bfloat16 if self._device.type == "cuda" else torch.float32)
        self._network = network.to(device=self._device, dtype=dtype)

    @torch.inference_mode()
    def __call__(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run one padded batch; see `Forward`."""
        try:
            sentences, tokens = self._network(
                torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device)
            )
            return sentences.cpu().numpy(), tokens.cpu().numpy()
        except RuntimeError as error:
            if not is_memory_short(error):
                raise
            shape = ids.shape
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # after the error is gone, which holds the tensors of its frames
        raise MemoryError(f"memory does not suffice for a batch of {shape}")


def is_memory_short(error: Exception) -> bool:
    """Return whether a library's error means that memory ran out."""
    return any(words in str(error).lower() for words in NO_MEMORY)


class Encoder:
    """An encoder folder ready to turn texts into vectors, for ``concurrency`` threads at the same time."""

    def __init__(
        self, folder: Path, device: str = "auto", pooling: Pooling | None = None, forward: Forward | None = None
    ) -> None:
        """Load a model folder.

        Args:
            folder: a Hugging Face encoder folder with safetensors.
            device: ``auto`` (CUDA when there is one), ``cpu`` or ``cuda``.
            pooling: used where the folder itself does not say how to pool.
            forward: replaces the torch forward, as `models.onnx_export.OnnxForward` does.

        Raises:
            ValueError: no usable model folder, or no CUDA device where one is demanded.
        """
        self.device = choose_device(device)
        self.folder = read_encoder_folder(Path(folder), pooling)
        self.fingerprint = self.folder.fingerprint
        self.card = self.folder.card
        self.max_tokens = self.folder.max_tokens
        self._tokenizer = self.folder.load_tokenizer()
        self.static_table = self.folder.static_table()
        self._forward = forward or TorchForward(EncoderNetwork(self.folder), self.device)
        self.concurrency = self._forward.concurrency
        probe = self.encode(self.tokenize(["。"]))
        self.dim = int(probe.sentences.shape[1])
        self.dimensions = sorted({self.dim, *self.card.get("dimensions", [])})
        """Lengths to which sentence vectors may be cut: the whole one, and those that the model was trained for."""
        self.token_dim = int(probe.tokens[0].shape[1])

    def tokenize(self, texts: Sequence[str]) -> list[Tokenized]:
        """Cut texts into tokens; what lies beyond ``max_tokens`` is left out and reported as ``truncated``."""
        return [
            Tokenized(
                encoding.ids,
                encoding.offsets,
                [i for i, is_special in enumerate(encoding.special_tokens_mask) if not is_special],
                bool(encoding.overflowing),
            )
            for encoding in self._tokenizer.encode_batch(list(texts))
        ]

    def encode(self, texts: Sequence[Tokenized]) -> Encoded:
        """Compute the vectors of tokenized texts, in batches of similar length, in the order given."""
        token_ids = [text.inner_ids for text in texts]
        if not texts:
            return Encoded(np.empty((0, self.dim), np.float32), [], [])
        sentences: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
        tokens: list[NDArray[np.float32]] = [np.empty((0, 0), np.float32)] * len(texts)
        lengths = [len(text.ids) for text in texts]
        for batch in batches_by_length(lengths, MAX_BATCH_TOKENS[self.device], LEAST_FILLED[self.device]):
            ids, mask = pad([texts[i].ids for i in batch])
            vectors, contextual = self._forward(ids, mask)
            for position, i in enumerate(batch):
                sentences[i] = vectors[position]
                if self.static_table is None:
                    tokens[i] = contextual[position, texts[i].inner]
        if self.static_table is not None:
            tokens = [self.static_table[ids] for ids in token_ids]
        return Encoded(np.stack(sentences), tokens, token_ids)


def choose_device(device: str, name: str = "device") -> str:
    """Return ``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``; ``name`` is what the caller calls it.

    Raises:
        ValueError: ``cuda`` was demanded and there is no CUDA device, or the name is unknown.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"{name} {device!r} is not one of auto, cpu, cuda")
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ValueError(f"{name} is cuda, but no CUDA device can be used; set it to auto or cpu to run without one")
    return "cuda" if has_cuda and device != "cpu" else "cpu"


def batches_by_length(lengths: Sequence[int], max_tokens: int, least_filled: float = 0.0) -> list[list[int]]:
    """Group positions so that texts of similar length share a batch of at most ``max_tokens`` padded tokens.

    Longest first; a single text longer than the budget is a batch of its own. A text shorter than ``least_filled`` of the
    longest begins a new batch: on a CPU padding costs what tokens cost.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and (len(batches[-1]) + 1) * longest <= max_tokens and lengths[i] >= least_filled * longest:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def pad(ids: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad token ids with zeros to (b, t) and return them with their mask (b, t)."""
    width = max(len(row) for row in ids)
    padded = np.zeros((len(ids), width), dtype=np.int64)
    mask = np.zeros((len(ids), width), dtype=np.int64)
    for i, row in enumerate(ids):
        padded[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return padded, mask
