"""Questions a second of the lookup, against transformers' `generate` with a prefix tree of nested dicts.

    python -m scripts.benchmark.lookup [--triples FILE [--asked FILE] | --size 200000] [--model DIR] [--questions 48]
        [--beams 4] [--http 200] [--json]

The same weights, the same keys, the same number of beams, in one run, on the same threads. transformers runs a BertLMHeadModel
with the UniLM mask and cache, `prefix_allowed_tokens_fn`, renormalised log-probabilities and no length penalty, so that a
score is the sum of log-odds among the allowed tokens, as here. "search" does exactly that: no look-ahead, nothing dropped early,
no subjects from the question, no ranking anew; "search, slack" gives up what is far behind, as the service does. "ask" is all
that the service does, the encoder's cosines included, in the form that the service runs it. Same answers: the share of
questions with the same best key. Times are of one process, wall clock; `process` is its CPU time. At last a service of its own
imports the triples and answers `--http` single questions, one after the other: their latency, as a client sees it.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import BertLMHeadModel

from models.beam import Search, Width
from models.lookup import SLACK, Lookup
from scripts.benchmark.asking import WARM, measure_http
from scripts.benchmark.prefix_tree import write_graph
from scripts.benchmark.report import table
from scripts.evaluation.lookup import WEIGHTS, facts_of, read_wanted
from service.facts import Facts
from service.runtime import load_encoder
from service.settings import Settings

END = 4  # [MASK] ends a key: transformers would stop at the first separator

Node = dict[int, "Node"]
Key = tuple[int, ...]


class Timed(NamedTuple):
    """One way to answer: questions a second, CPU milliseconds a question, best keys."""

    per_s: float
    process_ms: float
    keys: list[Key]


class UniLmBert(BertLMHeadModel):  # type: ignore[no-untyped-call]
    """A BERT that transformers can generate with: the prompt is read both ways, what is generated is of segment 1."""

    def forward(
        self, input_ids: torch.Tensor, past_key_values: Any, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> Any:
        """Compute the logits of the last token; `attention_mask` (b, t) covers the cache, prompts are padded on the left."""
        read = past_key_values.get_seq_length()
        if attention_mask is None:
            attention_mask = input_ids.new_ones(input_ids.shape[0], read + input_ids.shape[1])
        places = attention_mask.cumsum(dim=1) - 1
        hides = (attention_mask == 0).float() * torch.finfo(torch.float32).min
        length = input_ids.shape[1]
        return super().forward(
            input_ids=input_ids,
            attention_mask=hides[:, None, None].expand(-1, 1, length, -1),
            token_type_ids=torch.full_like(input_ids, int(read > 0)),
            position_ids=places[:, -length:].clamp(min=0),
            past_key_values=past_key_values,
            use_cache=True,
            logits_to_keep=1,
        )


def nested(keys: Sequence[Key]) -> Node:
    """Build the tree of nested dicts, each key ended by END."""
    root: Node = {}
    for key in keys:
        node = root
        for token in (*key, END):
            node = node.setdefault(token, {})
    return root


def generated(network: Any, tree: Node, prompts: Sequence[Sequence[int]], beams: int) -> list[Key]:
    """Let transformers answer one batch."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def allowed(_: int, sentence: torch.Tensor) -> list[int]:
        node = tree
        for token in sentence[width:].tolist():
            node = node.get(token, {})
        return list(node) or [END]

    found = network.generate(
        input_ids=ids,
        attention_mask=mask,
        num_beams=beams,
        do_sample=False,
        max_new_tokens=60,
        prefix_allowed_tokens_fn=allowed,
        renormalize_logits=True,
        length_penalty=0.0,
        eos_token_id=END,
        pad_token_id=0,
    )
    return [tuple(row[: row.index(END)] if END in row else row) for row in found[:, width:].tolist()]


def timed(answer: Callable[[Sequence[int]], list[Key]], count: int, batch: int, name: str) -> Timed:
    """Answer questions 0..count-1 in batches, after one batch to warm up."""
    answer(range(min(batch, count)))
    keys: list[Key] = []
    began, began_process = time.perf_counter(), time.process_time()
    for start in tqdm(range(0, count, batch), desc=f"{name}, batches of {batch}", mininterval=2):
        keys += answer(range(start, min(count, start + batch)))
    seconds, process = time.perf_counter() - began, time.process_time() - began_process
    return Timed(count / seconds, 1000 * process / count, keys)


def made_questions(facts: Facts, rows: NDArray[np.int64]) -> list[str]:
    """Ask for the objects of some rows."""
    return [f"{one.subject}的{one.predicate}是什么？" for one in facts.triples(np.sort(rows))]


def measure(choices: argparse.Namespace, facts: Facts) -> dict[str, Any]:
    """Time transformers, the bare search and the whole lookup on the same questions."""
    options = {"model": choices.encoder, "device": "cpu", "threads": choices.threads, "data_dir": choices.scratch}
    encoder = load_encoder(Settings(**options))
    lookup = Lookup(choices.model, "cpu", lambda texts: encoder.encode(encoder.tokenize(texts)).sentences)
    generator, tree = lookup.generator, facts.tree
    random = np.random.default_rng(choices.seed)
    rows = random.choice(facts.rows, size=choices.questions, replace=False)
    questions = made_questions(facts, rows)
    prompts = generator.tokenize(questions)
    triples = facts.triples(np.arange(facts.rows))
    spelled = {
        name: ids
        for names in zip(*(one[:3] for one in triples), strict=True)
        for name, ids in zip(dict.fromkeys(names), generator.spell(list(dict.fromkeys(names))), strict=True)
    }
    separator = tree.separator
    keys = {
        tuple(token for part in lookup.order for token in (*spelled[getattr(one, part)], separator)) for one in triples
    }
    dicts = nested(sorted(keys))
    network = cast(Any, UniLmBert.from_pretrained(choices.model, is_decoder=True, dtype=torch.float32)).eval()
    searches = {
        "search": Search(generator, tree, Width(choices.beams, candidates=0)),
        "search, slack": Search(generator, tree, Width(choices.beams, SLACK, candidates=0)),
    }

    def by_transformers(places: Sequence[int]) -> list[Key]:
        return generated(network, dicts, [prompts[place] for place in places], choices.beams)

    def by_search(name: str, places: Sequence[int]) -> list[Key]:
        chosen = [prompts[place] for place in places]
        found = searches[name].run(generator.start(chosen), [prompt[1:-1] for prompt in chosen])
        return [one[0].tokens for one in found]

    def by_lookup(places: Sequence[int]) -> list[Key]:
        found = lookup.ask(tree, [questions[place] for place in places], choices.beams)
        return [one[0].tokens for one in found]

    report: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "threads": choices.threads,
        "model": choices.model.name,
        "triples": facts.rows,
        "keys": len(keys),
        "questions": len(questions),
        "beams": choices.beams,
        "runs": [],
    }
    for batch in choices.batches:
        times = {
            "transformers generate": timed(by_transformers, len(questions), batch, "transformers"),
            **{name: timed(partial(by_search, name), len(questions), batch, name) for name in searches},
            "ask": timed(by_lookup, len(questions), batch, "ask"),
        }
        first = times["transformers generate"]
        for name, one in times.items():
            same = np.mean([a == b for a, b in zip(first.keys, one.keys, strict=True)])
            report["runs"].append(
                {
                    "what": name,
                    "batch": batch,
                    "questions_per_s": round(one.per_s, 1),
                    "process_ms": round(one.process_ms, 1),
                    "times_as_fast": round(one.per_s / first.per_s, 2),
                    "same_answers": round(float(same), 3),
                }
            )
    return report


def as_text(report: dict[str, Any]) -> str:
    """Write the report as Markdown."""
    head = " · ".join(f"{name} {value}" for name, value in report.items() if name not in ("runs", "http"))
    names = list(report["runs"][0])
    text = f"{head}\n\n{table(names, [[str(run[name]) for name in names] for run in report['runs']])}"
    http = report.get("http")
    return text if http is None else f"{text}\nover HTTP: " + " · ".join(f"{k} {v}" for k, v in http.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    command = argparse.ArgumentParser(
        prog="python -m scripts.benchmark.lookup", description=(__doc__ or "").split("\n\n")[0]
    )
    add = command.add_argument
    add("--triples", type=Path, help="subject TAB predicate TAB object (default: made up)")
    add("--asked", type=Path, help="questions for HTTP, as scripts.evaluate lookup reads them (default: made up)")
    add("--http", type=int, default=200, help="single questions over HTTP, 0: none")
    add("--graph", type=Path, help="keep the built graph in this folder, or take it from there")
    add("--size", type=int, default=200_000, help="triples of the made-up graph")
    add("--model", type=Path, default=WEIGHTS / "lookup-mini-zh")
    add("--encoder", type=Path, default=WEIGHTS / "simbert-mini-zh")
    add("--questions", type=int, default=48)
    add("--beams", type=int, default=4)
    add("--batches", type=int, nargs="+", default=[1, 16])
    add("--threads", type=int, default=1)
    add("--seed", type=int, default=1)
    add("--json", action="store_true", help="print one JSON line")
    choices = command.parse_args(arguments)
    torch.set_num_threads(choices.threads)
    with tempfile.TemporaryDirectory() as temporary:
        triples = choices.triples or Path(temporary) / "graph.tsv"
        if choices.triples is None:
            write_graph(triples, choices.size)
        choices.scratch = Path(temporary)
        with facts_of(triples, choices.model, choices.graph) as facts:
            report = measure(choices, facts)
            count = choices.http + WARM
            rows = np.random.default_rng(choices.seed + 1).choice(
                facts.rows, size=min(count, facts.rows), replace=False
            )
            asked = (
                [one.question for one in read_wanted(choices.asked, count)]
                if choices.asked
                else made_questions(facts, rows)
            )
        if choices.http:
            models = (choices.encoder, choices.model)
            report["http"] = measure_http(triples, asked, *models, choices.threads, choices.scratch)
    print(json.dumps(report, ensure_ascii=False) if choices.json else as_text(report))


if __name__ == "__main__":
    main()
