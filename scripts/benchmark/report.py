"""The report of `scripts.benchmark.service` as tables."""

from typing import Any

SIDES = {"service": "service", "script_http": "script, HTTP", "script_threads": "script, threads"}


def as_text(report: dict[str, Any]) -> str:
    """Write a report as Markdown."""
    parts = [_heading(report), _indexing(report["indexing"]), _searches(report["search"]), _rest(report)]
    return "\n\n".join(parts)


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table; the first column is aligned left."""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    lines = [
        " | ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [heads, *rows]
    ]
    rule = " | ".join("-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths))
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def _heading(report: dict[str, Any]) -> str:
    machine, model, corpus, service = (report[name] for name in ("machine", "model", "corpus", "service"))
    lines = (
        f"{machine['processor']}, {machine['cores']} cores, load {machine['load_average']:.1f} at the start, "
        f"Python {machine['python']}; took {report['took_s']:.0f} s",
        f"service {service['version']} on {service['device']}, index {service['index']}; "
        f"model {model['name']} {model['fingerprint']}, weight {model['weight']}, default retrieve {model['retrieve']}; "
        f"{corpus['name']}, {corpus['characters']:.1f} characters a text",
        " · ".join(f"{name} {number}" for name, number in report["versions"].items()),
    )
    return "\n".join(lines)


def _indexing(measured: dict[str, Any]) -> str:
    rows = [
        ["service, import job", f"{measured['service_import']:.0f}", "1"],
        ["service, documents in batches of 100", f"{measured['service_documents']:.0f}", ""],
        [
            "bare SentenceTransformer.encode",
            f"{measured['bare_encode']:.0f}",
            f"{measured['ratio_to_bare_encode']:.2f}",
        ],
        ["script, encode and FAISS", f"{measured['script']:.0f}", f"{measured['ratio_to_script']:.2f}"],
    ]
    settled = (
        f"The service's index building after the imports took {measured['settle_cpu_s']:.1f} s of processor time more."
    )
    return f"Indexing\n\n{table(['', 'texts/s', 'import is × as fast'], rows)}\n\n{settled}"


def _searches(searches: list[dict[str, Any]]) -> str:
    rows = []
    for entry in searches:
        what = f"{entry['texts']:,} texts, {entry['rerank']}, {entry['retrieve']}"
        for side, name in SIDES.items():
            if side not in entry:
                continue
            load, ratio = entry[side], entry.get(f"ratio_to_{side}")
            times = "" if ratio is None else f"{ratio['median']:.1f} ({ratio['lowest']:.1f}–{ratio['highest']:.1f})"
            cells = [
                f"{load['per_second']:.1f}",
                f"{load['p50_ms']:.1f}",
                f"{load['p99_ms']:.1f}",
                str(load["count"]),
                times,
            ]
            rows.append([what, str(entry["clients"]), name, *cells])
    heads = [
        "search (rerank, candidates by)",
        "clients",
        "side",
        "queries/s",
        "p50 ms",
        "p99 ms",
        "queries",
        "service is × as fast",
    ]
    share = max(entry["service"]["client_share"] for entry in searches)
    return (
        f"Search: candidates 100, top_k 10\n\n{table(heads, rows)}\n\nThe clients took {share:.0%} of one core at most."
    )


def _rest(report: dict[str, Any]) -> str:
    memory, start, same = report["memory"], report["start"], report["agreement"]
    overlaps = ", ".join(f"{overlap:.4f} ({int(size):,} texts)" for size, overlap in same["top10_overlap"].items())
    lines = (
        f"Agreement: of the service's first ten these shares are the script's, too: {overlaps}; "
        f"their vectors differ by {same['vectors_difference']:.1e} at most.",
        f"Memory of the service: {memory['at_start_mb']:.0f} MB empty, {memory['peak_mb']:.0f} MB at most during the imports "
        f"({memory['anonymous_peak_mb']:.0f} MB without mapped files) and "
        f"growing by {memory['bytes_a_document']:.0f} bytes a document, "
        f"{memory['after_restart_mb']:.0f} MB after a restart. On disk {memory['disk_bytes_a_document']:.0f} bytes a document. "
        f"Memory of the script: {memory['script_mb']:.0f} MB.",
        f"Start to ready: {start['empty_s']:.1f} s with an empty folder, {start['full_s']:.1f} s with the full one; "
        f"then the first search {start['first_search_ms']:.0f} ms. Stop: {start['stop_s']:.1f} s.",
    )
    return "\n".join(lines)
