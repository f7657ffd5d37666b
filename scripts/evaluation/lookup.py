"""`python -m scripts.evaluate lookup`: questions against a graph, scored as KgCLUE scores them.

Subject (with its meaning), predicate, object, and all three as one string are compared with the given triple: EM, and
F1 = 2·LCS / (|a| + |b|) over characters, after lower-casing and joining runs of spaces. Of several objects of the found key the
first counts, as in the published method (kexue.fm/archives/8802). Questions without an answer score 0. `sure` is the share of
questions whose best answer has a probability of at least one half, `right_where_sure` how many of these have the right key.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.encoder import Encoder
from models.key_order import PARTS
from models.lookup import SLACK, Answer, Lookup, Remedies
from models.name_tokens import NameTokenizer
from models.prefix_tree import PrefixTree
from models.rescoring import Vectors
from scripts.arguments import check_output, positive
from scripts.lines import read_lines
from service.facts import Facts
from service.facts_build import FactsBuilder
from service.numbered_lines import COMPRESSIONS
from service.triples import TripleReader, join_subject, split_subject

SCORED = ("subject", "predicate", "object", "all")
WEIGHTS = Path(__file__).parent.parent.parent / "models" / "weights"


class Wanted(NamedTuple):
    """A question and the triple that answers it: subject with its meaning, predicate, object."""

    question: str
    subject: str
    predicate: str
    object: str


def read_wanted(file: Path, limit: int | None) -> list[Wanted]:
    """Read JSON lines with `question` and `triple`, or `answer` of the form "S ||| P ||| O"; `limit` evenly spread ones.

    Raises ValueError naming a line that is neither, and where there is no line.
    """
    found = []
    for number, line in enumerate(read_lines(file), start=1):
        try:
            one = json.loads(line)
            triple = one["triple"] if "triple" in one else one["answer"].split(" ||| ")
            found.append(Wanted(str(one["question"]), *(str(part) for part in triple)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{file}:{number}: expected "question" and "triple": [S, P, O] or "answer": "S ||| P ||| O", got {line[:80]!r}'
            ) from error
    if not found:
        raise ValueError(f"{file} has no questions")
    if limit is not None and limit < len(found):
        found = [found[place] for place in np.linspace(0, len(found) - 1, limit).astype(int)]
    return found


def normal(text: str) -> str:
    """Lower-case and make every run of white space one space."""
    return " ".join(text.lower().split())


def f1(found: str, wanted: str) -> float:
    """2·LCS / (|a| + |b|), the longest common subsequence of characters; two empty strings score 1."""
    places: dict[str, int] = {}
    for place, character in enumerate(wanted):
        places[character] = places.get(character, 0) | 1 << place
    ones = (1 << len(wanted)) - 1
    row = ones
    for character in found:  # as models/lookahead.py, in integers of any length
        hit = row & places.get(character, 0)
        row = ((row + hit) | (row - hit)) & ones
    common = len(wanted) - row.bit_count()
    return 2 * common / (len(found) + len(wanted)) if found or wanted else 1.0


def judge(found: Sequence[str], wanted: Wanted) -> dict[str, float]:
    """Score subject, predicate and object that were found: EM and F1 of each and of all, in [0, 1]."""
    right = [wanted.subject, wanted.predicate, wanted.object]
    whole = " ||| ".join(found) if any(found) else ""  # of no answer the marks between its parts are not right, either
    pairs = [(normal(a), normal(b)) for a, b in zip([*found, whole], [*right, " ||| ".join(right)], strict=True)]
    scores = {f"em_{part}": float(a == b) for part, (a, b) in zip(SCORED, pairs, strict=True)}
    return scores | {f"f1_{part}": f1(a, b) for part, (a, b) in zip(SCORED, pairs, strict=True)}


@contextmanager
def facts_of(triples: Path, model: Path, graph: Path | None = None) -> Iterator[Facts]:
    """Build the graph of a triple file in a temporary folder, or in `graph`, where it stays and is found again.

    Raises ValueError where a graph that is found was built with the tokens of another model.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder, spelling = graph or Path(temporary) / "graph", NameTokenizer(model)
        if not folder.exists():
            builder = FactsBuilder(folder)
            try:
                with TripleReader(triples, COMPRESSIONS.get(triples.suffix.lower())) as blocks:
                    for block in blocks:
                        builder.add_block(block)
            except BaseException:  # what is half built would be found again
                builder.discard()
                raise
            builder.finish(spelling, {})
        facts = Facts(folder)
        if facts.tokenizer != spelling.fingerprint:
            raise ValueError(f"{folder} was built with the tokenizer of another model than {model}: delete it")
        yield facts


def without_key(tree: PrefixTree, spelling: NameTokenizer, names: Sequence[str]) -> tuple[list[int], PrefixTree]:
    """Give the key of `names` (subject, predicate, meaning), and the tree without its rows."""
    spelled = spelling.tokenize([names[PARTS.index(part)] for part in spelling.order])
    parts = [spelled.tokens[spelled.offsets[i] : spelled.offsets[i + 1]].tolist() for i in range(len(names))]
    key = [token for part in parts for token in (*part, tree.separator)]
    state = tree.walk(tree.start(1)[0], key)
    return key, tree.without(np.sort(tree.values(state))) if state[0] >= 0 else tree


def encoder_vectors(folder: Path, device: str) -> Vectors:
    """Load an encoder and give its sentence vectors as a function of texts."""
    encoder = Encoder(folder, device=device)

    def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
        return encoder.encode(encoder.tokenize(texts)).sentences

    return vectors


def surface(facts: Facts, answer: Answer | None, wanted: Wanted) -> list[str]:
    """Give subject, predicate and object of an answer as they are written in the graph; empty strings for no answer.

    Where several names share the tokens of the key, the one of the question's own triple is not preferred: the first counts.
    """
    rows = facts.tree.values(answer.state) if answer is not None else np.zeros(0, np.int64)
    if not len(rows):
        return ["", "", ""]
    triple = facts.triples(rows[:1])[0]
    return [join_subject(triple.subject, triple.meaning), triple.predicate, triple.object]


def kind_of_error(found: Sequence[str], wanted: Wanted) -> str:
    """Name what is wrong first: the subject's name, its meaning, the predicate, the object; "none" where all is right."""
    names = [split_subject(normal(one)) for one in (found[0], wanted.subject)]
    if not found[0]:
        return "no answer"
    if names[0][0] != names[1][0]:
        return "subject"
    if normal(found[1]) != normal(wanted.predicate):
        return "predicate"
    if names[0] != names[1]:
        return "meaning"
    return "none" if normal(found[2]) == normal(wanted.object) else "object"


def evaluate_lookup(choices: argparse.Namespace) -> dict[str, Any]:
    """Ask every question and average the scores, ×100; `--errors` writes what went wrong."""
    model = Path(choices.model)
    if choices.errors is not None:
        check_output("--errors", choices.errors, [choices.triples, choices.questions])
    asked = read_wanted(choices.questions, choices.limit)
    vectors = encoder_vectors(choices.encoder, choices.device) if choices.encoder is not None else None
    lookup = Lookup(model, choices.device, vectors)
    remedies = Remedies(not choices.no_mentions, not choices.no_rescoring, choices.slack)
    spelling = NameTokenizer(model)
    sums: dict[str, float] = {}
    kinds: dict[str, int] = {}
    sure: list[bool] = []  # whether each answer that is at least as likely as not is right
    with facts_of(choices.triples, model, choices.graph) as facts:
        if not facts.rows:
            raise ValueError(f"{choices.triples} has no triples")
        seconds, wrong = 0.0, []
        size = 1 if choices.absent else choices.batch
        for start in tqdm(range(0, len(asked), size), desc="questions", unit="batches", mininterval=2):
            batch = asked[start : start + size]
            tree = facts.tree
            if choices.absent:
                subject, meaning = split_subject(batch[0].subject)
                _, tree = without_key(tree, spelling, [subject, batch[0].predicate, meaning])
            began = time.perf_counter()
            answers = lookup.ask(
                tree,
                [one.question for one in batch],
                choices.beams,
                choices.beams,
                not choices.no_lookahead,
                remedies,
            )
            seconds += time.perf_counter() - began
            for wanted, found in zip(batch, answers, strict=True):
                best = surface(facts, found[0] if found else None, wanted)
                for name, value in judge(best, wanted).items():
                    sums[name] = sums.get(name, 0.0) + value
                kind = kind_of_error(best, wanted)
                if found and found[0].probability >= 0.5:
                    sure.append(kind in ("none", "object"))
                kinds[kind] = kinds.get(kind, 0) + 1
                if kind != "none":
                    others = [surface(facts, one, wanted)[:2] for one in found]
                    scores = [round(one.probability, 3) for one in found]
                    wrong.append({"kind": kind, **wanted._asdict(), "found": others, "probabilities": scores})
        triples = facts.rows
    if choices.errors is not None:
        lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in wrong)
        choices.errors.write_text("".join(lines), encoding="utf-8")
    count = max(1, len(asked))
    return {
        "model": str(choices.model),
        "order": ", ".join(lookup.order),
        "triples": triples,
        "questions": len(asked),
        "beams": choices.beams,
        "lookahead": not choices.no_lookahead,
        "mentions": remedies.mentions,
        "rescoring": remedies.rescoring,
        "vectors": lookup.has_vectors,
        **{name: round(100 * value / count, 2) for name, value in sums.items()},
        "sure": round(100 * len(sure) / count, 2),
        "right_where_sure": round(100 * float(np.mean(sure)), 2) if sure else None,
        "ms_per_question": round(1000 * seconds / count, 1),
        "errors": kinds,
    }


def add_lookup(parts: Any, shared: argparse.ArgumentParser) -> None:
    """Add the subcommand to the command line of scripts.evaluate."""
    lookup = parts.add_parser("lookup", parents=[shared], help="questions against a graph, as KgCLUE scores them")
    add = lookup.add_argument
    add("--triples", type=Path, required=True, help="subject TAB predicate TAB object")
    add(
        "--questions",
        type=Path,
        required=True,
        help='JSON lines: {"question", "triple": [S, P, O]}, or "answer": "S ||| P ||| O"',
    )
    add("--graph", type=Path, help="keep the built graph in this folder, or take it from there")
    add("--beams", type=positive, default=4)
    add("--batch", type=positive, default=8, help="questions at a time")
    add("--limit", type=positive, help="ask only so many questions")
    add("--encoder", type=Path, default=WEIGHTS / "simbert-mini-zh", help="encoder of the ranking's cosine")
    add("--no-lookahead", action="store_true")
    add("--no-mentions", action="store_true", help="subjects of the question do not start in the beam")
    add("--no-rescoring", action="store_true", help="rank by the score of the search")
    add("--slack", type=float, default=SLACK, help="nats below the best at which a hypothesis is given up")
    add("--absent", action="store_true", help="take the fact of each question out of the graph: who is sure then?")
    add("--errors", type=Path, help="write the questions that were answered wrongly, as JSON lines")
