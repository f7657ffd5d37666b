"""Build a knowledge graph from files of triples, into a local data folder that no service has open.

    python -m scripts.build_graph facts.tsv more.tsv.gz --graph NAME [--data-dir DIR]

A line is subject TAB predicate TAB object; a subject may carry its meaning in full-width brackets at its end. Files may be packed
(.gz, .xz, .zst). The triples join those that the graph has; exact repetitions are one. They become part of the graph all at once
at the end, so that an interrupted run leaves the graph as it was. A line that is no triple never stops the run: it goes to the
rejects file with its number, the reason and its beginning.

Exit code: 0 when all files were read to their end (rejects are counted, not an error), 1 when something stopped the run or not
one line could be used, 2 for a wrong command line.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import orjson
from tqdm import tqdm

from scripts.arguments import rejects_file
from service.errors import ServiceError
from service.facts_build import FactsBuilder
from service.graph_library import GraphLibrary
from service.library import NAME, claim_folder
from service.numbered_lines import COMPRESSIONS
from service.settings import read_settings
from service.spelling import spelling_of
from service.triples import TripleLimits, TripleReader


class Counts(NamedTuple):
    """Lines of all files."""

    triples: int
    rejected: int
    broken: list[str]  # a sentence about each file that cannot be read to its end


def read_files(files: Sequence[Path], builder: FactsBuilder, limits: TripleLimits, rejects: TextIO) -> Counts:
    """Read files into a builder and write down the lines that are no triples."""
    sizes = [max(1, file.stat().st_size) for file in files]
    triples = rejected = 0
    broken: list[str] = []
    with tqdm(total=sum(sizes), unit="B", unit_scale=True, dynamic_ncols=True, disable=None) as bar:
        for file, size in zip(files, sizes, strict=True):
            bar.set_description(file.name)
            before = bar.n
            with TripleReader(file, COMPRESSIONS.get(file.suffix.lower()), limits) as reader:
                for block in reader:
                    builder.add_block(block)
                    triples += len(block.subject_of)
                    rejected += len(block.rejects)
                    for reject in block.rejects:
                        rejects.write(orjson.dumps({"file": file.name, **reject._asdict()}).decode() + "\n")
                    bar.update(before + round(size * reader.fraction) - bar.n)
            if reader.broken is not None:
                broken.append(f"{file.name} was not read to its end: {reader.broken}")
    return Counts(triples, rejected, broken)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    rejects: Path = options.rejects
    chosen = {"data_dir": options.data_dir, "lookup_model": options.lookup_model}
    began_at = time.monotonic()
    try:
        settings = read_settings(chosen)
        limits = TripleLimits(settings.max_name_chars, settings.max_text_chars)
        with claim_folder(settings.data_dir):
            library = GraphLibrary(settings.data_dir, spelling_of(settings.lookup_model), is_merging=False)
            try:
                graph, _ = library.create(options.graph)
                builder = graph.builder()
                try:
                    with rejects.open("w", encoding="utf-8") as file:
                        counts = read_files(options.files, builder, limits, file)
                except BaseException:
                    builder.discard()
                    raise
                print(f"sorting {counts.triples} triples", file=sys.stderr)
                graph.merge(builder)
                view, size = graph.view, graph.bytes()
            finally:
                library.close()
    except (ServiceError, OSError, ValueError, RuntimeError, KeyboardInterrupt) as error:
        print(f"build_graph: {str(error) or 'interrupted; the graph is as it was'}", file=sys.stderr)
        return 1
    if not counts.rejected:
        rejects.unlink()
    where = f" (see {rejects})" if counts.rejected else ""
    print(
        f"read {counts.triples}, rejected {counts.rejected}{where}; graph {options.graph}: {len(view)} triples, "
        f"{view.subjects} subjects, {view.predicates} predicates, {size / 1e6:.1f} MB; "
        f"{time.monotonic() - began_at:.1f} s"
    )
    for sentence in counts.broken:
        print(f"build_graph: {sentence}", file=sys.stderr)
    return 1 if counts.broken or (counts.rejected and not counts.triples) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.build_graph", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="triples, in this order")
    parser.add_argument("--graph", required=True, metavar="NAME", help="made if it does not exist")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="data folder (else MOVERANK_DATA_DIR, else ./data)"
    )
    parser.add_argument(
        "--lookup-model",
        type=Path,
        metavar="DIR",
        help="whose tokens the names become (else MOVERANK_LOOKUP_MODEL, else the bundled one)",
    )
    parser.add_argument(
        "--rejects", type=Path, metavar="FILE", help="where rejects go (FILE.rejects.jsonl of the first file)"
    )
    options = parser.parse_args(arguments)
    if not NAME.fullmatch(options.graph):
        parser.error("--graph: a name has 1 to 64 characters a-z 0-9 _ -, the first a letter or digit")
    for file in options.files:
        if not file.is_file():
            parser.error(f"{file} is not a file")
    try:
        options.rejects = rejects_file(options.rejects, options.files)
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    sys.exit(main())
