"""Token sequences -> the sorted arrays of a `PrefixTree`, by NumPy sorts only.

A key has one or more parts, each ended by a separator: subject, predicate and meaning of a triple, or just a name. What makes
the arrays small is that they are factored: only the first part becomes a trie; the names of the other parts are spelled once,
and a key's later parts are numbers of names in a column of rows sorted by (first part, second part, …). A prefix that is past
the first part is then an interval of rows.

The trie is numbered breadth first and built level by level: sorting the sequences of one level by (node, next token) gives the
nodes of the next one.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.mapped_arrays import Array
from models.prefix_tree import PrefixTree

_CHUNK = 1 << 20
"""Rows that are widened to eight bytes at a time."""


class Ragged(NamedTuple):
    """Sequences of token ids, one after the other."""

    tokens: NDArray[np.integer[Any]]  # (total,)
    offsets: NDArray[np.int64]  # (n + 1,); sequence i is tokens[offsets[i] : offsets[i + 1]]

    def sequence(self, i: int) -> NDArray[np.integer[Any]]:
        """Return sequence i."""
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]


class Built(NamedTuple):
    """The arrays of a tree, and where everything that went into it has gone."""

    arrays: dict[str, Array]
    meta: dict[str, Any]
    order: NDArray[np.uint32]  # (rows,): which of the given rows each row of the tree is
    ranks: list[NDArray[np.int64]]  # for each part (names,): the rank of each name, -1 where no row has it


class _Trie(NamedTuple):
    label: Array  # (nodes,), token that leads to a node
    first_child: NDArray[np.uint32]  # (nodes + 1,)
    ends: NDArray[np.uint32]  # (ranks,), nodes that the separator leads to, ascending
    rank_of_name: NDArray[np.int64]  # (n,)


def ragged(sequences: Iterable[Sequence[int]]) -> Ragged:
    """Put Python sequences one after the other."""
    listed = list(sequences)
    lengths = np.fromiter((len(each) for each in listed), np.int64, len(listed))
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return Ragged(np.fromiter((t for each in listed for t in each), np.int32, int(offsets[-1])), offsets)


def joined(parts: Sequence[Ragged]) -> Ragged:
    """Put the sequences of several after each other."""
    if not parts:
        return ragged([])
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Ragged(np.concatenate([part.tokens for part in parts]), np.concatenate(([0], np.cumsum(lengths))))


Repeated = Callable[[NDArray[np.uint32], NDArray[np.int64]], NDArray[np.int64]]
"""(order of the rows, (k, 2) positions in it that share their key with another one, and the number of that key) -> the positions
that shall be left out, of a key never all."""


def build_tree(
    columns: Sequence[Ragged],
    rows: Sequence[NDArray[np.integer[Any]]],
    separator: int,
    repeated: Repeated | None = None,
) -> Built:
    """Build the arrays of a tree.

    ``columns`` holds for each part the names that occur, without separators; ``rows`` for each part the name (n,) of every row.
    Names with equal tokens become one rank; rows with equal keys keep their order, but for those that ``repeated`` leaves out.

    Raises:
        ValueError: a name contains the separator.
    """
    for names in columns:
        if (names.tokens == separator).any():
            raise ValueError(f"a name contains the separator, token {separator}")
    used = [counted(column, len(names.offsets) - 1) > 0 for names, column in zip(columns, rows, strict=True)]
    kept = [_subset(names, mask) for names, mask in zip(columns, used, strict=True)]
    trie = _build_trie(kept[0], separator)
    arrays: dict[str, Array] = {"label": trie.label, "first_child": trie.first_child, "ends": trie.ends}
    ranks_of_kept, counts = [trie.rank_of_name], [len(trie.ends)]
    for part, names in enumerate(kept[1:], 1):
        rank_of_name, distinct = _sorted_names(names, separator)
        arrays |= {f"tokens{part}": _narrow(distinct.tokens), f"offsets{part}": _narrow(distinct.offsets)}
        ranks_of_kept.append(rank_of_name)
        counts.append(len(distinct.offsets) - 1)
    ranks = []
    for mask, of_kept in zip(used, ranks_of_kept, strict=True):
        rank = np.full(len(mask), -1, np.int64)
        rank[mask] = of_kept
        ranks.append(rank)
    order, sorted_ranks, is_same = _sort_rows(ranks, rows, counts)
    keys = len(order) - int(is_same.sum())
    if repeated is not None and keys < len(order):
        tied = np.flatnonzero(np.concatenate((is_same, [False])) | np.concatenate(([False], is_same)))
        begins = ~np.concatenate(([False], is_same))[tied]
        left_out = repeated(order, np.column_stack((tied, np.cumsum(begins))))
        if len(left_out):
            order, sorted_ranks = np.delete(order, left_out), [np.delete(each, left_out) for each in sorted_ranks]
    arrays["rows_of"] = _narrow(np.concatenate(([0], np.cumsum(counted(sorted_ranks[0], counts[0])))))
    for part, column in enumerate(sorted_ranks[1:], 1):
        arrays |= _column(part, column, counts[part])
    meta = {"separator": separator, "parts": len(columns), "rows": len(order), "keys": keys}
    return Built(arrays, meta, order, ranks)


def tree_of(keys: Sequence[Sequence[Sequence[int]]], separator: int, parts: int | None = None) -> PrefixTree:
    """Build a tree in memory: ``keys[i]`` are the parts of row i, without separators.

    ``parts`` is needed only where there are no keys.
    """
    parts = len(keys[0]) if keys else parts or 1
    columns, rows = [], []
    for part in range(parts):
        numbers: dict[tuple[int, ...], int] = {}
        rows.append(np.array([numbers.setdefault(tuple(key[part]), len(numbers)) for key in keys], np.int64))
        columns.append(ragged(numbers))
    built = build_tree(columns, rows, separator)
    return PrefixTree({**built.arrays, "row_numbers": built.order}, built.meta)


def _build_trie(names: Ragged, separator: int) -> _Trie:
    lengths = np.diff(names.offsets)
    n = len(lengths)
    leaf = np.zeros(n, np.int64)
    who = np.arange(n)  # names that go on, grouped by the node where they are
    at = np.zeros(n, np.int64)
    labels: list[Array] = [np.zeros(1, np.uint16)]
    children: list[Array] = []  # of the nodes level by level
    before, nodes, depth = 0, 1, 0  # nodes above a level, and with it
    while len(who):
        goes_on = lengths[who] > depth
        token = np.full(len(who), separator, np.int64)
        token[goes_on] = names.tokens[names.offsets[who[goes_on]] + depth]
        key = at << 32 | token
        order = np.argsort(key)
        key, who = key[order], who[order]
        is_new = np.concatenate(([True], key[1:] != key[:-1]))
        at = nodes - 1 + np.cumsum(is_new)
        key = key[is_new]
        labels.append(_narrow(key & 0xFFFFFFFF))
        parents = key >> 32
        children.append(_narrow(np.bincount(parents - before, minlength=nodes - before)))
        before, nodes = nodes, nodes + len(key)
        goes_on = goes_on[order]
        leaf[who[~goes_on]] = at[~goes_on]
        who, at, depth = who[goes_on], at[goes_on], depth + 1
    children.append(np.zeros(nodes - before, np.uint16))
    ends, rank_of_name = np.unique(leaf, return_inverse=True)
    first_child = np.ones(nodes + 1, np.uint32)
    first_child[1:] += np.cumsum(np.concatenate(children), dtype=np.uint32)
    return _Trie(np.concatenate(labels), first_child, ends.astype(np.uint32), rank_of_name)


def _sorted_names(names: Ragged, separator: int) -> tuple[NDArray[np.int64], Ragged]:
    """Return the rank (n,) of each name in the order of token sequences, and the distinct names, each with the separator."""
    n = len(names.offsets) - 1
    ended = np.insert(names.tokens.astype(np.int64), names.offsets[1:], separator)
    offsets = names.offsets + np.arange(n + 1)
    raw, places = ended.astype(">u4").tobytes(), (4 * offsets).tolist()
    spelled = [raw[start:end] for start, end in pairwise(places)]  # they sort as the tokens do
    distinct = sorted(set(spelled))
    rank = {each: i for i, each in enumerate(distinct)}
    lengths = np.fromiter((len(each) // 4 for each in distinct), np.int64, len(distinct))
    tokens = np.frombuffer(b"".join(distinct), ">u4").astype(np.int64)
    return np.fromiter((rank[each] for each in spelled), np.int64, n), Ragged(
        tokens, np.concatenate(([0], np.cumsum(lengths)))
    )


def _sort_rows(
    ranks: Sequence[NDArray[np.int64]], rows: Sequence[NDArray[np.integer[Any]]], counts: Sequence[int]
) -> tuple[NDArray[np.uint32], list[NDArray[np.integer[Any]]], NDArray[np.bool_]]:
    """Sort rows by their ranks, stably; return the order, the sorted ranks of each part, and which rows repeat the last key."""
    bits = [max(1, int(count - 1).bit_length()) for count in counts]
    if sum(bits) > 62:  # beyond any graph that fits a machine; slower
        columns = [rank[column] for rank, column in zip(ranks, rows, strict=True)]
        by_ranks = np.lexsort(columns[::-1])
        columns = [column[by_ranks] for column in columns]
        is_same: NDArray[np.bool_] = np.ones(max(0, len(by_ranks) - 1), bool)
        for column in columns:
            is_same &= column[1:] == column[:-1]
        return by_ranks.astype(np.uint32), list(columns), is_same
    key = np.zeros(len(rows[0]), np.int64)
    for rank, column, width in zip(ranks, rows, bits, strict=True):
        key <<= width
        for start in range(0, len(key), _CHUNK):
            key[start : start + _CHUNK] |= rank[column[start : start + _CHUNK]]
    # Not stable, but several times as fast as a stable sort: runs of equal keys are put right below.
    order: NDArray[np.uint32] = np.argsort(key).astype(np.uint32)
    key.sort()
    is_same = key[1:] == key[:-1]
    in_run = np.flatnonzero(np.concatenate((is_same, [False])) | np.concatenate(([False], is_same)))[: len(key)]
    runs = order[in_run]
    order[in_run] = runs[np.lexsort((runs, key[in_run]))]
    split: list[NDArray[np.integer[Any]]] = []
    for width in reversed(bits):
        ranks_of_part = np.empty(len(key), np.uint32)
        np.bitwise_and(key, (1 << width) - 1, out=ranks_of_part, casting="unsafe")
        split.append(ranks_of_part)
        key >>= width
    return order, split[::-1], is_same


def _column(part: int, ranks: NDArray[np.integer[Any]], count: int) -> dict[str, Array]:
    """Keep a column as it is, or, where one rank takes most rows, only the rows of the others."""
    of_each = counted(ranks, max(1, count))
    frequent = int(of_each.argmax())
    if 2 * (len(ranks) - int(of_each[frequent])) >= len(ranks):
        return {f"column{part}": _narrow(ranks)}
    others = np.flatnonzero(ranks != frequent)
    return {
        f"frequent{part}": np.array([frequent], np.uint32),
        f"rows{part}": _narrow(others),
        f"column{part}": _narrow(ranks[others]),
    }


def counted(numbers: NDArray[np.integer[Any]], count: int) -> NDArray[np.int64]:
    """Count how often each number below ``count`` occurs; unlike `np.bincount` without a copy of eight bytes a number."""
    found = np.zeros(count, np.int64)
    for start in range(0, len(numbers), _CHUNK):
        found += np.bincount(numbers[start : start + _CHUNK], minlength=count)
    return found


def _subset(names: Ragged, mask: NDArray[np.bool_]) -> Ragged:
    """Keep the names where ``mask`` is true."""
    if mask.all():
        return names
    lengths = np.diff(names.offsets)
    return Ragged(names.tokens[np.repeat(mask, lengths)], np.concatenate(([0], np.cumsum(lengths[mask]))))


def _narrow(array: NDArray[np.integer[Any]]) -> Array:
    """Keep whole numbers >= 0 in 2, 4 or 8 bytes."""
    most = int(array.max()) if len(array) else 0
    return array.astype(np.uint16 if most < 1 << 16 else np.uint32 if most < 1 << 32 else np.int64, copy=False)
