"""A model folder on disk, read and checked: network, tokenizer, pooling, fingerprint.

Any encoder that transformers' ``AutoModel`` loads will do. How its hidden states become one vector stands in the folder where
sentence-transformers wrote it (``modules.json`` and the folders it names: Transformer, WordWeights, Pooling, Dense, Normalize);
a plain checkpoint says nothing, and the caller's ``pooling`` decides. ``moverank.json``, when there, holds what this service
adds: which token vectors the rerank uses, and the measured default weights.

Only safetensors are read and no code of the folder is run.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

Pooling = Literal["cls", "mean", "pooler"]
TokenVectors = Literal["static", "projected", "hidden"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_CARD_OF_VECTORS = ("token_vectors", "static_table", "max_tokens")

DEFAULT_MAX_TOKENS = 512
"""Used where neither the card, the folder nor the position table says how long a text may be."""


@dataclass(frozen=True)
class DenseLayer:
    """A linear layer after pooling: ``activation(weight @ x + bias)``."""

    weight: NDArray[np.float32]  # (out, in)
    bias: NDArray[np.float32] | None  # (out,)
    activation: str  # "Identity" or "Tanh"


@dataclass(frozen=True)
class EncoderFolder:
    """What a model folder says about turning texts into vectors."""

    path: Path
    fingerprint: str
    card: dict[str, Any]
    pooling: Pooling
    word_weights: NDArray[np.float32] | None  # (V,), a factor for each token id
    dense: tuple[DenseLayer, ...]
    max_tokens: int
    token_vectors: TokenVectors

    def load_network(self) -> PreTrainedModel:
        """Load the transformer in float32, in evaluation mode, on the CPU; a language-model head, if any, is left out.

        Raises:
            ValueError: weights are missing or cannot be read.
        """
        extra = {"add_pooling_layer": False} if self._has_optional_pooler() else {}
        with _loading(self.path, "weights"), quiet_loading():
            network, report = AutoModel.from_pretrained(
                self.path,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                **extra,
            )
        unneeded = () if self.pooling == "pooler" else ("pooler.",)
        missing = [
            name for name in sorted(report["missing_keys"]) if not name.startswith(unneeded) and name != COMPUTED
        ]
        if missing:
            raise ValueError(f"{self.path} lacks weights of the network: {', '.join(missing[:3])}")
        return cast(PreTrainedModel, network.eval())

    def load_tokenizer(self) -> Any:
        """Load the fast tokenizer's backend (a ``tokenizers.Tokenizer``) with truncation at ``max_tokens``."""
        if not any((self.path / name).is_file() for name in TOKENIZER_FILES):  # transformers would make an empty one
            raise ValueError(f"{self.path} has no tokenizer: none of {', '.join(TOKENIZER_FILES)}")
        with _loading(self.path, "tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)
            backend = tokenizer.backend_tokenizer
        backend.no_padding()
        backend.enable_truncation(self.max_tokens)
        return backend

    def static_table(self, network: nn.Module | None = None) -> NDArray[np.float32] | None:
        """Return the (V, d) table of static token vectors, or None where token vectors are contextual.

        It is the tensor ``table`` of the file that the card names as ``static_table``; without one, the word embeddings times
        the word weights.
        """
        if self.token_vectors != "static":
            return None
        name = self.card.get("static_table")
        if name is not None:
            return _read_tensor(self.path / str(name), "table")
        embeddings = cast(PreTrainedModel, network or self.load_network()).get_input_embeddings()
        table = cast(torch.Tensor, embeddings.weight).detach().numpy().astype(np.float32)
        return table if self.word_weights is None else table * self.word_weights[: len(table), None]

    def _has_optional_pooler(self) -> bool:
        architecture = AutoConfig.from_pretrained(self.path, local_files_only=True).model_type
        return self.pooling != "pooler" and architecture in {"bert", "roberta", "xlm-roberta", "camembert"}


def read_encoder_folder(path: Path, pooling: Pooling | None = None) -> EncoderFolder:
    """Read the descriptions in a model folder.

    Raises:
        ValueError: the folder is no encoder folder, has no safetensors, or uses a module that is not known here.
    """
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} is not a model folder: it has no config.json")
    if not any(path.glob("*.safetensors")):
        raise ValueError(f"{path} has no .safetensors file; only safetensors are loaded, convert the checkpoint first")
    card = _read_json(path / "moverank.json") if (path / "moverank.json").is_file() else {}
    if not isinstance(card, dict):
        raise ValueError(f"{path}/moverank.json is not an object")
    declared, word_weights, dense, declared_length = _read_modules(path)
    chosen = declared or pooling or cast(Pooling, card.get("pooling", "cls"))
    if chosen not in get_args(Pooling):
        raise ValueError(f"pooling {chosen!r} is not one of {', '.join(get_args(Pooling))}")
    token_vectors = card.get("token_vectors", "projected" if dense and chosen == "mean" else "hidden")
    if token_vectors not in get_args(TokenVectors):
        raise ValueError(
            f"{path}/moverank.json: token_vectors {token_vectors!r} is not one of {', '.join(get_args(TokenVectors))}"
        )
    config = _read_json(path / "config.json")
    lengths = [card.get("max_tokens"), declared_length, _positions(config)]
    max_tokens = min(int(length) for length in lengths if length) if any(lengths) else DEFAULT_MAX_TOKENS
    return EncoderFolder(
        path, fingerprint(path, chosen, card), card, chosen, word_weights, dense, max_tokens, token_vectors
    )


def fingerprint(path: Path, pooling: str, card: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits that change with whatever the vectors depend on, and not with the search's defaults."""
    digest = hashlib.sha256(json.dumps([pooling, *(card.get(key) for key in _CARD_OF_VECTORS)]).encode())
    for file in sorted(path.rglob("*")):
        if (
            file.suffix in {".json", ".safetensors", ".txt", ".model"}
            and file.is_file()
            and file.name != "moverank.json"
        ):
            digest.update(str(file.relative_to(path)).encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


@contextmanager
def _loading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises about broken files into a ValueError that names the folder."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"the {what} of {path} cannot be loaded: {error or type(error).__name__}") from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from reporting the weights that a reading leaves out."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)


COMPUTED = "encoder.embed_positions.weight"
"""RoFormer's sines and cosines, which no file needs to hold."""


def _read_modules(path: Path) -> tuple[Pooling | None, NDArray[np.float32] | None, tuple[DenseLayer, ...], int | None]:
    """Read sentence-transformers' module list: pooling, word weights, dense layers, length limit."""
    if not (path / "modules.json").is_file():
        return None, None, (), None
    pooling: Pooling | None = None
    weights: NDArray[np.float32] | None = None
    dense: list[DenseLayer] = []
    limit: int | None = None
    for module in _read_json(path / "modules.json"):
        kind = str(module["type"]).rsplit(".", 1)[-1]
        folder = path / str(module["path"])
        if kind == "Transformer":
            described = folder / "sentence_bert_config.json"
            limit = _read_json(described).get("max_seq_length") if described.is_file() else None
        elif kind == "WordWeights":
            weights = _read_tensor(folder / "model.safetensors", "emb_layer.weight")[:, 0]
        elif kind == "Pooling":
            pooling = _pooling_mode(_read_json(folder / "config.json"), folder)
        elif kind == "Dense":
            dense.append(_read_dense(folder))
        elif kind != "Normalize":
            raise ValueError(f"{path}/modules.json names the module {kind}, which is not known here")
    if pooling is None:
        raise ValueError(f"{path}/modules.json has no Pooling module")
    if weights is not None and pooling != "mean":
        raise ValueError(f"{path}/modules.json: WordWeights need mean pooling, not {pooling}")
    return pooling, weights, tuple(dense), limit


def _pooling_mode(config: dict[str, Any], folder: Path) -> Pooling:
    mode = config.get("pooling_mode")
    if isinstance(mode, list) and len(mode) == 1:
        mode = mode[0]
    if mode is None:
        modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        names = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
        mode = names.get(modes[0]) if len(modes) == 1 else None
    if mode not in ("cls", "mean"):
        raise ValueError(f"{folder}: this pooling is not supported; cls and mean are")
    return cast(Pooling, mode)


def _read_dense(folder: Path) -> DenseLayer:
    config = _read_json(folder / "config.json")
    activation = str(config.get("activation_function", "Tanh")).rsplit(".", 1)[-1]
    if activation not in ("Identity", "Tanh"):
        raise ValueError(f"{folder}: the activation {activation} is not known here; Identity and Tanh are")
    weight = _read_tensor(folder / "model.safetensors", "linear.weight")
    bias = _read_tensor(folder / "model.safetensors", "linear.bias") if config.get("bias", True) else None
    return DenseLayer(weight, bias, activation)


def _read_tensor(file: Path, name: str) -> NDArray[np.float32]:
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    with safe_open(str(file), framework="np") as tensors:
        if name not in tensors.keys():  # noqa: SIM118 - a safetensors handle is no mapping
            raise ValueError(f"{file} has no tensor {name!r}")
        return cast(NDArray[np.float32], tensors.get_tensor(name).astype(np.float32))


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error


def _positions(config: dict[str, Any]) -> int | None:
    """How many tokens the position table holds; RoBERTa-like tables start after the padding id."""
    positions = config.get("max_position_embeddings")
    if positions is None:
        return None
    offset = (
        int(config.get("pad_token_id") or 0) + 1
        if config.get("model_type") in {"roberta", "xlm-roberta", "camembert"}
        else 0
    )
    return int(positions) - offset
