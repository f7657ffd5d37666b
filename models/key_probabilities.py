"""True log-probabilities of complete keys, over the whole vocabulary, from what the search has read already.

The search normalises among the tokens that the tree allows. How likely the network finds a key at all needs its whole
distribution after every prefix of the key. Prefixes that keys share, and hidden states that the search has, are not computed
again; only the forced tokens at the ends of keys are still to be read, those of all keys in one forward.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.beam import Chunk, Hypothesis
from models.unilm import Generator, Rows, collected


def part_log_probabilities(
    generator: Generator, rows: Rows, found: Sequence[Sequence[Hypothesis]], parts: int
) -> list[NDArray[np.float32]]:
    """Compute log-probabilities of the parts, separators included, of the keys of each question: (n, parts) each.

    `rows` are those of the prompts that the search began with, one for each question.
    """
    keys = [one for hypotheses in found for one in hypotheses]
    owners = [number for number, hypotheses in enumerate(found) for _ in hypotheses]
    sums = np.zeros((len(keys), parts), dtype=np.float32)
    if keys:
        places: dict[tuple[int, tuple[int, ...]], int] = {}  # question, prefix -> its hidden state
        states: list[tuple[torch.Tensor, int, int]] = []  # of a tensor (n, c, hidden): row, column
        prompts = rows.hidden[:, None]  # (questions, 1, hidden)
        state_of, tokens, where = list[int](), list[int](), list[tuple[int, int]]()
        for number, (key, owner, chunks) in enumerate(zip(keys, owners, _read(generator, keys), strict=True)):
            read = [(prompts, owner, 0)]
            read += [(chunk.hidden, chunk.place, column) for chunk in chunks for column in range(chunk.length)]
            part = 0
            for end, (token, state) in enumerate(zip(key.tokens, read, strict=True)):
                place = places.setdefault((owner, key.tokens[:end]), len(states))
                if place == len(states):
                    states.append(state)
                state_of.append(place)
                tokens.append(token)
                where.append((number, part))
                part += token == generator.separator
        each = generator.log_probabilities_at(_stacked(states), np.array(state_of), np.array(tokens))
        np.add.at(sums, tuple(np.array(where).T), each)
    cuts = np.cumsum([len(hypotheses) for hypotheses in found])[:-1]
    return np.split(sums, cuts)


def _read(generator: Generator, keys: Sequence[Hypothesis]) -> list[tuple[Chunk, ...]]:
    """Let the network read all but the last token of the keys; returns the hidden states of each key."""
    chunks = [key.chunks for key in keys]
    behind = [number for number, key in enumerate(keys) if key.written < len(key.tokens) - 1]
    if behind:
        rest = [keys[number].tokens[keys[number].written : -1] for number in behind]
        counts = [len(one) for one in rest]
        ids = np.zeros((len(rest), max(counts)), dtype=np.int64)
        for place, one in enumerate(rest):
            ids[place, : len(one)] = one
        _, hidden = generator.extend_all(collected([(keys[n].rows, keys[n].row) for n in behind]), ids, counts)
        for place, number in enumerate(behind):
            chunks[number] = (*chunks[number], Chunk(hidden, place, counts[place]))
    return chunks


def _stacked(states: Sequence[tuple[torch.Tensor, int, int]]) -> torch.Tensor:
    """Take hidden states out of tensors (n, c, hidden), each as (tensor, row, column): (m, hidden)."""
    groups: dict[int, tuple[torch.Tensor, list[int]]] = {}
    for number, (tensor, _, _) in enumerate(states):
        groups.setdefault(id(tensor), (tensor, []))[1].append(number)
    found = torch.cat(
        [tensor[[states[n][1] for n in chosen], [states[n][2] for n in chosen]] for tensor, chosen in groups.values()]
    )
    order = np.argsort(np.concatenate([np.array(chosen) for _, chosen in groups.values()]))
    return found[torch.from_numpy(order).to(found.device)]
