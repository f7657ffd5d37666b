"""Names of a prefix tree that occur in a text, found by walking the tree from every place of it.

It is the dictionary of a mention-aware start: the subject of a question is mostly in the question, word by word, and a name
that occurs is a better guess than one that a network likes.
"""

from collections.abc import Sequence

from models.token_tree import TokenTree


def mentions(tree: TokenTree, text: Sequence[int], limit: int) -> list[tuple[int, ...]]:
    """Find at most `limit` distinct first parts of keys, with their separator, that `text` (token ids) has as a run of tokens.

    Those that are no part of a longer one come first, longest first; then the others, longest first. Of names that are one
    token, of which every question has many, those with the highest id come first: in a vocabulary that is ordered by
    frequency, as those of this project are, they are the rare ones, which are seldom there by chance.
    """
    spans: list[tuple[int, int]] = []
    root = tree.start(1)[0]
    for start in range(len(text)):
        state, end = root, start
        while end < len(text):
            state = tree.walk(state, text[end : end + 1])
            end += 1
            if tree.phase(state[None])[0] < 0:
                break
            if tree.phase(tree.walk(state, [tree.separator])[None])[0] >= 0:
                spans.append((start, end))
    spans.sort(key=lambda span: (span[0] - span[1], span[0] if span[1] - span[0] > 1 else -text[span[0]]))
    outer = [
        span
        for span in spans
        if not any(other != span and other[0] <= span[0] and span[1] <= other[1] for other in spans)
    ]
    ordered = outer + [span for span in spans if span not in outer]
    found = dict.fromkeys((*text[start:end], tree.separator) for start, end in ordered)
    return list(found)[:limit]
