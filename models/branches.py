"""The tree of a search, for people to read: every way that was weighed, with those that were given up.

A search writes down what it weighed as `Offers`; `branches` turns them into a flat list of nodes. Tokens that the prefix tree
forces are one node with the choice before them, and no node reaches from one part of a key into the next.
"""

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from models.fallback import STAND_IN_TOKENS
from models.token_tree import TokenTree

MOST_GIVEN_UP = 100
"""Nodes on ways that were given up, the likeliest ones; those that lead to keys are all listed."""
UNKNOWN = "□"

Tokens = tuple[int, ...]


class Offers(dict[Tokens, dict[int, float]]):
    """What a search weighed for one question: after which tokens, which next ones, with their log-odds ≤ 0."""

    def add(self, before: Tokens, tokens: Sequence[int], log_odds: Sequence[float]) -> None:
        """Note that `tokens` were weighed after the tokens `before`."""
        self.setdefault(before, {}).update(zip(tokens, log_odds, strict=True))


class Branch(NamedTuple):
    """A node: one choice with the forced tokens behind it. The first one is the root; parents stand before their children."""

    parent: int | None  # its place in the list
    before: Tokens  # the whole way to it, separators included
    tokens: Tokens  # its own, without separators; none where the choice was to end the part
    part: int  # of the key, from 0
    log_odds: float  # ≤ 0, among all ways that the tree left at the parent; 0 where there was no other
    score: float  # the sum of log-odds from the root to here
    choices: int  # how many ways the tree leaves behind it; 0 at the end of a key
    is_kept: bool  # whether the search found a key on this way
    key: Tokens | None  # the whole key that ends here


def branches(tree: TokenTree, offers: Offers, found: Sequence[Tokens], most: int = MOST_GIVEN_UP) -> list[Branch]:
    """List the nodes of a search that found the keys `found`, likeliest first; at most about `most` of them given up."""
    kept = {key[:end] for key in found for end in range(len(key) + 1)}
    looked = kept | {before[:end] for before in offers for end in range(len(before) + 1)}
    listed: list[Branch] = []
    given_up = 0
    waiting: list[tuple[float, Tokens, int | None, float]] = [(0.0, (), None, 0.0)]  # -score, way, parent, log-odds
    while waiting:
        loss, path, parent, log_odds = heappop(waiting)
        is_kept = path in kept
        if not is_kept and given_up >= most:
            continue
        first = len(listed)
        before, own, part = path[:-1], list(path[-1:]), path[:-1].count(tree.separator)
        state = tree.walk(tree.start(1)[0], path)
        while True:
            allowed = tree.children(state[None])[0]
            is_end = path[-1:] == (tree.separator,)
            if len(allowed) != 1 or (is_end and path not in looked):
                break
            token = int(allowed[0])
            now = path.count(tree.separator)
            if token != tree.separator and now != part:
                listed.append(_branch(tree, parent, before, own, part, log_odds, -loss, 1, path in kept, None))
                parent, before, own, part, log_odds = len(listed) - 1, path, [], now, 0.0
            own.append(token)
            path, state = (*path, token), tree.walk(state, [token])
        key = path if tree.is_finished(state[None])[0] else None
        listed.append(_branch(tree, parent, before, own, part, log_odds, -loss, len(allowed), path in kept, key))
        given_up += 0 if is_kept else len(listed) - first
        for token, odds in offers.get(path, {}).items():
            heappush(waiting, (loss - odds, (*path, token), len(listed) - 1, odds))
    return listed


def _branch(
    tree: TokenTree,
    parent: int | None,
    before: Tokens,
    own: Sequence[int],
    part: int,
    log_odds: float,
    score: float,
    choices: int,
    is_kept: bool,
    key: Tokens | None,
) -> Branch:
    tokens = tuple(token for token in own if token != tree.separator)
    return Branch(parent, before, tokens, part, log_odds, score, choices, is_kept, key)


def readable(before: Sequence[int], tokens: Sequence[int], words: Mapping[int, str]) -> str:
    """Spell `tokens` as they look behind `before`: word pieces joined, words apart, a stand-in as □."""
    text = ""
    last = words[before[-1]] if before else ""
    for token in tokens:
        word = words[token]
        if word.startswith("##"):
            text += word[2:]
        else:
            is_apart = last.isascii() and word.isascii() and last[-1:].isalnum() and word[:1].isalnum()
            text += (" " if is_apart else "") + (UNKNOWN if word in STAND_IN_TOKENS else word)
        last = word
    return text
