"""Measure a model folder on pairs and on retrieval.

`python -m scripts.evaluate sts FILE… | questions FILE | groups FILE | retrieval … | weights … | lookup …`

`--model` takes a folder, or the name of a floor that needs no weights: tfidf-char1 and tfidf-char2 (sts), bm25-char1 and
bm25-char2 (questions, groups, retrieval). Files are tab-separated, `.xz` is read directly. One JSON line with --json, else a
table.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from models.fusion import SharesByLength
from models.token_codec import token_codec
from models.transport import Measure, distance, similarity
from scripts.arguments import in_one_line, positive, share
from scripts.evaluation.floors import Bm25, TfIdf
from scripts.evaluation.lookup import add_lookup, evaluate_lookup
from scripts.evaluation.measures import judge, mean, spearman
from scripts.evaluation.searching import FileSearch, Rerank, Retrieve, Setting, encode, served_encoder
from scripts.evaluation.tasks import Task, among, group_task, labelled_rows, question_task, read_task
from scripts.evaluation.weights import try_weights

FLOORS = {"tfidf-char1": 1, "tfidf-char2": 2, "bm25-char1": 1, "bm25-char2": 2}
MEASURES = ("cosine", "wrd", "wmd", "fused")
LISTS = {"--measure": MEASURES, "--rerank": get_args(Rerank), "--retrieve": get_args(Retrieve)}
"""Options that take several values, and which."""
BUNDLED = Path(__file__).parent.parent / "models" / "weights" / "simbert-mini-zh"


def pair_scores(
    model: str, device: str, pairs: Sequence[tuple[str, str]], measures: Sequence[str], weight: float | None
) -> dict[str, list[float]]:
    """Score pairs by every measure; `weight` is that of "fused", by default the model card's. ValueError: unknown measure."""
    if model in FLOORS:
        floor = TfIdf(dict.fromkeys(text for pair in pairs for text in pair), FLOORS[model])
        return {model: [floor.similarity(*pair) for pair in tqdm(pairs, desc=model, unit="pairs", mininterval=2)]}
    encoder = served_encoder(model, device, torch.get_num_threads())
    codec = token_codec(encoder)
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    place = {text: row for row, text in enumerate(texts)}
    encoded = encode(encoder, codec, texts, "texts")
    left, right = (np.array([place[pair[side]] for pair in pairs]) for side in (0, 1))
    cosine = np.einsum("nd,nd->n", encoded.sentences[left], encoded.sentences[right]).astype(np.float64)
    share = encoder.card.get("weight", 0.5) if weight is None else weight
    solved: dict[str, NDArray[np.float64]] = {}

    def transport(measure: Measure) -> NDArray[np.float64]:
        if measure not in solved:
            tokens = codec.unpack(encoded.packed)
            distances = [
                distance(tokens.tokens(a), tokens.tokens(b), measure)
                for a, b in tqdm(
                    zip(left.tolist(), right.tolist(), strict=True),
                    desc=measure,
                    total=len(left),
                    unit="pairs",
                    mininterval=2,
                )
            ]
            solved[measure] = np.array([float(similarity(one, measure)) for one in distances])
        return solved[measure]

    found: dict[str, list[float]] = {}
    for measure in measures:
        match measure:
            case "cosine":
                found[measure] = cosine.tolist()
            case "wrd" | "wmd":
                found[measure] = transport(measure).tolist()
            case "fused":
                found[measure] = ((1 - share) * cosine + share * transport("wrd")).tolist()
            case _:
                raise ValueError(f"unknown measure {measure!r}")
    return found


def evaluate_sts(choices: argparse.Namespace) -> dict[str, Any]:
    """Correlate scores with labels, file by file: Spearman ×100, per measure where several are asked for.

    It is None where all scores of a file, or all labels, are equal. Raises ValueError naming a file without pairs.
    """
    report: dict[str, Any] = {}
    for file in choices.files:
        rows = list(labelled_rows(file))
        if not rows:
            raise ValueError(f"{file} has no pairs")
        labels = [label for _, _, label in rows]
        scores = pair_scores(
            choices.model, choices.device, [(a, b) for a, b, _ in rows], choices.measure, choices.weight
        )
        measured = {name: round(100 * spearman(values, labels), 2) for name, values in scores.items()}
        found = {name: None if math.isnan(value) else value for name, value in measured.items()}
        report[str(file)] = found if len(found) > 1 else next(iter(found.values()))
    return {"model": choices.model, "measure": choices.measure, "spearman": report}


def settings(choices: argparse.Namespace, card: dict[str, Any]) -> list[Setting]:
    """Combine the asked candidates' sources and reranks; weights that are not given come from the model's card."""
    shares = SharesByLength.of_card(card).fixed(choices.weight, choices.lexical_weight, choices.window_weight)
    retrieve = choices.retrieve or [card.get("retrieve", "vector")]
    return [Setting(one, other, shares, choices.candidates) for one in retrieve for other in choices.rerank]


def described(setting: Setting, ratio: float) -> dict[str, Any]:
    """Say what a run did: its setting, and the shares at the median length ratio."""
    shares = setting.shares.at(ratio)
    return {
        "retrieve": setting.retrieve,
        "rerank": setting.rerank,
        "candidates": setting.candidates,
        **{name: round(share, 3) for name, share in shares._asdict().items()},
    }


def checked(task: Task) -> Task:
    """Give a task as it is; raises ValueError where nothing can be asked or found."""
    if not task.corpus:
        raise ValueError("the corpus has no texts")
    if not task.queries:
        raise ValueError("there is no query that has a relevant text")
    return task


def evaluate_task(choices: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Search for every query in every setting; measures ×100, at the top level where there is one setting."""
    names, texts = list(task.corpus), list(task.corpus.values())
    row = {name: place for place, name in enumerate(names)}
    judged = [task.relevance[query] for query in task.queries]
    within = None
    if choices.within:
        # In a drawn order: texts of equal scores keep theirs, and a file may name the right ones first.
        random = np.random.default_rng(0)
        named = ([row[name] for name in relevance if name in row] for relevance in judged)
        within = [random.permutation(np.array(rows, dtype=np.int64)) for rows in named]

    def measured(rankings: Sequence[NDArray[np.int64]]) -> dict[str, float]:
        lists = ([names[place] for place in ranking[:100]] for ranking in rankings)
        return mean([judge(ranking, relevance) for ranking, relevance in zip(lists, judged, strict=True)])

    report: dict[str, Any] = {"model": choices.model, "texts": len(texts), "queries": len(task.queries)}
    if choices.model in FLOORS:
        floor = Bm25(texts, FLOORS[choices.model])
        ranked = []
        for place, query in enumerate(tqdm(task.queries.values(), desc=choices.model, unit="queries", mininterval=2)):
            rows = np.arange(len(texts)) if within is None else within[place]
            ranked.append(rows[np.argsort(-floor.scores(query)[rows], kind="stable")[:100]])
        return report | measured(ranked)
    encoder = served_encoder(choices.model, choices.device, torch.get_num_threads())
    wanted = settings(choices, encoder.card)
    by_words = within is None and all(setting.retrieve == "lexical" for setting in wanted)
    search = FileSearch(encoder, texts, list(task.queries.values()), choices.candidates if by_words else 0)
    ratio = search.length_ratio()
    report |= {"truncated": search.corpus.truncated, "length_ratio": round(ratio, 2)}
    runs = [described(setting, ratio) | measured(search.rankings(setting, within)) for setting in wanted]
    return report | (runs[0] if len(runs) == 1 else {"runs": runs})


def evaluate_weights(choices: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Try weights on one task: MRR@10 ×100."""
    encoder = served_encoder(choices.model, choices.device, torch.get_num_threads())
    search = FileSearch(encoder, list(task.corpus.values()), list(task.queries.values()))
    return {"model": choices.model, **try_weights(search, settings(choices, encoder.card)[0], task)}


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    command = argparse.ArgumentParser(prog="python -m scripts.evaluate", description=(__doc__ or "").split("\n\n")[0])
    parts = command.add_subparsers(dest="part", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--model",
        help=f"model folder, or a floor: {', '.join(FLOORS)} (default: the bundled model)",
    )
    shared.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    shared.add_argument("--threads", type=positive, help="CPU threads of the encoder")
    shared.add_argument(
        "--weight", type=share, help="share of transport in the fused score (default: the model's card)"
    )
    shared.add_argument("--json", action="store_true", help="print one JSON line")
    sts = parts.add_parser(
        "sts", parents=[shared], help="Spearman ×100 of scores against labels: text_a, text_b, label"
    )
    sts.add_argument("files", nargs="+", type=Path, metavar="FILE")
    sts.add_argument("--measure", action="append", choices=MEASURES, help="one or several (default: cosine)")
    searched = argparse.ArgumentParser(add_help=False)
    searched.add_argument("--rerank", action="append", choices=LISTS["--rerank"], help="one or several (default: none)")
    searched.add_argument(
        "--retrieve",
        action="append",
        choices=LISTS["--retrieve"],
        help="who proposes candidates, one or several (default: the model's card)",
    )
    searched.add_argument("--candidates", type=positive, default=100)
    searched.add_argument(
        "--lexical-weight", type=share, help="share of BM25 in the first stage (default: the model's card)"
    )
    searched.add_argument(
        "--window-weight", type=share, help="share of the best window in what words say (default: the model's card)"
    )
    searched.add_argument("--limit", type=positive, help="ask only so many queries")
    searched.add_argument(
        "--within", action="store_true", help="rank only the texts that the judgements of a query name"
    )
    questions = parts.add_parser("questions", parents=[shared, searched], help="question search made of labelled pairs")
    questions.add_argument("file", type=Path, metavar="FILE")
    groups = parts.add_parser("groups", parents=[shared, searched], help="search of standard questions by similar ones")
    groups.add_argument("file", type=Path, metavar="FILE", help='JSON lines: {"standard", "similar": […]}')
    groups.add_argument(
        "--seen", type=Path, required=True, help="pairs that were trained on: their texts are not asked"
    )
    retrieval = parts.add_parser("retrieval", parents=[shared, searched], help="search of a corpus with judged queries")
    weights = parts.add_parser(
        "weights", parents=[shared, searched], help="choose the fusion's weights on development data"
    )
    add_lookup(parts, shared)
    for name, what in (
        ("corpus", "id TAB text"),
        ("queries", "id TAB text"),
        ("qrels", "query id TAB text id TAB relevance"),
    ):
        for one in (retrieval, weights):
            one.add_argument(f"--{name}", type=Path, required=True, help=what)
    for one in (retrieval, weights):
        one.add_argument("--every", type=positive, default=1, help="ask only every n-th query, from the first on")
        one.add_argument(
            "--among",
            nargs="+",
            type=Path,
            default=(),
            metavar="FILE",
            help="further texts for the corpus that no query asks for, one a line",
        )
        one.add_argument("--among-each", type=positive, default=6_000, help="texts of each such file at most (6000)")
    return command


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """Repeat an option of LISTS for each of its values, so that a FILE may follow: `--measure cosine wrd FILE`."""
    found: list[str] = []
    option = ""
    for word in arguments:
        if word not in LISTS.get(option, ()):
            option = word
        elif found[-1] != option:
            found.append(option)
        found.append(word)
    return found


def check_floor(choices: argparse.Namespace) -> None:
    """Raise ValueError where a floor is to do what it cannot: another part of this program, or a measure of an encoder."""
    parts = ("sts",) if choices.model.startswith("tfidf-") else ("questions", "groups", "retrieval")
    if choices.part not in parts:
        raise ValueError(f"the floor {choices.model} is for {', '.join(parts)}, not for {choices.part}")
    own = {"measure": ["cosine"], "rerank": ["none"], "retrieve": ["lexical"], "weight": None, "lexical_weight": None}
    for name, value in own.items():
        if getattr(choices, name, None) not in (None, value):
            raise ValueError(f"the floor {choices.model} has no choice of --{name.replace('_', '-')}: leave it out")


def default_model(part: str) -> Path:
    """Say which bundled model a part measures where none is named."""
    return BUNDLED.with_name("lookup-mini-zh") if part == "lookup" else BUNDLED


def show(report: dict[str, Any]) -> str:
    """Lay a report out for reading."""
    lines = []
    for name, value in report.items():
        if name == "runs":
            lines += ["", *("  ".join(f"{key} {number}" for key, number in run.items()) for run in value)]
        elif isinstance(value, dict):
            lines += [f"{name}:", *(f"  {key}: {one}" for key, one in value.items())]
        else:
            lines.append(f"{name}: {value}")
    return "\n".join(lines)


def evaluate(choices: argparse.Namespace) -> dict[str, Any]:
    """Measure what a command line asks for; raises ValueError where that cannot be done."""
    if choices.model in FLOORS:
        check_floor(choices)
    if choices.part == "sts":
        choices.measure = choices.measure or ["cosine"]
        return evaluate_sts(choices)
    if choices.part == "lookup":
        return evaluate_lookup(choices)
    choices.rerank = choices.rerank or ["none"]
    if choices.part == "questions":
        return evaluate_task(choices, checked(question_task(choices.file, choices.limit)))
    if choices.part == "groups":
        return evaluate_task(choices, checked(group_task(choices.file, choices.seen, choices.limit)))
    task = read_task(choices.corpus, choices.queries, choices.qrels, choices.limit, choices.every)
    task = checked(among(task, choices.among, choices.among_each))
    return evaluate_weights(choices, task) if choices.part == "weights" else evaluate_task(choices, task)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    choices = parser().parse_args(spelled_out(sys.argv[1:] if arguments is None else arguments))
    choices.model = choices.model or str(default_model(choices.part))
    if choices.threads:
        torch.set_num_threads(choices.threads)
    with in_one_line("evaluate"):
        report = evaluate(choices)
    print(json.dumps(report, ensure_ascii=False, allow_nan=False) if choices.json else show(report))


if __name__ == "__main__":
    main()
