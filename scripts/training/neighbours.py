"""Mined hard negatives: texts that lie near a text but mean something else, found with the static token vectors.

The nearest texts of other groups are often paraphrases that nobody labelled, so the first ranks are left out (RocketQA,
arXiv:2010.08191, found most "negatives" at the top to be positives; a range of ranks is ANCE's and others' cheap answer).
Vectors are those of the bag (network.table), which do not change in a later stage, so what is found depends on the step only.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from scripts.training.pairs import Ids, Pairs


class Mining(NamedTuple):
    """`number` mined texts a batch, of the ranks `first` to `last` among `pool` texts."""

    number: int
    first: int = 20
    last: int = 100
    pool: int = 50_000


class Neighbours:
    """Texts of training pairs by the vectors of a static table (V, dim)."""

    def __init__(self, table: Tensor, ids: Ids, pairs: Pairs, mining: Mining, longest: int, seed: int) -> None:
        """Draw the pool among the texts of `pairs` and compute its vectors; texts are cut to `longest` tokens.

        Raises ValueError where the table is empty, which it is before stage static has ended.
        """
        if not bool(table.any()):
            raise ValueError("hard negatives are mined with the vectors of stage static, which has not been trained")
        self._table, self._ids, self._group = table, ids, pairs.group
        self._mining, self._longest, self._seed = mining, longest, seed
        texts = np.unique(np.concatenate([pairs.left, pairs.right]))
        self.pool = np.random.default_rng((seed, 5)).permutation(texts)[: mining.pool]
        self._vectors = torch.cat([self._read(part) for part in np.array_split(self.pool, len(self.pool) // 4096 + 1)])

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        """Give unit vectors (n, dim): the sums of the texts' token vectors."""
        ids = torch.from_numpy(self._ids.batch(rows, self._longest)).to(self._table.device)
        return functional.normalize(functional.embedding_bag(ids, self._table, mode="sum"), dim=-1)

    @torch.no_grad()
    def mine(self, texts: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        """Give texts (at most the number asked for) that are neighbours of some of `texts` and in other groups than these.

        Of which texts and at which rank is drawn; the draw depends on the seed and on `number`, the batch's, only.
        """
        random = np.random.default_rng((self._seed, 6, number))
        asked = random.permutation(texts)[: self._mining.number]
        nearest = min(self._mining.last, len(self.pool))
        found = (self._read(asked) @ self._vectors.T).topk(nearest, dim=1).indices.cpu().numpy()  # (n, nearest)
        candidates = self.pool[found]
        is_other = self._group[candidates] != self._group[asked][:, None]
        is_other[:, : min(self._mining.first, nearest - 1)] = False
        draw = np.where(is_other, random.random(is_other.shape), -1.0)
        place = draw.argmax(axis=1)
        rows = np.arange(len(asked))
        return np.unique(candidates[rows, place][draw[rows, place] >= 0])
