"""The report of `scripts.benchmark.peers` as Markdown tables."""

from typing import Any

WORKLOADS = {"short": "short questions", "mixed": "8 to 500 characters"}


def as_text(report: dict[str, Any]) -> str:
    """Write the whole report."""
    machine = report["machine"]
    parts = [
        f"{machine['processor']}, {machine['cores']} cores; load average {machine['load_average']:.1f} before, "
        f"{machine['load_average_after']:.1f} after. Model {report['model']}.",
        "Largest difference of a vector's entry from the service's: "
        + ", ".join(f"{name} {difference:.0e}" for name, difference in report["differences"].items())
        + ".",
        "Texts a second (p50 / p99 in ms):",
        _table(
            "texts",
            [
                (name, entry)
                for key, name in WORKLOADS.items()
                for entry in report["embeddings"]
                if entry["workload"] == key
            ],
        ),
    ]
    if report["searches"]:
        first = report["searches"][0]
        parts += [
            f"Searches a second (p50 / p99 in ms) over {first['texts']:,} texts; "
            f"of the first ten {first['agreement']:.3f} are the same.",
            _table("search", [("", entry) for entry in report["searches"]]),
        ]
    memory = ", ".join(f"{name} {size:.0f} MB" for name, size in report["memory_mb"].items())
    return "\n\n".join([*parts, f"Memory at the end: {memory}."])


def _table(what: str, rows: list[tuple[str, dict[str, Any]]]) -> str:
    """Write one row a measurement: a second (p50 / p99 in ms) of each side, and the first side's rate divided by theirs."""
    names = list(dict.fromkeys(name for _, entry in rows for name in entry["sides"]))
    lines = [
        "| " + " | ".join([what, "clients", *names, *(f"{names[0]} ÷ {name}" for name in names[1:])]) + " |",
        "|---" * (2 * len(names) + 1) + "|",
    ]
    for workload, entry in rows:
        sides = entry["sides"]
        rates = [
            f"{sides[name]['per_second']:.0f} ({sides[name]['p50_ms']:.0f} / {sides[name]['p99_ms']:.0f})"
            if name in sides
            else "failed"
            for name in names
        ]
        has_both = [names[0] in sides and name in sides for name in names[1:]]
        ratios = [
            f"{sides[names[0]]['per_second'] / sides[name]['per_second']:.2f}" if is_there else ""
            for name, is_there in zip(names[1:], has_both, strict=True)
        ]
        lines.append("| " + " | ".join([workload, str(entry["clients"]), *rates, *ratios]) + " |")
    return "\n".join(lines)
