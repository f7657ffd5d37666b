"""Which shares of a score are best on a task, tried from problems that are solved once."""

from typing import Any

import numpy as np

from models.fusion import Shares, first_stage, with_windows
from scripts.evaluation.measures import judge, mean
from scripts.evaluation.searching import FileSearch, Setting
from scripts.evaluation.tasks import Task
from service.best_window import WIDTH

GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 1.0)
WIDTHS = (20, 30, 40, 60)
"""Characters of the best windows that are tried."""


def try_weights(search: FileSearch, setting: Setting, task: Task) -> dict[str, Any]:
    """Try weights on one task: MRR@10 ×100 for couples of transport's and words', words' and the windows', and for widths.

    Words are BM25 and the best window; what a table does not vary has the setting's shares at the median length ratio.
    """
    names = list(task.corpus)
    parts = search.parts(setting, WIDTHS)
    judged = [task.relevance[query] for query in task.queries]
    own = setting.shares.at(search.length_ratio())

    def tried(shares: Shares, width: int = WIDTH) -> float:
        found = []
        for one, relevance in zip(parts, judged, strict=True):
            lexical = with_windows(one.bm25, one.windows[width], shares.window_weight)
            known = first_stage(one.cosine, lexical, shares.lexical_weight)
            order = np.argsort(-((1 - shares.weight) * known + shares.weight * one.transport), kind="stable")
            found.append(judge([names[place] for place in one.rows[order][:100]], relevance))
        return mean(found)["mrr@10"]

    return {
        "retrieve": setting.retrieve,
        "texts": len(names),
        "queries": len(judged),
        **{name: round(share, 3) for name, share in own._asdict().items()},
        "length_ratio": round(search.length_ratio(), 2),
        "mrr@10": {
            f"lexical_weight {words}": {f"weight {w}": tried(Shares(w, words, own.window_weight)) for w in GRID}
            for words in GRID
        },
        "words": {
            f"lexical_weight {words}": {f"window_weight {c}": tried(Shares(own.weight, words, c)) for c in GRID}
            for words in GRID
        },
        "windows": {
            f"window of {width}": {f"window_weight {c}": tried(own._replace(window_weight=c), width) for c in GRID}
            for width in WIDTHS
        },
    }
