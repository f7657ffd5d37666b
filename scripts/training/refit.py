"""The projection of a trained model set anew: by least squares to the mean of what several models find alike."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.nn import functional
from tqdm import tqdm

from models.encoder import Encoder
from scripts.model_folder import write_dense
from scripts.training.network import SimBert
from scripts.training.pairs import Pairs, balanced, tokenize
from scripts.training.projection import joined, least_squares
from scripts.training.start import read_network

_CHUNK = 256


def drawn_texts(pairs: Pairs, count: int, seed: int) -> list[str]:
    """Draw `count` different texts of the pairs, small families drawn more often, as in training; in order of length."""
    even = balanced(pairs, 0.5, 40_000, seed)
    rows = np.unique(np.concatenate([even.left, even.right]))
    chosen = np.random.default_rng((seed, 12)).permutation(rows)[:count]
    return sorted((pairs.texts[row] for row in chosen.tolist()), key=len)


@torch.no_grad()
def means_of(network: SimBert, tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> torch.Tensor:
    """Compute what the projection of `network` reads, unit rows (n, hidden)."""
    ids = tokenize(tokenizer, texts)
    network.eval()
    parts = [
        network.pooled(torch.from_numpy(ids.batch(rows, longest)))
        for rows in tqdm(np.array_split(np.arange(len(texts)), -(-len(texts) // _CHUNK)), desc="own means")
    ]
    return torch.cat(parts)


def vectors_of(folder: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode `texts` with any encoder folder, unit rows (n, dim)."""
    encoder = Encoder(folder, "cpu")
    parts = [
        encoder.encode(encoder.tokenize(texts[start : start + _CHUNK])).sentences
        for start in tqdm(range(0, len(texts), _CHUNK), desc=folder.name)
    ]
    return np.concatenate(parts)


@torch.no_grad()
def refit(
    folder: Path, others: Sequence[tuple[Path, float]], texts: Sequence[str], longest: int, threads: int, out: Path
) -> float:
    """Write `folder` as `out`, with a projection that gives nearly the mean of its cosines and, by their shares, the `others`'.

    Returns the mean cosine of its vectors of `texts` to vectors that have that mean. Of a text `folder` reads `longest` tokens,
    the others what they read. Raises ValueError where a folder is no model.
    """
    torch.set_num_threads(threads)
    network = read_network(folder)
    means = means_of(network, Tokenizer.from_file(str(folder / "tokenizer.json")), texts, longest)
    own = functional.normalize(network.dense(means), dim=1).numpy()
    found = [own, *(vectors_of(other, texts) for other, _ in others)]
    wanted = torch.from_numpy(joined(found, [1.0, *(share for _, share in others)], own.shape[1]))
    projection = least_squares(means, wanted).float()
    shutil.copytree(folder, out)
    write_dense(out / "3_Dense", projection.numpy())
    return float(functional.cosine_similarity(functional.linear(means, projection), wanted).mean())
