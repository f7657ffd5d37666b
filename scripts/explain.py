"""Show how two texts are compared: which word of one goes to which of the other, how much of it, and at what cost.

    python -m scripts.explain "花呗怎么还款" "如何偿还花呗" [--measure wrd|wmd] [--masses norm|uniform] [--out MAP.svg|MAP.png]

The plan is printed dearest move first. With ``--out`` it is drawn as a heat map: rows are the words of the first text, columns
those of the second, the colour of a cell is the mass that moved, the number its cost. SVG needs nothing; PNG needs matplotlib
and a font with the texts' characters.
"""

import argparse
import sys
import unicodedata
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import cast

import numpy as np

from models.encoder import Encoder
from models.transport import OWN_MASSES, Masses, Measure, distance, token_weights
from scripts.evaluate import BUNDLED
from service.alignment import Alignment, align, encoded_texts, token_spans

CELL, MARGIN, LETTER = 44, 12, 15  # pixels of the SVG


def explain(model: Path, texts: Sequence[str], measure: Measure, masses: Masses) -> tuple[Alignment, float, float]:
    """Align two texts; return the alignment, their distance and the cosine of their sentence vectors.

    Raises:
        ValueError: no usable model folder, or a text without a token that the model can read.
    """
    encoder = Encoder(model, "cpu")
    tokenized = encoder.tokenize(texts)
    for text, one in zip(texts, tokenized, strict=True):
        if not one.inner:
            raise ValueError(f"{text!r} has no token that the model can read")
        if one.truncated:
            print(f"of {text[:20]!r}… only the first {encoder.max_tokens} tokens are read", file=sys.stderr)
    first, second = encoded_texts(texts, tokenized, encoder.encode(tokenized))
    weights = [None if masses == OWN_MASSES[measure] else token_weights(one.tokens, masses) for one in (first, second)]
    spans = [token_spans(one.text, one.tokenized) for one in (first, second)]
    alignment = align(spans[0], first.tokens, spans[1], second.tokens, measure, *weights)
    apart = distance(first.tokens, second.tokens, measure, *weights)
    return alignment, apart, float(first.sentence @ second.sentence)


def as_text(alignment: Alignment, measure: Measure, apart: float, cosine: float) -> str:
    """Write an alignment as a table, what costs most first."""
    moves = sorted(alignment.plan, key=lambda move: (-move[2] * move[3], move[:2]))
    words = [[alignment.query_tokens[i][0] for i, *_ in moves], [alignment.text_tokens[j][0] for _, j, *_ in moves]]
    wide = [max([width(word) for word in column], default=0) for column in words]
    lines = [
        f"{measure} {apart:.4f}   cosine {cosine:.4f}   matched {alignment.matched:.0%}   unmatched {alignment.unmatched:.0%}",
        "",
    ]
    for (_, _, mass, cost), left, right in zip(moves, *words, strict=True):
        bar = "█" * max(1, round(40 * mass))
        lines.append(
            f"{padded(left, wide[0])} → {padded(right, wide[1])}  mass {mass:.3f}  cost {cost:.3f}  pays {mass * cost:.4f}  {bar}"
        )
    return "\n".join(lines)


def width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def padded(text: str, columns: int) -> str:
    """Fill a text up to a width."""
    return text + " " * (columns - width(text))


def as_svg(alignment: Alignment, title: str) -> str:
    """Draw an alignment as an SVG heat map."""
    rows, columns = ([word for word, _, _ in tokens] for tokens in (alignment.query_tokens, alignment.text_tokens))
    left = MARGIN + LETTER * max(map(len, rows), default=0) + 8
    top = 2 * MARGIN + LETTER * (1 + max(map(len, columns), default=0)) + 8
    sizes = left + CELL * len(columns) + MARGIN, top + CELL * len(rows) + MARGIN
    most = max((mass for _, _, mass, _ in alignment.plan), default=1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{sizes[0]}" height="{sizes[1]}" font-family="sans-serif" '
        f'font-size="{LETTER}"><title>{escape(title)}</title><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{MARGIN}" y="{MARGIN + LETTER - 3}" font-size="{LETTER - 2}">{escape(title)}</text>',
    ]
    for i, word in enumerate(rows):
        parts.append(
            f'<text x="{left - 8}" y="{top + CELL * i + CELL // 2 + 5}" text-anchor="end">{escape(word)}</text>'
        )
    for j, word in enumerate(columns):
        x = left + CELL * j + CELL // 2 + 5
        parts.append(f'<text transform="translate({x},{top - 8}) rotate(-90)">{escape(word)}</text>')
    parts += [
        f'<rect x="{left + CELL * j}" y="{top + CELL * i}" width="{CELL - 1}" height="{CELL - 1}" fill="#f4f4f4"/>'
        for i in range(len(rows))
        for j in range(len(columns))
    ]
    for i, j, mass, cost in alignment.plan:
        x, y, light = left + CELL * j, top + CELL * i, 92 - 57 * mass / most
        style = f'text-anchor="middle" font-size="12" fill="{"white" if light < 60 else "black"}"'
        parts.append(
            f'<g><rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="hsl(212,80%,{light:.0f}%)"/>'
            f'<text x="{x + CELL // 2}" y="{y + CELL // 2 + 4}" {style}>{cost:.2f}</text>'
            f"<title>{escape(rows[i])} → {escape(columns[j])}: mass {mass:.4f}, cost {cost:.4f}</title></g>"
        )
    return "\n".join([*parts, "</svg>\n"])


def draw_png(alignment: Alignment, title: str, path: Path) -> None:
    """Draw an alignment as a PNG heat map.

    Raises:
        ValueError: matplotlib is not installed, or no font of this machine has the characters.
    """
    try:
        import matplotlib
        from matplotlib import font_manager
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ValueError("PNG needs matplotlib (the extra `train`): write an .svg instead") from error
    rows, columns = ([word for word, _, _ in tokens] for tokens in (alignment.query_tokens, alignment.text_tokens))
    needed = {ord(character) for character in "".join([*rows, *columns, ".,:0123456789 "])}
    files = [entry.fname for entry in font_manager.fontManager.ttflist] + font_manager.findSystemFonts()
    font = next((file for file in files if _has_glyphs(file, needed)), None)
    if font is None:
        raise ValueError("no font of this machine has the characters of these texts: write an .svg instead")
    font_manager.fontManager.addfont(font)  # those installed lately are not in matplotlib's list
    matrix = np.zeros((len(rows), len(columns)))
    for i, j, mass, _ in alignment.plan:
        matrix[i, j] = mass
    with matplotlib.rc_context({"font.family": font_manager.FontProperties(fname=font).get_name()}):
        figure = Figure(figsize=(1.5 + 0.5 * len(columns), 1.5 + 0.45 * len(rows)), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(matrix, cmap="Blues", vmin=0.0)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        for i, j, mass, cost in alignment.plan:
            axes.text(
                j, i, f"{cost:.2f}", ha="center", va="center", size=8, color="w" if mass > matrix.max() / 2 else "k"
            )
        axes.set_title(title, size=9)
        figure.colorbar(image, label="mass")
        figure.savefig(path, dpi=130)


def _has_glyphs(font: str, needed: set[int]) -> bool:
    """Whether a font file has a glyph of its own for each of these code points (a last resort has one for whole blocks)."""
    from matplotlib import font_manager

    try:
        glyphs = font_manager.get_font(font).get_charmap()
    except RuntimeError:  # not of a kind that matplotlib can draw
        return False
    found = [glyphs.get(point) for point in needed]
    return None not in found and len(set(found)) == len(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.explain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs=2, metavar="TEXT")
    parser.add_argument("--measure", choices=("wrd", "wmd"), default="wrd")
    parser.add_argument("--masses", choices=("norm", "uniform"), help="default: norm for wrd, uniform for wmd")
    parser.add_argument("--model", type=Path, default=BUNDLED, help="encoder folder (default: the bundled model)")
    parser.add_argument("--out", type=Path, help="draw a heat map into this .svg or .png")
    choices = parser.parse_args(arguments)
    if any("\ud800" <= character <= "\udfff" for text in choices.texts for character in text):
        parser.error("a TEXT is not UTF-8: is this terminal set to another encoding?")
    if choices.out and choices.out.suffix not in (".svg", ".png"):
        parser.error(f"--out must end in .svg or .png, got {choices.out}")
    if choices.out and not choices.out.parent.is_dir():
        parser.error(f"--out: there is no folder {choices.out.parent}")
    measure = cast(Measure, choices.measure)
    try:
        alignment, apart, cosine = explain(choices.model, choices.texts, measure, choices.masses or OWN_MASSES[measure])
        print(as_text(alignment, measure, apart, cosine))
        title = f"{measure} {apart:.3f}, colour: mass, number: cost"
        if choices.out and choices.out.suffix == ".svg":
            choices.out.write_text(as_svg(alignment, title), encoding="utf-8")
        elif choices.out:
            draw_png(alignment, title, choices.out)
    except OSError as error:
        raise SystemExit(f"{choices.out} cannot be written: {error.strerror}") from error
    except ValueError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
