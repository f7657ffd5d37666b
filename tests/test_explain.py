"""scripts/explain.py: what is printed and drawn is the plan."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from models.transport import Measure
from scripts.explain import explain, main, width

TEXTS = ("花呗ab怎么还款😀", "如何还<AB>花呗&")


@pytest.mark.parametrize("measure", ["wrd", "wmd"])
@pytest.mark.parametrize("masses", ["norm", "uniform"])
def test_the_table_adds_up(
    model_folder: Path, capsys: pytest.CaptureFixture[str], measure: Measure, masses: str
) -> None:
    """Masses sum to one, what is paid sums to the distance, dearest first, and pieces of a word are one row."""
    main([*TEXTS, "--measure", measure, "--masses", masses, "--model", str(model_folder)])
    head, _, *rows = capsys.readouterr().out.splitlines()
    found = [re.search(r"mass ([\d.]+)  cost ([\d.]+)  pays ([\d.]+)", row) for row in rows]
    assert all(found)
    mass, cost, paid = zip(*([float(value) for value in each.groups()] for each in found if each), strict=True)
    distance = float(head.split()[1])
    assert sum(mass) == pytest.approx(1.0, abs=0.01)
    assert sum(paid) == pytest.approx(distance, abs=0.01)
    assert list(paid) == sorted(paid, reverse=True)
    assert min(cost) == 0.0
    assert any(row.split()[0] == "ab" for row in rows)
    assert len({width(row.split("mass")[0]) for row in rows}) == 1  # columns stand below each other


def test_the_heat_map_has_a_cell_for_every_move(model_folder: Path, tmp_path: Path) -> None:
    """The SVG is well formed whatever the texts hold, and names every move with its mass and cost."""
    file = tmp_path / "map.svg"
    main([*TEXTS, "--model", str(model_folder), "--out", str(file)])
    drawing = ElementTree.parse(file).getroot()
    titles = [each.text for each in drawing.iterfind(".//{*}g/{*}title")]
    alignment = explain(model_folder, TEXTS, "wrd", "norm")[0]
    assert titles == [
        f"{alignment.query_tokens[i][0]} → {alignment.text_tokens[j][0]}: mass {mass:.4f}, cost {cost:.4f}"
        for i, j, mass, cost in alignment.plan
    ]
    assert any(title and title.startswith("😀 → ") for title in titles)  # unknown to the model, itself to the reader


def test_a_png_is_drawn_with_letters_that_fonts_have(model_folder: Path, tmp_path: Path) -> None:
    """Latin letters can be drawn everywhere; characters that no font has are an error that says what to do."""
    file = tmp_path / "map.png"
    main(["abc", "a b", "--model", str(model_folder), "--out", str(file)])
    assert file.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match=r"write an \.svg"):
        main(["a \U00012000", "a", "--model", str(model_folder), "--out", str(file)])


def test_what_cannot_be_compared_is_said(model_folder: Path, tmp_path: Path) -> None:
    """A text without a token, and a picture of an unknown kind, are refused with a sentence."""
    with pytest.raises(SystemExit, match="has no token"):
        main([" ", "a", "--model", str(model_folder)])
    with pytest.raises(SystemExit):
        main(["a", "a", "--model", str(model_folder), "--out", str(tmp_path / "map.jpg")])


def test_a_place_that_cannot_be_written_is_said(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that does not exist is named before anything is compared, a file that cannot be written afterwards."""
    with pytest.raises(SystemExit):
        main(["a", "a", "--model", str(model_folder), "--out", str(tmp_path / "none" / "map.svg")])
    written = capsys.readouterr()
    assert "there is no folder" in written.err
    assert written.out == ""
    (tmp_path / "map.svg").mkdir()
    with pytest.raises(SystemExit, match=r"map\.svg cannot be written"):
        main(["a", "a", "--model", str(model_folder), "--out", str(tmp_path / "map.svg")])
