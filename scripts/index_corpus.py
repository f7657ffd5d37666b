"""Index files of any size into a collection: of a local data folder, or with ``--url`` of a running service.

    python -m scripts.index_corpus faq.jsonl more.csv.gz --collection faq
    python -m scripts.index_corpus corpus.tsv.xz --collection law --url http://127.0.0.1:8000 --resume

Formats are jsonl, csv, tsv, txt, parquet, and .gz, .xz, .zst of the first four; `service.corpus_files` says what a line may be.
A line that cannot be used never stops the run: it goes to the rejects file with its number, the reason and its beginning.

When a batch is durable, the position behind it is written beside the rejects file. Killed at any moment, the same command with
``--resume`` goes on from there. A line without an id gets ``FILE-NAME:LINE-NUMBER`` as its id, so that indexing a file once more
replaces its documents and doubles nothing.

Exit code: 0 when all files were read to their end (rejects are counted, not an error), 1 when something stopped the run or not
one line could be used, 2 for a wrong command line.
"""

import argparse
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson
from tqdm import tqdm

from scripts.arguments import rejects_file
from scripts.index_targets import Answer, LocalCollection, RemoteCollection, Stopped, Target
from service.corpus_files import Line, id_of_line, read_documents
from service.document_rules import Entry
from service.errors import ServiceError
from service.file_formats import Format, guess_format
from service.library import NAME
from service.numbered_lines import Compression
from service.settings import read_settings
from service.store_errors import STORE_ERROR

LOCAL_BATCH_LINES = 1_024
REMOTE_BATCH_LINES = 256
MAX_PIECE_CHARS = 1 << 20


class Reject(NamedTuple):
    """A line that was not indexed."""

    file: str
    line: int
    reason: str
    head: str


class Source(NamedTuple):
    """A file to index."""

    path: Path
    format: Format
    compression: Compression | None

    def signature(self) -> list[Any]:
        """Return what tells whether it is still the same file: name, bytes, time of change in ns."""
        found = self.path.stat()
        return [self.path.name, found.st_size, found.st_mtime_ns]


class Piece(NamedTuple):
    """Consecutive lines of a file."""

    file: int  # its place among the files
    name: str
    last_line: int
    fraction: float  # of all files, that is read by then
    entries: dict[str, Entry]  # by id
    lines: dict[str, int]  # number of the line that each id is from
    rejects: list[Reject]


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a run is: everything up to this line of this file is accounted for."""

    signatures: list[list[Any]]
    place: str
    file: int = 0
    line: int = 0
    indexed: int = 0
    rejected: int = 0
    truncated: int = 0
    rejects_bytes: int = 0


class Journal:
    """The rejects file, and beside it the position, which is written when everything before it is durable."""

    def __init__(self, rejects: Path, start: Position, is_resumed: bool) -> None:
        """Begin anew, or go on where the last run stopped.

        Raises:
            Stopped: the last run was another one, or the files cannot be written.
        """
        self.rejects = rejects
        self.file = rejects.with_name(f"{rejects.name}.position")
        self.position = start
        try:
            if is_resumed and self.file.exists():
                self.position = Position(**orjson.loads(self.file.read_bytes()))
                if (self.position.signatures, self.position.place) != (start.signatures, start.place):
                    raise Stopped(
                        f"{self.file} is of a run with other files, or they changed, or of another collection"
                    )
            if rejects.exists():
                # What was rejected behind the position will be met again.
                os.truncate(rejects, min(self.position.rejects_bytes, rejects.stat().st_size))
            self._save()
        except (OSError, ValueError, TypeError) as error:
            raise Stopped(f"the position cannot be kept in {self.file} ({error}): name another --rejects") from error

    def advance(self, piece: Piece, answer: Answer) -> None:
        """Account for a piece that is durable."""
        rejects = piece.rejects + [
            Reject(piece.name, piece.lines[id], reason, piece.entries[id]["text"][:200])
            for id, reason in answer.refused.items()
        ]
        before = self.position
        rejects_bytes = before.rejects_bytes
        if rejects:
            with self.rejects.open("ab") as file:
                file.writelines(orjson.dumps(reject._asdict()) + b"\n" for reject in rejects)
                file.flush()
                os.fsync(file.fileno())
                rejects_bytes = file.tell()
        self.position = dataclasses.replace(
            before,
            file=piece.file,
            line=piece.last_line,
            indexed=before.indexed + answer.indexed,
            rejected=before.rejected + len(rejects),
            truncated=before.truncated + answer.truncated,
            rejects_bytes=rejects_bytes,
        )
        self._save()

    def end(self) -> None:
        """Forget the position of a run that is complete, and an empty rejects file."""
        self.file.unlink()
        if not self.position.rejected:
            self.rejects.unlink(missing_ok=True)

    def _save(self) -> None:
        beside = self.file.with_name(f"{self.file.name}.new")
        with beside.open("wb") as file:
            file.write(orjson.dumps(self.position))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.file)


def read_pieces(
    sources: Sequence[Source], start: Position, max_lines: int, broken: list[str] | None = None
) -> Iterator[Piece]:
    """Cut files into pieces, from a position on; `broken` gets a sentence about each file that cannot be read to its end."""
    sizes = [max(1, source.path.stat().st_size) for source in sources]
    for file in range(start.file, len(sources)):
        path, format, compression = sources[file]
        before, share = sum(sizes[:file]) / sum(sizes), sizes[file] / sum(sizes)
        with read_documents(path, format, compression, start.line if file == start.file else 0) as reader:
            lines: list[Line] = []
            chars = 0
            for line in reader:
                lines.append(line)
                chars += len(line.document["text"]) if line.document else 0
                if len(lines) >= max_lines or chars >= MAX_PIECE_CHARS:
                    yield _piece(file, path.name, lines, before + share * reader.fraction)
                    lines, chars = [], 0
            if lines:
                yield _piece(file, path.name, lines, before + share)
            if reader.broken is not None and broken is not None:
                broken.append(f"{path.name} was not read to its end: {reader.broken}")


def _piece(file: int, name: str, lines: list[Line], fraction: float) -> Piece:
    """Name the documents that bring no id; of two with the same id the last counts."""
    piece = Piece(file, name, lines[-1].number, fraction, {}, {}, [])
    for line in lines:
        if line.document is None:
            piece.rejects.append(Reject(name, line.number, line.error or "", line.head))
            continue
        id = line.document["id"] or id_of_line(name, line.number)
        piece.entries[id] = {**line.document, "id": id}
        piece.lines[id] = line.number
    return piece


def index_pieces(pieces: Iterator[Piece], target: Target, journal: Journal) -> None:
    """Index pieces in their order; the next one begins before one is finished, so that neither side waits for the other."""
    seen = journal.position.indexed + journal.position.rejected
    waiting: tuple[Piece, Any] | None = None
    with tqdm(initial=seen, unit="lines", unit_scale=True, dynamic_ncols=True, disable=None) as bar:

        def finish(piece: Piece, begun: Any) -> None:
            journal.advance(piece, target.finish(begun) if piece.entries else Answer(0, 0, {}))
            seen = journal.position.indexed + journal.position.rejected
            bar.total = max(seen, round(seen / piece.fraction))
            bar.set_description(piece.name, refresh=False)
            bar.update(seen - bar.n)

        for piece in pieces:
            begun = target.begin(list(piece.entries.values())) if piece.entries else None
            if waiting is not None:
                finish(*waiting)
            waiting = (piece, begun)
        if waiting is not None:
            finish(*waiting)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    rejects, broken = options.rejects, list[str]()
    journal: Journal | None = None
    target: Target | None = None
    try:
        if options.url:
            key = options.key or os.environ.get("MOVERANK_KEY")
            target = RemoteCollection(options.url, key, options.collection, options.patience_s)
        else:
            settings = read_settings({"data_dir": options.data_dir, "model": options.model, "sample": False})
            target = LocalCollection(settings, options.collection)
        started_at = time.monotonic()  # the model is loaded
        start = Position([source.signature() for source in options.sources], target.place)
        journal = Journal(rejects, start, options.resume)
        first = journal.position
        max_lines = options.batch_size or (REMOTE_BATCH_LINES if options.url else LOCAL_BATCH_LINES)
        index_pieces(read_pieces(options.sources, first, max_lines, broken), target, journal)
        journal.end()
    except (Stopped, ServiceError, STORE_ERROR, OSError, ValueError, KeyboardInterrupt) as error:
        print(f"index_corpus: {str(error) or 'interrupted'}", file=sys.stderr)
        if journal is not None:
            last = journal.position
            where = f"{options.files[last.file].name} line {last.line}"
            print(f"index_corpus: done up to {where}; the same command with --resume goes on there", file=sys.stderr)
        return 1
    finally:
        if target is not None:
            target.close()
    last = journal.position
    seconds = time.monotonic() - started_at
    rate = (last.indexed - first.indexed) / seconds
    where = f" (see {rejects})" if last.rejected else ""
    print(
        f"indexed {last.indexed}, rejected {last.rejected}{where}, truncated {last.truncated}; "
        f"{seconds:.1f} s, {rate:.1f} texts/s"
    )
    for sentence in broken:
        print(f"index_corpus: {sentence}", file=sys.stderr)
    return 1 if broken or (last.rejected and not last.indexed) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.index_corpus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what to index, in this order")
    parser.add_argument("--collection", required=True, metavar="NAME", help="made if it does not exist")
    parser.add_argument("--url", type=_url, help="a running service; left out, a local data folder that none has open")
    parser.add_argument("--key", help="key of the service that may write (else the environment's MOVERANK_KEY)")
    parser.add_argument(
        "--patience-s", type=float, default=300.0, metavar="S", help="seconds to ask again while it is busy (300)"
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="local data folder (else MOVERANK_DATA_DIR, else ./data)"
    )
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="local model folder (else MOVERANK_MODEL, else the bundled one)"
    )
    parser.add_argument("--resume", action="store_true", help="go on where the last run of this command stopped")
    parser.add_argument(
        "--rejects", type=Path, metavar="FILE", help="where rejects go (FILE.rejects.jsonl of the first file)"
    )
    parser.add_argument(
        "--format", metavar="F", help="format of all files, such as csv or tsv.gz, where names do not tell"
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="lines that are committed together (1024, by --url 256)"
    )
    options = parser.parse_args(arguments)
    if not NAME.fullmatch(options.collection):
        parser.error("--collection: a name has 1 to 64 characters a-z 0-9 _ -, the first a letter or digit")
    if options.batch_size is not None and options.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    if options.url and (options.data_dir or options.model):
        parser.error("--data-dir and --model are for a local data folder, --url for a running service")
    options.sources = []
    for file in options.files:
        try:
            format, compression = guess_format(f"a.{options.format}" if options.format else file.name)
        except ValueError as error:
            parser.error(f"{error} (or say --format)")
        if not file.is_file():
            parser.error(f"{file} is not a file")
        if any(file.name == other.path.name for other in options.sources):
            parser.error(
                f"two files are called {file.name}: lines without an id would get the same one, index them apart"
            )
        options.sources.append(Source(file, format, compression))
    try:
        options.rejects = rejects_file(options.rejects, options.files)
    except ValueError as error:
        parser.error(str(error))
    return options


def _url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if url.scheme not in ("http", "https") or not url.host:
        raise argparse.ArgumentTypeError(f"{text!r} must begin with http:// or https:// and a host")
    return text


if __name__ == "__main__":
    sys.exit(main())
