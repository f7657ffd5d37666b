"""Write similar questions for every entry of an FAQ file: `python -m scripts.expand_corpus faq.jsonl --out more.jsonl --n 5`.

What SimBERT was made for: a corpus with several phrasings of each question is found by more questions. Every line of the output
is a document of its own, ready to index: the id of the entry with `~1`, `~2`, …, its metadata, and `paraphrase_of` and
`cosine` beside them. Read them before you use them: a small model writes nonsense too, and `--least-cosine` is a sieve with
holes. Killed, the same command with `--resume` goes on behind the last entry that is written whole.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import orjson
import transformers
from numpy.typing import NDArray
from tqdm import tqdm

from models.deadline import Deadline
from models.encoder import Encoder
from scripts.arguments import check_output, positive
from service.corpus_files import id_of_line, read_documents
from service.document_rules import Entry
from service.file_formats import guess_format
from service.paraphrases import Paraphraser, Paraphrases, Sampling
from service.settings import BUNDLED_MODEL

SHOWN = 10
"""Lines that cannot be used of which the reason is said."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    command = argparse.ArgumentParser(
        prog="python -m scripts.expand_corpus", description=(__doc__ or "").split("\n\n")[0]
    )
    add = command.add_argument
    add("file", type=Path, help="jsonl, csv, tsv, txt or parquet, as scripts.index_corpus reads it")
    add("--out", type=Path, required=True, help="jsonl to write")
    add("--n", type=positive, default=5, help="similar questions of an entry, at most")
    add("--samples", type=positive, default=50, help="texts drawn for an entry")
    add("--top-p", type=float, default=0.95)
    add("--seed", type=int, default=1)
    add("--least-cosine", type=float, default=0.0, help="leave out what is less alike")
    add("--model", type=Path, default=BUNDLED_MODEL, help="folder that writes")
    add("--encoder", type=Path, help="folder that ranks (default: the same)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--resume", action="store_true", help="go on behind what --out has")
    return command


def entries(file: Path, wrong: list[str]) -> Iterator[Entry]:
    """Read the entries of a corpus file; those without an id get one by their line.

    `wrong` gets an entry for each line that cannot be used, the first ones with why.
    """
    kind, compression = guess_format(file.name)
    with read_documents(file, kind, compression) as reader:
        for line in reader:
            if line.document is None:
                wrong.append(f"{file.name}:{line.number}: {line.error}" if len(wrong) < SHOWN else "")
            else:
                name = line.document["id"] or id_of_line(file.name, line.number)
                yield Entry(id=name, text=line.document["text"], metadata=line.document["metadata"])


def written_whole(out: Path) -> tuple[set[str], int]:
    """Give the ids of the entries that `out` has whole and the bytes that they take: the last entry may be cut, and is redone."""
    done: list[tuple[str, int]] = []  # entry, byte where its lines begin
    place = 0
    with suppress(FileNotFoundError), open(out, "rb") as lines:
        for line in lines:
            with suppress(orjson.JSONDecodeError, KeyError):
                name = orjson.loads(line)["metadata"]["paraphrase_of"]
                if not done or done[-1][0] != name:
                    done.append((name, place))
            place += len(line)
    return {name for name, _ in done[:-1]}, done[-1][1] if done else 0


def lines_of(entry: Entry, found: Paraphrases, least_cosine: float) -> Iterator[bytes]:
    """Make the output lines of an entry."""
    for number, each in enumerate(found.best, start=1):
        if each.cosine >= least_cosine:
            about = {**entry["metadata"], "paraphrase_of": entry["id"], "cosine": round(each.cosine, 4)}
            yield orjson.dumps({"id": f"{entry['id']}~{number}", "text": each.text, "metadata": about}) + b"\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    command = parser()
    choices = command.parse_args(arguments)
    if not choices.file.is_file():
        command.error(f"{choices.file} is not a file")
    try:
        check_output("--out", choices.out, [choices.file])
        guess_format(choices.file.name)
    except ValueError as error:
        command.error(str(error))
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
        return encoder.encode(encoder.tokenize(texts)).sentences

    try:
        encoder = Encoder(choices.encoder or choices.model, choices.device)
        paraphraser = Paraphraser(choices.model, choices.device, vectors, max_waiting=1)
    except ValueError as error:
        sys.exit(str(error))
    done, size = written_whole(choices.out) if choices.resume else (set[str](), 0)
    sampling = Sampling(choices.n, choices.samples, choices.top_p, choices.seed)
    count, distinct, cosines, seconds = 0, 0, list[float](), 0.0
    wrong: list[str] = []
    with open(choices.out, "r+b" if size else "wb") as out:
        out.truncate(size)
        out.seek(size)
        for entry in tqdm(entries(choices.file, wrong), desc=choices.file.name, unit="entries", mininterval=1):
            if entry["id"] in done:
                continue
            began = time.perf_counter()
            found = paraphraser.submit(entry["text"], sampling, Deadline()).result()
            seconds += time.perf_counter() - began
            count, distinct = count + 1, distinct + found.distinct
            cosines.extend(each.cosine for each in found.best)
            out.writelines(lines_of(entry, found, choices.least_cosine))
        out.flush()
        os.fsync(out.fileno())
    paraphraser.close()
    mean = f" of mean cosine {np.mean(cosines):.3f}" if cosines else ""
    print(
        f"{count:,} entries, {len(cosines):,} similar questions{mean}; of {choices.samples} samples "
        f"{distinct / max(1, count):.1f} are distinct; {seconds / max(1, count) * 1e3:.0f} ms an entry"
    )
    for line in wrong[:SHOWN]:
        print(f"expand_corpus: {line}", file=sys.stderr)
    if len(wrong) > SHOWN:
        print(f"expand_corpus: and {len(wrong) - SHOWN:,} more lines that cannot be used", file=sys.stderr)
    if wrong and not count and not done:
        sys.exit(1)


if __name__ == "__main__":
    main()
