"""Losses of similarity training: in-batch softmax, FlatNCE, additive margin, CoSENT, per-family thresholds, relaxed mover.

All take similarities that were computed elsewhere (cosines, or the relaxed mover similarity below), so every choice fits
every kind of vector. In-batch losses read a matrix s (n, m): row i is text a_i, column j a candidate, the right one in
column i; what must not count as a negative of a row (another text with the same meaning) is masked out.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

InBatch = Literal["softmax", "flatnce", "margin"]


def same_meaning(rows: Tensor, columns: Tensor) -> Tensor:
    """Mark what is no negative: (n, m) bool, true where group rows[i] equals columns[j], except for the right column j = i."""
    same = rows.unsqueeze(1) == columns.unsqueeze(0)  # (n, m)
    return same & ~torch.eye(len(rows), len(columns), dtype=torch.bool, device=same.device)


def softmax_in_batch(similarity: Tensor, masked: Tensor, scale: float = 20.0) -> Tensor:
    """Cross-entropy of the right column: mean_i of −log(exp(λ s_ii) / Σ_j exp(λ s_ij)), j over unmasked columns.

    InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) as SimBERT uses it (kexue.fm/archives/7427, λ = 30; RoFormer-Sim 20).
    `similarity` (n, m) with m ≥ n, `masked` (n, m) bool, never on the diagonal; returns a scalar.
    """
    logits = (similarity * scale).masked_fill(masked, float("-inf"))
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def flatnce(similarity: Tensor, masked: Tensor, scale: float = 20.0) -> Tensor:
    """FlatNCE: mean_i of exp(l_i − stop_gradient(l_i)), l_i = log Σ_{j≠i} exp(λ (s_ij − s_ii)), j over unmasked columns.

    Chen et al. 2021 (arXiv:2107.01152): the gradient of InfoNCE without the vanishing factor that small batches suffer from.
    Its value is always 1: watch another number. A row without a negative counts 0. Same shapes as softmax_in_batch.
    """
    right = similarity.diagonal().unsqueeze(1)  # (n, 1)
    diagonal = torch.eye(*similarity.shape, dtype=torch.bool, device=similarity.device)
    lonely = (masked | diagonal).all(dim=1)
    logits = ((similarity - right) * scale).masked_fill(masked | diagonal, float("-inf"))[~lonely]
    contrast = torch.logsumexp(logits, dim=1)
    return torch.exp(contrast - contrast.detach()).sum() / len(similarity)


def additive_margin(similarity: Tensor, masked: Tensor, scale: float = 20.0, margin: float = 0.1) -> Tensor:
    """softmax_in_batch with the right similarity lowered: s_ii − m in place of s_ii.

    AM-Softmax, arXiv:1801.05599; for sentence vectors: kexue.fm/archives/5743.
    """
    diagonal = torch.eye(*similarity.shape, dtype=similarity.dtype, device=similarity.device)
    return softmax_in_batch(similarity - margin * diagonal, masked, scale)


def in_batch(kind: InBatch, similarity: Tensor, masked: Tensor, scale: float = 20.0) -> Tensor:
    """Apply the in-batch loss `kind`: "softmax", "flatnce" or "margin" (additive). Raises ValueError for another word."""
    match kind:
        case "softmax":
            return softmax_in_batch(similarity, masked, scale)
        case "flatnce":
            return flatnce(similarity, masked, scale)
        case "margin":
            return additive_margin(similarity, masked, scale)
    raise ValueError(f"unknown in-batch loss {kind!r}: softmax, flatnce or margin")


def cosent(similarity: Tensor, label: Tensor, scale: float = 20.0) -> Tensor:
    """CoSENT: log(1 + Σ_{label_i > label_j} exp(λ (s_j − s_i))): pairs must be ordered as their labels are.

    Source: kexue.fm/archives/8847.
    `similarity` (n,) of n pairs, `label` (n,) any ordered scores; returns a scalar, 0 where all labels are equal.
    """
    excess = (similarity.unsqueeze(0) - similarity.unsqueeze(1)) * scale  # (n, n), [i, j] = λ (s_j − s_i)
    ordered = label.unsqueeze(1) > label.unsqueeze(0)
    terms = excess[ordered]
    return torch.logsumexp(torch.cat([terms.new_zeros(1), terms]), dim=0)


def family_thresholds(
    similarity: Tensor, label: Tensor, family: Tensor, threshold: Tensor, slope: float = 10.0
) -> Tensor:
    """Binary cross-entropy of σ(slope · (s_i − threshold[family_i])) against label_i, mean over pairs.

    Sources draw the line between "same" and "not the same" in different places: each has its own threshold, trained along.
    `similarity`, `label`, `family` (n,), `threshold` (families,); returns a scalar, 0 for no pair.
    """
    if not len(similarity):
        return similarity.sum()
    return functional.binary_cross_entropy_with_logits(
        slope * (similarity - threshold[family]), label.to(similarity.dtype)
    )


def relaxed_mover(queries: Tensor, texts: Tensor, has_query: Tensor, has_text: Tensor) -> Tensor:
    """Relaxed word rotator's similarity of every query with every text, (n, m) in [−1, 1]; differentiable almost everywhere.

    1 − max(Σ_i p_i min_j d_ij, Σ_j q_j min_i d_ij) with p, q the norms divided by their sum and d_ij = 1 − cos: an upper
    bound of 1 − WRD (each side drops one of the two marginal constraints: Kusner et al. 2015; WRD: arXiv:2004.15003).
    `queries` (n, s, dim) and `texts` (m, t, dim) are token vectors, `has_query` (n, s) and `has_text` (m, t) bool say which
    exist (at least one each).
    """
    masses_q = _masses(queries, has_query)  # (n, s)
    masses_t = _masses(texts, has_text)  # (m, t)
    (n, s), (m, t) = has_query.shape, has_text.shape
    flat_q = functional.normalize(queries, dim=-1).reshape(n * s, -1)
    flat_t = functional.normalize(texts, dim=-1).reshape(m * t, -1)
    cosine = (flat_q @ flat_t.T).reshape(n, s, m, t)
    from_query = cosine.masked_fill(~has_text[None, None], -2.0).amax(dim=3)  # (n, s, m), nearest text token
    from_text = cosine.masked_fill(~has_query[:, :, None, None], -2.0).amax(dim=1)  # (n, m, t), nearest query token
    one = torch.einsum("nsm,ns->nm", from_query, masses_q)
    other = torch.einsum("nmt,mt->nm", from_text, masses_t)
    return torch.minimum(one, other)


def _masses(vectors: Tensor, exists: Tensor) -> Tensor:
    """Norms of the existing vectors (n, t, dim) divided by their sum, (n, t); 0 where there is none."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1) * exists
    return norms / norms.sum(dim=1, keepdim=True).clamp_min(1e-9)
