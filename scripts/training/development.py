"""What is looked at while training: rank correlation and question search on development pairs, never on a test set."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from tokenizers import Tokenizer

from scripts.lines import read_lines
from scripts.training.network import SimBert
from scripts.training.pairs import Ids, Pairs, tokenize
from scripts.training.passages import cloze, thinned


class Search(NamedTuple):
    """A question search: rows of queries and of the corpus among the texts, and the group that makes two texts relevant."""

    queries: NDArray[np.int64]
    corpus: NDArray[np.int64]
    group: NDArray[np.int64]


def question_search(held: Pairs, training: Pairs, queries: int, distractors: int, seed: int) -> Search:
    """Ask with one text of each held-out group for the others of its group, among all held-out texts and training texts."""
    random = np.random.default_rng(seed)
    positive = held.label == 1
    texts = np.unique(np.concatenate([held.left[positive], held.right[positive]]))
    _, first = np.unique(held.group[texts], return_index=True)
    asked = random.permutation(texts[first])[:queries]
    others = np.setdiff1d(texts, texts[first])
    rest = np.setdiff1d(np.unique(training.left), np.unique(np.concatenate([held.left, held.right])))
    corpus = np.concatenate([others, random.permutation(rest)[:distractors]])
    return Search(asked, corpus, held.group)


@torch.no_grad()
def sentence_vectors(
    network: SimBert, ids: Ids, rows: NDArray[np.int64], layers: bool, longest: int, tokens: int = 8192
) -> NDArray[np.float32]:
    """Encode the texts `rows` in batches of about `tokens` tokens of like length; returns (n, dim) unit rows in their order."""
    order = rows[np.argsort(ids.lengths[rows], kind="stable")]
    device = network.gate.device
    found = np.zeros((len(ids.lengths), network.dense.out_features), dtype=np.float32)
    start = 0
    while start < len(order):
        size = max(1, tokens // int(min(longest, ids.lengths[order[min(len(order) - 1, start + 255)]])))
        part = order[start : start + size]
        batch = torch.from_numpy(ids.batch(part, longest)).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=layers and fast_bf16(device)):
            vectors = network(batch) if layers else network.bag(batch)
        found[part] = vectors.sentences.float().cpu().numpy()
        start += size
    return found[rows]


@cache
def fast_bf16(device: torch.device) -> bool:
    """Say whether bf16 matrix products are faster than 32 bit ones on `device`: CUDA, or a CPU with avx512_bf16 or AMX."""
    if device.type == "cuda":
        return True
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = file.read(20_000)
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def rank_correlation(scores: NDArray[np.float32], labels: NDArray[np.int8] | NDArray[np.float64]) -> float:
    """Spearman's coefficient ×100, NaN where either side is constant."""
    if len(np.unique(labels)) < 2 or len(np.unique(scores)) < 2:
        return float("nan")
    return float(spearmanr(scores, labels).statistic) * 100


def measure(network: SimBert, ids: Ids, held: Pairs, search: Search, layers: bool, longest: int) -> dict[str, float]:
    """Measure the cosine on development data, ×100.

    Mean Spearman over the families with both labels; recall@1 and MRR@10 of the search.
    """
    network.eval()
    texts = np.unique(np.concatenate([held.left, held.right, search.queries, search.corpus]))
    place = np.zeros(len(ids.lengths), dtype=np.int64)
    place[texts] = np.arange(len(texts))
    vectors = sentence_vectors(network, ids, texts, layers, longest)
    cosine = np.einsum("nd,nd->n", vectors[place[held.left]], vectors[place[held.right]])
    families = [
        rank_correlation(cosine[held.family == one], held.label[held.family == one]) for one in np.unique(held.family)
    ]
    similarity = vectors[place[search.queries]] @ vectors[place[search.corpus]].T  # (queries, corpus)
    relevant = search.group[search.queries][:, None] == search.group[search.corpus][None, :]
    best = np.where(relevant, similarity, -2.0).max(axis=1)
    rank = (np.where(relevant, -2.0, similarity) >= best[:, None]).sum(axis=1) + 1
    network.train()
    return {
        "spearman": float(np.nanmean(families)) if not np.all(np.isnan(families)) else float("nan"),
        "recall@1": float((rank == 1).mean() * 100),
        "mrr@10": float(np.where(rank <= 10, 1 / rank, 0).mean() * 100),
    }


class Labelled(NamedTuple):
    """Labelled pairs of a file: text a_i is row i of `ids`, text b_i row n + i; `labels` (n,)."""

    name: str
    ids: Ids
    labels: NDArray[np.float64]

    def measure(self, network: SimBert, layers: bool, longest: int) -> float:
        """Correlate the cosine with the labels, Spearman ×100."""
        network.eval()
        number = len(self.labels)
        vectors = sentence_vectors(network, self.ids, np.arange(2 * number), layers, longest)
        network.train()
        return rank_correlation(np.einsum("nd,nd->n", vectors[:number], vectors[number:]), self.labels)


def labelled(file: Path, tokenizer: Tokenizer) -> Labelled:
    """Read text_a, text_b, label lines (TSV, `.xz` or plain)."""
    rows = [line.split("\t") for line in read_lines(file)]
    ids = tokenize(tokenizer, [row[0] for row in rows] + [row[1] for row in rows])
    return Labelled(file.name.split(".")[0], ids, np.array([float(row[2]) for row in rows]))


def write_task(
    folder: Path, corpus: Sequence[str], queries: Sequence[str], relevant: Iterable[tuple[int, int]]
) -> None:
    """Write a search as corpus.tsv, queries.tsv and qrels.tsv, for scripts.evaluate; `relevant` are (query, text) rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("corpus", corpus), ("queries", queries)):
        lines = (f"{row}\t{' '.join(text.split())}\n" for row, text in enumerate(texts))
        (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    (folder / "qrels.tsv").write_text("".join(f"{query}\t{text}\t1\n" for query, text in relevant), encoding="utf-8")


def write_question_search(folder: Path, pairs: Pairs, search: Search) -> None:
    """Write the question search of development pairs."""
    place: dict[int, list[int]] = {}
    for row, text in enumerate(search.corpus.tolist()):
        place.setdefault(int(search.group[text]), []).append(row)
    asked = [query for query in search.queries.tolist() if int(search.group[query]) in place]
    relevant = [(row, text) for row, query in enumerate(asked) for text in place[int(search.group[query])]]
    write_task(folder, [pairs.texts[row] for row in search.corpus], [pairs.texts[row] for row in asked], relevant)


def write_passage_search(folder: Path, paragraphs: Sequence[str], seed: int, queries: int) -> None:
    """Write a passage search: a thinned sentence asks for its paragraph, which holds it half of the time."""
    random = np.random.default_rng(seed)
    found = [
        (thinned(pair[0], random), pair[1]) for pair in (cloze(one, random) for one in paragraphs) if pair is not None
    ]
    asked = np.sort(random.permutation(len(found))[:queries]).tolist()
    write_task(folder, [rest for _, rest in found], [found[row][0] for row in asked], list(enumerate(asked)))
