"""Imports into a graph: a file of triples of any length becomes part of the graph at once, when it is read to its end.

Lines are read in blocks into a `FactsBuilder`; then facts, changes and the new rows are sorted together into one new
generation, which also keeps the job's counts. A job that was interrupted begins anew, unless the graph says that its rows are
there already.
"""

from pathlib import Path

from service.errors import NotFound, NotReady
from service.graph_library import GraphLibrary
from service.graphs import Graph
from service.jobs import Job, Postponed, Progress
from service.triples import Reject, TripleLimits, TripleReader


def import_triples(graphs: GraphLibrary, limits: TripleLimits, job: Job) -> None:
    """Run an import job: its spooled body into its graph."""
    try:
        graph = graphs.get(job.target)
    except NotReady as error:
        raise Postponed(error.sentence) from error
    if job.options.get("graph", graph.id) != graph.id:
        raise NotFound("the graph was deleted meanwhile")
    recorded = graph.job_record(job.id)
    job.progress = Progress(**recorded) if recorded else Progress()
    job.begin()
    if recorded:
        job.progress.check_end()
        return
    builder = graph.builder(job.check)
    progress = job.progress
    try:
        with TripleReader(job.spool, job.options["compression"], limits, job.check) as reader:
            for block in reader:
                builder.add_block(block)
                for reject in block.rejects:
                    progress.reject(reject.line, reject.reason)
                progress.done += len(block.subject_of)
                progress.position = block.last_line
                job.fraction = reader.fraction
                job.check()
            progress.broken = reader.broken
    except BaseException:
        builder.discard()
        raise
    graph.merge(builder, (job.id, progress.record()))
    progress.check_end()


def load_triples(graph: Graph, path: Path, limits: TripleLimits) -> list[Reject]:
    """Put a small file of triples into a graph; return the lines that are none."""
    builder = graph.builder()
    rejects: list[Reject] = []
    with TripleReader(path, None, limits) as reader:
        for block in reader:
            builder.add_block(block)
            rejects += block.rejects
    graph.merge(builder)
    return rejects
