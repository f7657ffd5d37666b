"""The network of a BERT-type or RoFormer folder with a language-model head, computed layer by layer with any attention.

transformers' own cache cannot hold rows of different length; here whoever calls decides what a token attends to, and keeps the
keys and values. A test keeps both equal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForMaskedLM
from transformers.activations import ACT2FN

from models.encoder_folder import quiet_loading

KINDS = ("bert", "roformer")

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attention of one layer: its number, queries, keys and values (n, heads, d) of n tokens -> contexts (n, heads, d)."""


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer, queries, keys and values in one matrix."""

    inward: tuple[Tensor, Tensor]
    outward: tuple[Tensor, Tensor]
    attention_norm: tuple[Tensor, Tensor]
    inner: tuple[Tensor, Tensor]
    outer: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor]


class UniLmNetwork:
    """Weights of a folder on a device, in float32. `output` is the matrix (V, e) and bias (V,) that features are read with."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Take the weights out of transformers' network.

        Raises:
            ValueError: the folder cannot be loaded, is of another kind or has no language-model head.
        """
        network = _load(folder)
        self.device = device
        config, inside, head = network.config, network.base_model, network.cls.predictions
        self.heads, self.hidden_size = int(config.num_attention_heads), int(config.hidden_size)
        self.positions = int(config.max_position_embeddings)
        self._epsilon = float(config.layer_norm_eps)
        self._activation: Callable[[Tensor], Tensor] = ACT2FN[config.hidden_act]

        def put(tensor: Tensor) -> Tensor:
            return tensor.detach().to(self.device).contiguous()

        def pair(module: Any) -> tuple[Tensor, Tensor]:
            return put(module.weight), put(module.bias)

        embeddings = inside.embeddings
        self.words = put(embeddings.word_embeddings.weight)
        self._segments = put(embeddings.token_type_embeddings.weight)
        self._embedding_norm = pair(embeddings.LayerNorm)
        self._project = pair(inside.embeddings_project) if hasattr(inside, "embeddings_project") else None
        is_rotary = config.model_type == "roformer"
        self._places = None if is_rotary else put(embeddings.position_embeddings.weight)
        self._rotations = (
            put(inside.encoder.embed_positions.weight) if is_rotary else None
        )  # (positions, d) sines, cosines
        self._rotates_values = bool(getattr(config, "rotary_value", False))
        self._layers = []
        for layer in inside.encoder.layer:
            parts = [getattr(layer.attention.self, name) for name in ("query", "key", "value")]
            inward = (put(torch.cat([one.weight for one in parts])), put(torch.cat([one.bias for one in parts])))
            outward, inner, outer = layer.attention.output, layer.intermediate, layer.output
            self._layers.append(
                _Layer(
                    inward,
                    pair(outward.dense),
                    pair(outward.LayerNorm),
                    pair(inner.dense),
                    pair(outer.dense),
                    pair(outer.LayerNorm),
                )
            )
        self._head, self._head_norm = pair(head.transform.dense), pair(head.transform.LayerNorm)
        self.output = pair(head.decoder)  # (V, e), (V,)

    def features(self, hidden: Tensor) -> Tensor:
        """Apply the head's own layer to hidden states (..., hidden); the output matrix reads the result (..., e)."""
        return self._normed(self._activation(functional.linear(hidden, *self._head)), self._head_norm)

    def _normed(self, values: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        return functional.layer_norm(values, values.shape[-1:], *norm, self._epsilon)

    def forward(self, ids: NDArray[np.int64], positions: NDArray[np.int64], segment: int, attend: Attend) -> Tensor:
        """Run the layers over n tokens (n,) at `positions` (n,), all of one segment; returns (n, hidden).

        Whose tokens they are is for `attend` to know: rows of different length are put behind each other, not padded.
        """
        places = torch.from_numpy(positions.copy()).to(self.device)
        hidden = self.words[torch.from_numpy(ids).to(self.device)] + self._segments[segment]
        if self._places is not None:
            hidden = hidden + self._places[places]
        hidden = self._normed(hidden, self._embedding_norm)
        if self._project is not None:
            hidden = functional.linear(hidden, *self._project)
        turn = None if self._rotations is None else self._rotations[places][:, None]  # (n, 1, d)
        count = len(ids)
        for number, layer in enumerate(self._layers):
            inward = functional.linear(hidden, *layer.inward).view(count, 3, self.heads, -1)
            queries, keys, values = inward.unbind(1)  # (n, heads, d)
            if turn is not None:
                queries, keys = _rotated(queries, turn), _rotated(keys, turn)
                values = _rotated(values, turn) if self._rotates_values else values
            context = attend(number, queries, keys, values).reshape(count, -1)
            hidden = self._normed(hidden + functional.linear(context, *layer.outward), layer.attention_norm)
            inner = self._activation(functional.linear(hidden, *layer.inner))
            hidden = self._normed(hidden + functional.linear(inner, *layer.outer), layer.norm)
        return hidden


def _rotated(vectors: Tensor, turn: Tensor) -> Tensor:
    """Rotate pairs of neighbouring dimensions of vectors (n, heads, d) by the angles whose sines and cosines `turn` has.

    Rotary positions: kexue.fm/archives/8265, arXiv:2104.09864.
    """
    sines, cosines = (part.repeat_interleave(2, dim=-1) for part in turn.chunk(2, dim=-1))
    crossed = torch.stack([-vectors[..., 1::2], vectors[..., ::2]], dim=-1).reshape_as(vectors)
    return vectors * cosines + crossed * sines


def _load(folder: Path) -> Any:
    """Load transformers' network; raises ValueError where it is of another kind or lacks its language-model head."""
    try:
        with quiet_loading():
            network, report = AutoModelForMaskedLM.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"the weights of {folder} cannot be loaded: {error}") from error
    if network.config.model_type not in KINDS:
        raise ValueError(f"{folder} is a {network.config.model_type}; the generator reads {' and '.join(KINDS)}")
    missing = sorted(name for name in report["missing_keys"] if "decoder" not in name and "embed_positions" not in name)
    if missing:
        raise ValueError(f"{folder} has no language-model head: {', '.join(missing[:3])} missing")
    return network.eval()
