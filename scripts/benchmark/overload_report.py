"""The report of `scripts.benchmark.overload`: a table for each kind of request, the verdict, and the picture."""

from pathlib import Path
from typing import Any

from scripts.benchmark.report import table

HEADS = ["of the peak", "offered/s", "answered/s", "429", "failed", "p50 ms", "p99 ms", "p99.9 ms", "p99 of 429, ms"]
LEAST_GOODPUT, MOST_AT_HALF, MOST_OVERHEAD = 0.8, 5.0, 0.15
"""What is asked for: goodput at twice the peak, p99 at half of it to one client's median, and the cost of serving."""


def as_text(report: dict[str, Any]) -> str:
    """Write a report as Markdown."""
    machine = report["machine"]
    parts = [
        f"{machine['cores']} cores, load {machine['load_average']:.1f} at the end; {report['texts']:,} texts; "
        f"took {report['took_s']:.0f} s"
    ]
    for kind, found in report["curves"].items():
        single, alone = found["single"], found["alone"]
        heading = (
            f"{kind}: one client p50 {single['p50_ms']:.1f} ms, p99 {single['p99_ms']:.1f} ms; one by one p50 "
            f"{alone['p50_ms']:.1f} ms, p99 {alone['p99_ms']:.1f} ms; peak "
            f"{found['peak_per_s']:.0f}/s with {found['peak_clients']} clients before and {found['peak_after_per_s']:.0f}/s after"
        )
        parts += [heading, table(HEADS, [_row(point) for point in found["curve"]])]
    return "\n\n".join([*parts, _verdict(report)])


def _row(point: dict[str, float]) -> list[str]:
    return [
        f"{point['share']:g} ×",
        f"{point['offered_per_s']:.0f}",
        f"{point['good_per_s']:.0f}",
        f"{point['refused']:.1%}",
        f"{point['failed']:.1%}",
        *(f"{point[name]:.0f}" for name in ("p50_ms", "p99_ms", "p999_ms", "refusal_p99_ms")),
    ]


def _verdict(report: dict[str, Any]) -> str:
    lines = []
    for kind, found in report["curves"].items():
        good, half = found["goodput_at_double"], found["p99_at_half_to_single"]
        best, rested = found["goodput_at_double_to_best"], found["p99_at_half_to_alone"]
        honest = min((point["refused_with_retry_after"] for point in found["curve"] if point["refused"]), default=1.0)
        failed = max(point["failed"] for point in found["curve"])
        lines += [
            f"- {kind}: goodput at twice the peak {good:.0%} of the peak (at least {LEAST_GOODPUT:.0%}: "
            f"{_held(good >= LEAST_GOODPUT)}), {best:.0%} of the best at any rate ({_held(best >= LEAST_GOODPUT)}); "
            f"{honest:.0%} of the refusals say when to come back; at most {failed:.1%} failed",
            f"- {kind}: p99 at half of the peak is {half:.1f} × the median of one client that asks again at once (at most "
            f"{MOST_AT_HALF:g}: {_held(half <= MOST_AT_HALF)}), {rested:.1f} × that of requests that come one by one "
            f"({_held(rested <= MOST_AT_HALF)})",
        ]
    cost = report["overhead"]
    lines += [
        f"- encoding short texts: {cost['bare_per_s']:.0f}/s bare, {cost['many_per_s']:.0f}/s over HTTP with "
        f"{cost['texts_at_once']} texts a request: overhead {cost['overhead_many']:.0%} (at most {MOST_OVERHEAD:.0%}: "
        f"{_held(cost['overhead_many'] <= MOST_OVERHEAD)}); {cost['one_per_s']:.0f}/s with one text a request: "
        f"overhead {cost['overhead_one']:.0%} ({_held(cost['overhead_one'] <= MOST_OVERHEAD)})",
        f"- encoding texts of mixed length: {cost['bare_mixed_per_s']:.0f}/s bare, {cost['one_mixed_per_s']:.0f}/s over HTTP "
        f"with one text a request: overhead {cost['overhead_mixed']:.0%} ({_held(cost['overhead_mixed'] <= MOST_OVERHEAD)})",
        f"- processor time a text: {cost['bare_cpu_ms']:.2f} ms bare, {cost['many_cpu_ms']:.2f} in the service with many texts a "
        f"request, {cost['one_cpu_ms']:.2f} with one, and {cost['client_cpu_ms']:.2f} in its clients",
    ]
    return "\n".join(lines)


def _held(is_held: bool) -> str:
    return "held" if is_held else "NOT held"


def plot(report: dict[str, Any], file: Path) -> None:
    """Draw goodput and latencies over the offered rate, a row for each kind of request."""
    from matplotlib.figure import Figure

    curves = report["curves"]
    figure = Figure(figsize=(10, 3.8 * len(curves)), layout="constrained")
    rows = figure.subplots(len(curves), 2, squeeze=False)
    for (rates, latencies), (kind, found) in zip(rows, curves.items(), strict=True):
        offered = [point["offered_per_s"] for point in found["curve"]]
        rates.plot(offered, [point["good_per_s"] for point in found["curve"]], "o-", label="answered")
        rates.plot(offered, [point["refused"] * point["offered_per_s"] for point in found["curve"]], "s--", label="429")
        rates.axhline(
            LEAST_GOODPUT * found["peak_per_s"], color="grey", lw=0.8, label=f"{LEAST_GOODPUT:.0%} of the peak"
        )
        rates.set(xlabel="offered, requests/s", ylabel="requests/s", title=f"{kind}: goodput")
        for name in ("p50_ms", "p99_ms", "p999_ms"):
            latencies.plot(offered, [point[name] for point in found["curve"]], "o-", label=name.removesuffix("_ms"))
        latencies.set(
            xlabel="offered, requests/s", ylabel="ms", yscale="log", title=f"{kind}: latency of what is answered"
        )
        for axes in (rates, latencies):
            axes.legend()
    figure.savefig(file, dpi=110)
