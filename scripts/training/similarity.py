"""Losses of a batch of pairs: in-batch contrast both ways, thresholds, relaxed mover, CoSENT; mixed and mined where asked for.

Every process encodes its own pairs and contrasts them with the texts of all (`Processes`); alone, all pairs are its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.losses import cosent, family_thresholds, in_batch, relaxed_mover, same_meaning
from scripts.training.neighbours import Neighbours
from scripts.training.network import SimBert, Vectors
from scripts.training.pairs import Batch
from scripts.training.processes import Processes
from scripts.training.recipe import Recipe, Source
from scripts.training.teacher import taught


class Mix(NamedTuple):
    """How a batch is mixed: row i with row `partner[i]`, a permutation (n,), `share` of the row itself."""

    share: float
    partner: NDArray[np.int64]


def draw_mix(strength: float, size: int, seed: int, number: int) -> Mix:
    """Draw the mix of batch `number`: one share ~ Beta(strength, strength) and a permutation of its `size` rows."""
    random = np.random.default_rng((seed, 4, number))
    return Mix(float(random.beta(strength, strength)), random.permutation(size))


def contrast(
    recipe: Recipe,
    rows: Tensor,
    columns: Tensor,
    groups: Tensor,
    column_groups: Tensor,
    partners: Tensor | None,
    share: float,
) -> Tensor:
    """Compute the in-batch loss of `rows` (n, dim) against `columns` (m, dim), whose right one is in column i.

    With `partners` (n,), columns of other rows, the rows are mixtures share · a_i + (1 − share) · a_partner, and the loss is
    share · (column i is right) + (1 − share) · (the partner's column is right): i-Mix (arXiv:2010.08887) of the vectors in
    place of the texts, as in manifold mixup (arXiv:1806.05236). `groups` (n,), `column_groups` (m,): texts of one meaning.
    """
    similarity = rows @ columns.T
    masked = same_meaning(groups, column_groups)
    if partners is None:
        return in_batch(recipe.loss, similarity, masked, recipe.scale)
    partner_groups = column_groups[partners]
    masked = masked | (partner_groups.unsqueeze(1) == column_groups.unsqueeze(0))
    own = torch.arange(len(rows), device=rows.device)
    masked[own, own] = False
    masked[own, partners] = False
    rest = torch.ones(len(columns), dtype=torch.bool, device=rows.device)
    rest[partners] = False
    swapped = torch.cat([partners, rest.nonzero()[:, 0]])
    return share * in_batch(recipe.loss, similarity, masked, recipe.scale) + (1 - share) * in_batch(
        recipe.loss, similarity[:, swapped], masked[:, swapped], recipe.scale
    )


def has_word(network: SimBert, ids: Tensor) -> Tensor:
    """Mark the tokens of `ids` (n, t) that have a mass; of a text without any, its first inner place, whose mass is 0."""
    exists = network.weights().detach()[ids] > 0
    exists[:, min(1, ids.shape[1] - 1)] |= ~exists.any(dim=1)
    return exists


def by_family(similarity: Tensor, label: Tensor, family: Tensor, scale: float) -> Tensor:
    """Average CoSENT over the families (n,) of the pairs: only pairs of one family have labels that can be compared."""
    found = [cosent(similarity[family == one], label[family == one], scale) for one in set(family.tolist())]
    return torch.stack(found).mean() if found else similarity.sum() * 0.0


class _Sides(NamedTuple):
    """Vectors of this process's texts, then all processes': positives first (`own` order), then labelled negatives."""

    own: Tensor
    positives: Tensor
    negatives: Tensor


def losses(
    network: SimBert,
    recipe: Recipe,
    source: Source,
    batch: Batch,
    number: int,
    processes: Processes | None = None,
    neighbours: Neighbours | None = None,
    teacher: SimBert | None = None,
) -> dict[str, Tensor]:
    """Compute the losses of `batch`, number `number` of its source; "loss" is their weighted sum.

    The mean of "loss" over the processes is the loss of the whole batch. `neighbours` mine further negatives; a `teacher`
    says how alike the process's own texts are.
    """
    processes = processes or Processes()
    pairs, device, count = source.pairs, network.gate.device, batch.positives
    others = len(batch.rows) - count
    if count < processes.count:
        raise ValueError(f"{count} positive pairs in a batch cannot be shared by {processes.count} processes")
    own, own_others = processes.own(count), processes.own(others)
    order, order_others = processes.order(count), processes.order(others)
    mine = np.concatenate([batch.rows[own], batch.rows[count + own_others]])
    everyone = np.concatenate([batch.rows[order], batch.rows[count + order_others]])
    read: Callable[[Tensor], Vectors] = network if recipe.layers else network.bag
    # The sides are read apart: a sentence is not padded to the length of its paragraph.
    ids_a, ids_b = (
        torch.from_numpy(source.ids.batch(side[mine], source.longest)).to(device) for side in (pairs.left, pairs.right)
    )
    mined = np.zeros(0, dtype=np.int64)
    if neighbours is not None and source.is_mined:
        mined = neighbours.mine(pairs.left[batch.rows[:count]], number)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.layers and recipe.is_bf16(device)):
        vectors_a, vectors_b = read(ids_a), read(ids_b)
        own_mined = processes.own(len(mined))
        ids_mined = torch.from_numpy(source.ids.batch(mined[own_mined], source.longest)).to(device)
        hard = read(ids_mined).sentences if len(own_mined) else vectors_a.sentences[:0]

    def spread(vectors: Tensor) -> _Sides:
        positives, negatives = vectors[: len(own)], vectors[len(own) :]
        return _Sides(positives, processes.gathered(positives, count), processes.gathered(negatives, others))

    def groups(texts: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(pairs.group[texts]).to(device)

    a, b = spread(vectors_a.sentences), spread(vectors_b.sentences)
    found: dict[str, Tensor] = {}
    total = a.own.sum() * 0.0
    weight = len(own) * processes.count / count  # own rows in the mean over all
    group_a, group_b = groups(pairs.left[everyone]), groups(pairs.right[everyone])
    mine_a, mine_b = group_a[: len(own)], group_b[: len(own)]
    if recipe.in_batch_weight:
        further = processes.gathered(hard, len(mined))
        group_further = groups(mined[processes.order(len(mined))])
        # The texts of labelled negatives are further candidates of every positive, and so are mined ones.
        columns_b = torch.cat([b.positives, b.negatives, a.negatives, further])
        columns_a = torch.cat([a.positives, a.negatives, b.negatives, further])
        group_columns_b = torch.cat([group_b, group_a[count:], group_further])
        group_columns_a = torch.cat([group_a, group_b[count:], group_further])
        rows_a, rows_b, partners, share = a.own, b.own, None, 1.0
        if recipe.mixup:
            mix = draw_mix(recipe.mixup, count, recipe.seed, number)
            column = np.empty(count, dtype=np.int64)
            column[order] = np.arange(count)
            share, partners = mix.share, torch.from_numpy(column[mix.partner[own]]).to(device)
            rows_a, rows_b = (
                functional.normalize(share * side.own + (1 - share) * side.positives[partners], dim=-1)
                for side in (a, b)
            )
        found["in_batch"] = (0.5 * weight) * (
            contrast(recipe, rows_a, columns_b, mine_a, group_columns_b, partners, share)
            + contrast(recipe, rows_b, columns_a, mine_b, group_columns_a, partners, share)
        )
        total = total + recipe.in_batch_weight * found["in_batch"]
    judged = torch.from_numpy(np.flatnonzero(source.has_both[pairs.family[everyone]])).to(device)
    if (recipe.pair_weight or recipe.cosent_weight) and len(judged):
        label = torch.from_numpy(pairs.label[everyone]).to(device)[judged]
        family = torch.from_numpy(pairs.family[everyone]).to(device)[judged]
        cosine = torch.cat([(a.positives * b.positives).sum(dim=1), (a.negatives * b.negatives).sum(dim=1)])[judged]
        if recipe.pair_weight:
            found["pairs"] = family_thresholds(cosine, label, family, network.threshold)
            total = total + recipe.pair_weight * found["pairs"]
        if recipe.cosent_weight:
            found["cosent"] = by_family(cosine, label, family, recipe.scale)
            total = total + recipe.cosent_weight * found["cosent"]
    if recipe.teacher_weight and teacher is not None and source.is_taught:
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.is_bf16(device)):
            theirs = teacher(ids_a).sentences, teacher(ids_b).sentences
        said = taught((vectors_a.sentences, vectors_b.sentences), theirs, recipe.scale)
        total = total + recipe.teacher_weight * said.pop("loss")
        found |= said
    if recipe.mover_weight and source.has_mover:

        def tokens(vectors: Vectors, ids: Tensor, side: NDArray[np.int64], side_groups: Tensor) -> _Tokens:
            longest = min(source.longest, int(source.ids.lengths[side[everyone]].max())) - ids.shape[1]
            exists = functional.pad(has_word(network, ids[: len(own)]), (0, longest))
            return _Tokens(functional.pad(vectors.tokens[: len(own)], (0, 0, 0, longest)), exists, side_groups[:count])

        sides = tokens(vectors_a, ids_a, pairs.left, group_a), tokens(vectors_b, ids_b, pairs.right, group_b)
        found["mover"] = weight * mover(recipe, processes, *sides, count)
        total = total + recipe.mover_weight * found["mover"]
    return {"loss": total, **found}


class _Tokens(NamedTuple):
    """Token vectors (n, t, dim) of texts, which of them exist (n, t) and the texts' groups (n,)."""

    vectors: Tensor
    exists: Tensor
    groups: Tensor


def mover(recipe: Recipe, processes: Processes, a: _Tokens, b: _Tokens, count: int) -> Tensor:
    """Contrast the own positives with the other sides of all by the relaxed mover similarity, both ways.

    `a`, `b` hold the own texts, padded to the same length in every process, and the groups of all `count`, own ones first.
    """
    own = len(a.vectors)
    masked_a = same_meaning(a.groups[:own], b.groups)
    masked_b = same_meaning(b.groups[:own], a.groups)
    everyone_a, everyone_b = (
        (processes.gathered(side.vectors, count), processes.gathered(side.exists.float(), count) > 0) for side in (a, b)
    )
    forwards = relaxed_mover(a.vectors, everyone_b[0], a.exists, everyone_b[1])  # (own, count)
    is_alone = processes.count == 1
    backwards = forwards.T if is_alone else relaxed_mover(b.vectors, everyone_a[0], b.exists, everyone_a[1])
    return 0.5 * in_batch(recipe.loss, forwards, masked_a, recipe.scale) + 0.5 * in_batch(
        recipe.loss, backwards, masked_b, recipe.scale
    )
