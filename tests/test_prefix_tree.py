"""The prefix tree: the same answers as a nested dict, whatever the keys, the removals and the additions are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mapped_arrays import map_arrays, write_arrays
from models.mentions import mentions
from models.overlay_tree import OverlayTree
from models.prefix_tree import KIND, PrefixTree
from models.prefix_tree_build import build_tree, ragged, tree_of
from models.token_tree import TokenTree

SEPARATOR = 3
Key = tuple[tuple[int, ...], ...]
Nested = dict[int, Any]

# Few tokens on both sides of the separator, and one that does not fit 16 bits, so that names share prefixes.
names = st.lists(st.sampled_from([1, 2, 4, 5, 70_000]), max_size=4).map(tuple)


def keys_of(parts: int, **sizes: int) -> st.SearchStrategy[list[Key]]:
    return st.lists(st.tuples(*[names] * parts), **sizes)


def flat(key: Key) -> tuple[int, ...]:
    """Spell a key with its separators."""
    return tuple(token for part in key for token in (*part, SEPARATOR))


def nested(keys: list[tuple[int, Key]]) -> Nested:
    """Build the plain dict trie of (row, key); the rows of a key stand under -1."""
    root: Nested = {}
    for row, key in keys:
        node = root
        for token in flat(key):
            node = node.setdefault(token, {})
        node.setdefault(-1, []).append(row)
    return root


def everything_below(node: Nested) -> Iterator[tuple[int, ...]]:
    """Yield what leads from a node to the end of a key."""
    if -1 in node:
        yield ()
    for token, child in node.items():
        if token != -1:
            yield from ((token, *rest) for rest in everything_below(child))


def agree(tree: TokenTree, root: Nested, parts: int) -> None:
    """Walk both level by level, all states of a level at once, and compare all that can be asked."""
    states, nodes = tree.start(1), [((), root)]
    assert states.shape == (1, tree.width)
    while nodes:
        children, offsets = tree.children(states)
        assert children.dtype == np.int32
        assert len(offsets) == len(nodes) + 1
        following, chosen, tokens = [], [], []
        for i, (path, node) in enumerate(nodes):
            allowed = children[offsets[i] : offsets[i + 1]].tolist()
            assert allowed == sorted(token for token in node if token != -1)
            phase = path.count(SEPARATOR)
            assert tree.phase(states)[i] == (phase if node else -1)
            assert tree.is_finished(states)[i] == (-1 in node)
            assert tree.values(states[i]).tolist() == node.get(-1, [])
            assert np.array_equal(tree.walk(tree.start(1)[0], path), states[i])
            below = sorted(everything_below(node))
            found = tree.continuations(states[i], len(below))
            assert found is not None
            assert (
                sorted(tuple(found[0][a:b].tolist()) for a, b in zip(found[1][:-1], found[1][1:], strict=True)) == below
            )
            assert not below or tree.continuations(states[i], len(below) - 1) is None
            for token in allowed:
                following.append(((*path, token), node[token]))
                chosen.append(i)
                tokens.append(token)
            forbidden = [token for token in (0, 1, 2, 3, 4, 5, 6, 70_000, 70_001) if token not in allowed]
            dead = tree.step(states[[i] * len(forbidden)], np.array(forbidden))
            assert (dead == -1).all()
        states, nodes = tree.step(states[chosen], np.array(tokens, np.int64)), following
    assert len(tree) == len(list(everything_below(root)))


@given(st.integers(1, 3).flatmap(lambda parts: keys_of(parts, min_size=1, max_size=40)))
def test_a_tree_answers_as_a_nested_dict(keys: list[Key]) -> None:
    """Children, steps, phases, values in order, ends and counts are those of a dict, at every state."""
    agree(tree_of(keys, SEPARATOR), nested(list(enumerate(keys))), len(keys[0]))


@given(st.data(), st.integers(1, 3))
@settings(max_examples=60)
def test_a_tree_without_rows_answers_as_one_that_never_had_them(data: st.DataObject, parts: int) -> None:
    """Removals hide a key when its last row is gone, and the prefixes that led to nothing else."""
    keys = data.draw(keys_of(parts, min_size=1, max_size=30))
    removed = sorted(data.draw(st.sets(st.integers(0, len(keys) - 1))))
    columns, rows = columns_of(keys, parts)
    built = build_tree(columns, rows, SEPARATOR)
    tree = PrefixTree(built.arrays, built.meta).without(np.array(removed, np.int64))
    kept = [(row, keys[i]) for row, i in enumerate(built.order.tolist()) if row not in removed]
    agree(tree, nested(kept), parts)


@given(st.data(), st.integers(1, 3))
@settings(max_examples=60)
def test_an_overlay_answers_as_one_tree(data: st.DataObject, parts: int) -> None:
    """Additions and removals over a base give what a tree of the remaining and the added keys gives; added rows come last."""
    keys = data.draw(keys_of(parts, max_size=20))
    added = data.draw(keys_of(parts, max_size=12))
    removed = sorted(data.draw(st.sets(st.integers(0, len(keys) - 1)))) if keys else []
    columns, rows = columns_of(keys, parts)
    built = build_tree(columns, rows, SEPARATOR)
    base = PrefixTree(built.arrays, built.meta)
    overlay = OverlayTree(base, tree_of(added, SEPARATOR) if added else None, removed)
    expected = [(row, keys[i]) for row, i in enumerate(built.order.tolist()) if row not in removed]
    expected += [(len(keys) + i, key) for i, key in enumerate(added)]
    agree(overlay, nested(expected), parts)


@given(st.data())
@settings(max_examples=200)
def test_mentions_in_an_overlay_are_those_in_one_tree(data: st.DataObject) -> None:
    """Names are found in a text whether they are in the base, among the additions, or removed and added again."""
    keys = data.draw(keys_of(2, min_size=1, max_size=8))
    added = data.draw(keys_of(2, min_size=1, max_size=6))
    removed = sorted(data.draw(st.sets(st.integers(0, len(keys) - 1))))
    columns, rows = columns_of(keys, 2)
    built = build_tree(columns, rows, SEPARATOR)
    kept = [keys[i] for row, i in enumerate(built.order.tolist()) if row not in removed]
    overlay = OverlayTree(PrefixTree(built.arrays, built.meta), tree_of(added, SEPARATOR), removed)
    text = data.draw(
        st.lists(st.sampled_from([token for key in (*keys, *added) for token in key[0]] or [1]), max_size=9)
    )
    assert mentions(overlay, text, 99) == mentions(tree_of(kept + added, SEPARATOR), text, 99)


@given(keys_of(3, min_size=1, max_size=30))
@settings(max_examples=15)
def test_a_mapped_tree_is_the_same(tmp_path_factory: pytest.TempPathFactory, keys: list[Key]) -> None:
    """Written and opened, a tree answers as before, and its rows know the names that they are made of."""
    columns, rows = columns_of(keys, 3)
    built = build_tree(columns, rows, SEPARATOR)
    path = tmp_path_factory.mktemp("tree") / "tree.bin"
    write_arrays(path, KIND, built.meta, built.arrays)
    tree = PrefixTree.open(path)
    agree(tree, nested([(row, keys[i]) for row, i in enumerate(built.order.tolist())]), 3)
    for part in range(3):
        assert tree.ranks(part, np.arange(len(keys))).tolist() == built.ranks[part][rows[part]][built.order].tolist()


def columns_of(keys: list[Key], parts: int) -> tuple[list[Any], list[Any]]:
    """Number the names of each part, with a name that no row has."""
    columns, rows = [], []
    for part in range(parts):
        known: dict[tuple[int, ...], int] = {(1, 1, 1, 1, 1): 0}
        rows.append(np.array([known.setdefault(key[part], len(known)) for key in keys], np.int64))
        columns.append(ragged(known))
    return columns, rows


def test_a_wide_key_is_sorted_too() -> None:
    """Ranks whose bits do not fit one machine word give the same tree."""
    generator = np.random.default_rng(0)
    keys = [tuple((int(token),) for token in each) for each in generator.integers(4, 5_000, (150, 9))]
    agree(tree_of(keys, SEPARATOR), nested(list(enumerate(keys))), 9)


def test_a_name_with_the_separator_is_refused() -> None:
    """The separator inside a name would be taken for its end."""
    with pytest.raises(ValueError, match="separator, token 3"):
        tree_of([[[1, SEPARATOR, 2]]], SEPARATOR)


def test_trees_of_different_forms_are_not_laid_over_each_other() -> None:
    """A union needs one separator and one number of parts."""
    with pytest.raises(ValueError, match="different separators or parts"):
        OverlayTree(tree_of([[[1], [2]]], SEPARATOR), tree_of([[[1]]], SEPARATOR))


@pytest.mark.parametrize("damage", ["cut", "longer", "kind", "header", "empty"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    """A file that is not whole or of another kind raises ValueError, and nothing is mapped."""
    path = tmp_path / "tree.bin"
    write_arrays(path, KIND, {"a": 1}, {"x": np.arange(100), "none": np.zeros((0, 2), np.uint16)})
    meta, arrays = map_arrays(path, KIND)
    assert (meta, arrays["x"].tolist(), arrays["none"].shape) == ({"a": 1}, list(range(100)), (0, 2))
    whole = path.read_bytes()
    damaged = {
        "cut": whole[:-1],
        "longer": whole + b"\0",
        "kind": whole.replace(b"prefix", b"suffix"),
        "header": whole[:30] + b"\0" + whole[31:],
        "empty": b"",
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"tree\.bin"):
        map_arrays(path, KIND)


def test_pages_are_given_back_and_answers_stay(tmp_path: Path) -> None:
    """After `give_back` no page of the file counts as memory of this process, and the tree says what it said."""
    rows = [np.arange(50_000, dtype=np.int64)] * 2
    spelled = [ragged([[token // 250 + 4, token % 250 + 4] for token in range(50_000)])] * 2
    path = tmp_path / "tree"
    built = build_tree(spelled, rows, SEPARATOR)
    write_arrays(path, KIND, built.meta, built.arrays)
    tree = PrefixTree.open(path)
    keys = [(number // 250 + 4, number % 250 + 4, SEPARATOR) for number in range(0, 50_000, 500)]

    def said() -> list[list[int]]:
        return [tree.walk(tree.start(1)[0], key + key).tolist() for key in keys]

    before = said()
    assert resident_bytes(path) > 0
    tree.give_back()
    assert resident_bytes(path) == 0
    assert said() == before
    PrefixTree(dict(tree.arrays), tree.meta).give_back()  # in memory there is nothing to give back


def resident_bytes(path: Path) -> int:
    """Return how much of a file's mappings counts as memory of this process."""
    total, is_inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.split(" ")[0]:
            is_inside = line.endswith(str(path))
        elif is_inside and name == "Rss":
            total += int(rest.split()[0]) * 1024
    return total
