"""The rerank of texts too many to be held at once: they are read in blocks, those first that can score best.

    score = known + weight * similarity(distance)

Nothing scores more than known + weight * similarity(0). The texts are taken in the order of what is known; when the k-th
best reaches what the next block could score at most, the rest cannot enter the result. Within a block models/rerank.py prunes,
with the k-th best so far as what must be reached. The smaller the weight of transport, the fewer blocks are read.
"""

import math
from collections.abc import Callable

import numpy as np

from models import transport
from models.candidates import RankedTexts
from models.deadline import Deadline
from models.rerank import (
    EXACT,
    Certificate,
    Opened,
    Places,
    Reranked,
    Solving,
    TieBreak,
    best_of,
    largest_error,
    rerank,
)
from models.transport import Floats, Measure, Vectors

BLOCK_TEXTS = 1_024


def rerank_in_blocks(
    query: Vectors,
    read: Callable[[Places], RankedTexts],
    known: Floats,
    weight: float,
    top_k: int,
    measure: Measure,
    tie_break: TieBreak | None = None,
    deadline: Deadline | None = None,
    query_weights: Floats | None = None,
    solving: Solving = EXACT,
) -> Reranked:
    """Do what `rerank` does of n candidates that `read` brings by their positions (k,), ascending ones at a time.

    What is solved nearly does not count as proven.
    """
    order = np.argsort(-known, kind="stable")  # (n,)
    nearest = weight * transport.similarity(0.0, measure)
    scores = known + weight * transport.similarity(transport.WORST[measure], measure)  # the least
    distances, errors = np.full(len(known), np.nan), np.full(len(known), np.nan)
    hits = np.empty(0, np.int64)  # at most top_k
    kth = next_bound = -math.inf
    opened, is_complete, done = Opened(), True, 0
    while done < len(order):
        rest = float(known[order[done]]) + nearest  # the best score that anybody can have who is not yet read
        if kth > rest or (deadline is not None and deadline.is_over):
            is_complete = is_complete and kth > rest
            next_bound = max(next_bound, rest)
            break
        chosen = np.sort(order[done : done + BLOCK_TEXTS])
        done += len(chosen)
        names = _of_chosen(chosen, tie_break)
        found = rerank(
            query, read(chosen), known[chosen], weight, top_k, measure, names, deadline, query_weights, kth, solving
        )
        opened = Opened(*(a + b for a, b in zip(opened, found.opened, strict=True)))
        is_complete = is_complete and found.is_complete
        if found.certificate.next_bound is not None:
            next_bound = max(next_bound, found.certificate.next_bound)
        of_found = chosen[found.order]
        scores[of_found], distances[of_found], errors[of_found] = found.scores, found.distances, found.errors
        together = np.concatenate([hits, chosen[found.order]])
        hits = together[best_of(scores[together], together, top_k, tie_break)]
        kth = float(scores[hits[-1]]) if len(hits) == top_k else -math.inf
    if not is_complete:
        positions = np.arange(len(known))
        hits = best_of(scores, positions, top_k)  # all that is unsolved may tie, and nobody is promised how
    certificate = Certificate(
        exact=is_complete and solving.entropic is None,
        kth=float(scores[hits[-1]]) if len(hits) else None,
        next_bound=next_bound if opened.solved < len(known) else None,
        solved=opened.solved,
        pruned=len(known) - opened.solved,
        max_error=largest_error(errors[hits]),
    )
    return Reranked(hits, scores[hits], distances[hits], certificate, opened, is_complete, errors[hits])


def _of_chosen(chosen: Places, tie_break: TieBreak | None) -> TieBreak:
    """The tie break of some candidates (k,), by their positions among these."""
    if tie_break is None:
        return chosen
    return (lambda where: tie_break(chosen[where])) if callable(tie_break) else tie_break[chosen]
