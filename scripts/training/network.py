"""The network that is trained: a BERT, one weight per token, a projection, a language-model head; and its reading without
layers, the "bag".

Sentence vector = normalised mean over inner tokens of weight(token) · Dense(h); the summands are the token vectors, so that
their norms are the masses of WRD. The layers' residual branches start at zero and the embedding's LayerNorm has no
trained scale during the bag stage: the LayerNorm of a normalised vector is that vector, so the whole network starts
exactly as good as the bag it grows from.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, BertConfig, BertModel
from transformers.masking_utils import sdpa_mask

SPECIAL_IDS = 5  # [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4
_UNKNOWN, CLS, SEP, MASK = 1, 2, 3, 4


def _full_precision_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: object
) -> tuple[Tensor, None]:
    """Attend in 32 bits on a CPU, where the backward pass of bf16 attention is some 25 times slower (heads of 26 dimensions).

    `dropout` is the share of attention weights that transformers wants left out, 0 outside of training.
    """
    kind = torch.float32 if query.device.type == "cpu" else query.dtype
    dropout = float(kwargs.get("dropout", 0.0))  # type: ignore[arg-type]
    with torch.autocast(query.device.type, enabled=False):
        mask = attention_mask
        if mask is not None and mask.is_floating_point():
            mask = mask.to(kind)
        heads = functional.scaled_dot_product_attention(
            query.to(kind), key.to(kind), value.to(kind), attn_mask=mask, dropout_p=dropout
        )
    return heads.transpose(1, 2).contiguous().to(value.dtype), None


AttentionInterface.register("sdpa_full_precision", _full_precision_attention)
# Without a mask function of the same name transformers leaves masks of padding out, silently.
AttentionMaskInterface.register("sdpa_full_precision", sdpa_mask)


class Vectors(NamedTuple):
    """`tokens` (n, t, dim) weighted token vectors, 0 where there is none; `sentences` (n, dim) unit rows."""

    tokens: Tensor
    sentences: Tensor


def bert_config(
    tokens: int,
    hidden: int = 312,
    layers: int = 4,
    heads: int = 12,
    inner: int = 1248,
    positions: int = 512,
    dropout: float = 0.0,
) -> BertConfig:
    """Describe the network; ReLU instead of GELU because on a CPU it costs a tenth.

    `dropout` (Srivastava et al. 2014) is the share of hidden values and attention weights of the layers that a training step
    leaves out; RoFormer-Sim took 0.2. The bag has none.
    """
    return BertConfig(
        vocab_size=tokens,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        hidden_act="relu",
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=0,
        type_vocab_size=2,
    )


class SimBert(nn.Module):
    """BERT, token weights (softplus of `gate`), projection to `dim`, language-model head, thresholds of the pair families."""

    def __init__(self, config: BertConfig, dim: int, families: int, noise: float = 0.0) -> None:
        """Create the network with random vectors, all weights 1 and residual branches of the layers at zero.

        In training, `noise` · r · z is added to every token's vector before the layers, z ~ N(0, 1) in every dimension, r the
        vector's root mean square: embedding noise as in NEFTune (arXiv:2310.05914), in the vectors' own unit.
        """
        super().__init__()
        self.noise = noise
        self.bert = BertModel(config, add_pooling_layer=False)
        self.bert.embeddings.word_embeddings.register_forward_hook(self._add_noise)
        self.bert.config._attn_implementation = "sdpa_full_precision"
        self.gate = nn.Parameter(torch.full((config.vocab_size,), 0.5413))  # softplus(0.5413) = 1
        self.dense = nn.Linear(config.hidden_size, dim, bias=False)
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.threshold = nn.Parameter(torch.full((max(families, 1),), 0.6))
        self.table: Tensor
        self.register_buffer("table", torch.zeros(config.vocab_size, dim))
        with torch.no_grad():
            self.dense.weight.copy_(torch.eye(dim, config.hidden_size))
            self.bert.embeddings.position_embeddings.weight.normal_(std=0.002)
            self.bert.embeddings.token_type_embeddings.weight.normal_(std=0.002)
            for name, weight in self.bert.encoder.named_parameters():
                if name.endswith("output.dense.weight"):  # of attention and of the feed-forward part: both end a branch
                    weight.zero_()

    def start_from(self, vectors: NDArray[np.float32], weights: NDArray[np.float32], random: float = 1.0) -> None:
        """Set token vectors to 0.7·(vectors + random·noise), at BERT's scale of 0.02, and token weights to `weights` (> 0)."""
        with torch.no_grad():
            words = self.bert.embeddings.word_embeddings.weight
            noise = torch.randn(words.shape) * random
            words.copy_(0.7 * 0.02 * (torch.from_numpy(vectors) + noise))
            self.gate.copy_(torch.from_numpy(np.log(np.expm1(weights))))

    def _add_noise(self, module: nn.Module, _: object, words: Tensor) -> Tensor | None:
        """Add the noise of training to token vectors (n, t, hidden); None leaves them as they are."""
        if not module.training or not self.noise:
            return None
        size = words.detach().square().mean(dim=-1, keepdim=True).sqrt()
        return words + self.noise * size * torch.randn_like(words)

    def keep_less(self) -> None:
        """Compute the layers' inner values again in the backward pass instead of keeping them (arXiv:1604.06174).

        Memory falls to one hidden state a layer, the price is one more forward pass; larger batches have more negatives.
        """
        kept = {"use_reentrant": False}
        self.bert.activation_checkpointing_enable(activation_checkpointing_kwargs=kept)

    def weights(self) -> Tensor:
        """Give every token's weight (V,), ≥ 0, exactly 0 for the special tokens; [UNK] stands for a word and keeps its own."""
        is_word = torch.ones_like(self.gate)
        is_word[:SPECIAL_IDS] = 0
        is_word[_UNKNOWN] = 1
        return functional.softplus(self.gate) * is_word

    def bag(self, ids: Tensor) -> Vectors:
        """Read `ids` (n, t), 0 = none, without layers, positions and segments: every token has one vector."""
        words = self.bert.embeddings.word_embeddings(ids)
        hidden = functional.layer_norm(words, words.shape[-1:], eps=self.bert.config.layer_norm_eps)
        return self._vectors(ids, hidden)

    def forward(self, ids: Tensor) -> Vectors:
        """Read `ids` (n, t), 0 = none, with all layers."""
        return self._vectors(ids, self._hidden(ids))

    def pooled(self, ids: Tensor) -> Tensor:
        """Give unit rows (n, hidden): the weighted mean of the last layer, what the projection makes sentence vectors of."""
        weighed = self._hidden(ids) * self.weights()[ids].unsqueeze(-1)
        return functional.normalize(weighed.float().sum(dim=1), dim=-1)

    def language(self, ids: Tensor, segments: Tensor, mask: Tensor | None, rows: Tensor, places: Tensor) -> Tensor:
        """Give the logits (p, V) of what stands, or comes next, at `places` of `rows` (p,); BERT's head with tied output.

        `ids`, `segments` (n, t); `mask` (n, 1, t, t) is added to the attention scores; None: every token sees every other.
        """
        hidden = self.bert(input_ids=ids, token_type_ids=segments, attention_mask=mask).last_hidden_state
        inner = self.transform_norm(functional.relu(self.transform(hidden[rows, places])))
        return functional.linear(inner, self.bert.embeddings.word_embeddings.weight) + self.output_bias

    def _hidden(self, ids: Tensor) -> Tensor:
        """Run all layers over `ids` (n, t), 0 = none; returns (n, t, hidden)."""
        states: Tensor = self.bert(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
        return states

    def _vectors(self, ids: Tensor, hidden: Tensor) -> Vectors:
        """Weigh and project `hidden` (n, t, hidden)."""
        tokens = (self.dense(hidden) * self.weights()[ids].unsqueeze(-1)).float()  # (n, t, dim)
        return Vectors(tokens, functional.normalize(tokens.sum(dim=1), dim=-1))

    @torch.no_grad()
    def keep_table(self) -> None:
        """Store the bag's token vectors as the static table (V, dim) that the transport rerank reads."""
        everything = torch.arange(self.gate.shape[0], device=self.gate.device).unsqueeze(1)
        is_training = self.training
        self.eval()  # without noise
        self.table.copy_(self.bag(everything).tokens[:, 0])
        self.train(is_training)
