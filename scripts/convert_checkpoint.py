"""Convert the original SimBERT or RoFormer-Sim files (TensorFlow) into a model folder: `python -m scripts.convert_checkpoint`.

    python -m scripts.convert_checkpoint chinese_simbert_L-12_H-768_A-12 simbert-base
    MOVERANK_MODEL=simbert-base moverank serve

The first folder holds bert_model.ckpt.index and .data-*, bert_config.json and vocab.txt, as Google's BERT and bert4keras write
them; TensorFlow is not needed. The second becomes a folder that transformers, sentence-transformers and this service load, for
vectors and for writing similar questions (the language-model head goes along). A BERT has a table of positions; a checkpoint
without one is read as a RoFormer, which turns queries and keys instead (kexue.fm/archives/8265).

The sentence vector is what the originals train: a linear layer (the "pooler", without tanh) on [CLS]; `--pooling cls` takes
[CLS] itself. Exit code 1 with one sentence where the files are not such a checkpoint, incomplete or damaged.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from transformers.utils import logging as transformers_logging

from models.encoder import Encoder
from models.unilm import Generator
from scripts.conversion.tensor_bundle import TensorBundle
from scripts.model_folder import bert_tokenizer, make_readable, write_dense, write_json, write_modules, write_tokenizer

Floats = NDArray[np.float32]

_ACTIVATIONS = {"gelu": "gelu", "gelu_erf": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
_LEFT_OUT = ("bert/pooler/", "cls/seq_relationship/")
"""The pooler becomes a module of its own; whether two sentences follow each other is of no use here."""
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_COPIED = ("attention_probs_dropout_prob", "hidden_dropout_prob", "initializer_range", "layer_norm_eps")


def names(layers: int, kind: str, is_projected: bool, has_head: bool) -> dict[str, str]:
    """Give transformers' name of each weight and TensorFlow's: "…/kernel" is (in, out) there and (out, in) here."""
    found = {
        f"{kind}.embeddings.word_embeddings.weight": "bert/embeddings/word_embeddings",
        f"{kind}.embeddings.token_type_embeddings.weight": "bert/embeddings/token_type_embeddings",
    }
    if kind == "bert":
        found["bert.embeddings.position_embeddings.weight"] = "bert/embeddings/position_embeddings"

    def norm(ours: str, theirs: str) -> None:
        found[f"{ours}.weight"], found[f"{ours}.bias"] = f"{theirs}/gamma", f"{theirs}/beta"

    def dense(ours: str, theirs: str) -> None:
        found[f"{ours}.weight"], found[f"{ours}.bias"] = f"{theirs}/kernel", f"{theirs}/bias"

    norm(f"{kind}.embeddings.LayerNorm", "bert/embeddings/LayerNorm")
    if is_projected:
        dense(f"{kind}.embeddings_project", "bert/encoder/embedding_hidden_mapping_in")
    for layer in range(layers):
        ours, theirs = f"{kind}.encoder.layer.{layer}", f"bert/encoder/layer_{layer}"
        for part in ("attention/self/query", "attention/self/key", "attention/self/value", "attention/output/dense"):
            dense(f"{ours}.{part.replace('/', '.')}", f"{theirs}/{part}")
        for part in ("intermediate/dense", "output/dense"):
            dense(f"{ours}.{part.replace('/', '.')}", f"{theirs}/{part}")
        for part in ("attention/output/LayerNorm", "output/LayerNorm"):
            norm(f"{ours}.{part.replace('/', '.')}", f"{theirs}/{part}")
    if has_head:
        dense("cls.predictions.transform.dense", "cls/predictions/transform/dense")
        norm("cls.predictions.transform.LayerNorm", "cls/predictions/transform/LayerNorm")
        found["cls.predictions.bias"] = "cls/predictions/output_bias"
    return found


def read_weights(bundle: TensorBundle, layers: int) -> tuple[str, dict[str, Floats]]:
    """Read all weights of a BERT or RoFormer under transformers' names; returns the kind and the weights.

    Raises:
        ValueError: weights are missing, or there are some of another architecture; the first ones are named.
    """
    kind = "bert" if "bert/embeddings/position_embeddings" in bundle.entries else "roformer"
    is_projected = "bert/encoder/embedding_hidden_mapping_in/kernel" in bundle.entries
    if is_projected and kind == "bert":
        raise ValueError(f"{bundle.prefix} is an ALBERT-like BERT with small embeddings, which is not supported")
    wanted = names(layers, kind, is_projected, "cls/predictions/output_bias" in bundle.entries)
    missing = sorted(set(wanted.values()) - bundle.entries.keys())
    if missing:
        raise ValueError(f"{bundle.prefix} is no {kind} of {layers} layers: it has no {', '.join(missing[:3])}")
    states = ("adam_m", "adam_v", "Adam", "Adam_1")  # of the optimiser
    other = sorted(
        name
        for name in bundle.entries.keys() - set(wanted.values())
        if name.startswith(("bert/", "cls/")) and not name.startswith(_LEFT_OUT) and not name.endswith(states)
    )
    if other:
        raise ValueError(f"{bundle.prefix} is no {kind} of {layers} layers: it also has {', '.join(other[:3])}")
    weights = {ours: _read(bundle, theirs) for ours, theirs in wanted.items()}
    return kind, weights


def _read(bundle: TensorBundle, name: str) -> Floats:
    """Read one weight in single precision, a kernel turned as torch has it."""
    numbers = bundle.read(name).astype(np.float32)
    return np.ascontiguousarray(numbers.T) if name.endswith("/kernel") else numbers


def read_vocabulary(file: Path, rows: int) -> dict[str, int]:
    """Read vocab.txt, one token a line, which must fit a table of `rows` rows.

    Raises:
        ValueError: another number of tokens, a token twice, no special tokens, or words that need a word segmenter.
    """
    tokens = file.read_text(encoding="utf-8").splitlines()
    vocabulary = {token: row for row, token in enumerate(tokens)}
    if len(tokens) != rows:
        raise ValueError(f"{file} has {len(tokens)} tokens, but the checkpoint has vectors of {rows}")
    if len(vocabulary) != len(tokens):
        twice = next(token for row, token in enumerate(tokens) if vocabulary[token] != row)
        raise ValueError(f"{file} has the token {twice!r} twice")
    absent = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in vocabulary]
    if absent:
        raise ValueError(f"{file} has no {', '.join(absent)}: it is no vocabulary of a BERT")
    words = [token for token in tokens if len(token) > 1 and all("一" <= character <= "鿿" for character in token)]
    if words:
        raise ValueError(
            f"{file} has words of several characters ({', '.join(words[:3])}): such a RoFormer needs a word segmenter; "
            "take the checkpoint whose name has -char"
        )
    return vocabulary


def build_tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    """Make Google's tokenizer: lower case, accents off, characters of Chinese apart, word pieces."""
    return bert_tokenizer(vocabulary, BertNormalizer(lowercase=True))


def describe(config: dict[str, Any], kind: str, weights: dict[str, Floats]) -> dict[str, Any]:
    """Make transformers' config.json of bert_config.json; what the weights say themselves is taken from them.

    Raises:
        ValueError: a size is missing or does not fit the weights, or the activation is not known here.
    """
    activation = str(config.get("hidden_act", "gelu"))
    if activation not in _ACTIVATIONS:
        raise ValueError(f"the activation {activation!r} is not known here: {', '.join(_ACTIVATIONS)}")
    embeddings = f"{kind}.embeddings"
    words, segments = (weights[f"{embeddings}.{name}_embeddings.weight"] for name in ("word", "token_type"))
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    shape = weights[f"{kind}.encoder.layer.0.intermediate.dense.weight"].shape
    if shape != (inner, hidden):
        raise ValueError(f"bert_config.json says {hidden} and {inner} dimensions, the checkpoint has {shape[::-1]}")
    if hidden % int(config["num_attention_heads"]):
        raise ValueError(f"{hidden} dimensions cannot be shared by {config['num_attention_heads']} heads")
    positions = (
        len(weights[f"{embeddings}.position_embeddings.weight"])
        if kind == "bert"
        else int(config.get("max_position_embeddings", 512))
    )
    has_head = "cls.predictions.bias" in weights
    name = {"bert": "Bert", "roformer": "RoFormer"}[kind]
    return {
        "model_type": kind,
        "architectures": [f"{name}{'ForMaskedLM' if has_head else 'Model'}"],
        **{size: int(config[size]) for size in _SIZES},
        **{key: config[key] for key in _COPIED if key in config},
        **({} if kind == "bert" else {"embedding_size": words.shape[1], "rotary_value": False}),
        "hidden_act": _ACTIVATIONS[activation],
        "vocab_size": len(words),
        "type_vocab_size": len(segments),
        "max_position_embeddings": positions,
        "pad_token_id": 0,
        "dtype": "float32",
    }


def convert(
    checkpoint: Path, config_file: Path, vocabulary_file: Path, out: Path, pooling: str = "pooler", half: bool = False
) -> str:
    """Write the model folder `out` and try both readings of it; returns a sentence on what it is.

    Raises:
        ValueError, OSError: the files are not such a checkpoint, incomplete, damaged, or cannot be read.
    """
    config = json.loads(config_file.read_text(encoding="utf-8"))
    absent = [size for size in _SIZES if size not in config]
    if absent:
        raise ValueError(f"{config_file} does not say {', '.join(absent)}")
    bundle = TensorBundle(checkpoint)
    kind, weights = read_weights(bundle, int(config["num_hidden_layers"]))
    described = describe(config, kind, weights)
    vocabulary = read_vocabulary(vocabulary_file, described["vocab_size"])
    if vocabulary["[PAD]"] != 0:
        raise ValueError(f"{vocabulary_file}: [PAD] is token {vocabulary['[PAD]']}, not 0")
    has_pooler = "bert/pooler/dense/kernel" in bundle.entries
    if pooling == "pooler" and not has_pooler:
        raise ValueError(f"{checkpoint} has no bert/pooler/dense: use --pooling cls")
    out.mkdir(parents=True, exist_ok=True)
    stored = {name: numbers.astype(np.float16) if half else numbers for name, numbers in weights.items()}
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    write_json(out / "config.json", described)
    limit = described["max_position_embeddings"]
    write_tokenizer(build_tokenizer(vocabulary), out, limit)
    kinds = ["Transformer", "Pooling", *(["Dense"] if pooling == "pooler" else []), "Normalize"]
    places = write_modules(out, kinds, limit, {"add_pooling_layer": False} if kind == "bert" else {})
    size = described["hidden_size"]
    write_json(places[1] / "config.json", {"embedding_dimension": size, "pooling_mode": "cls", "include_prompt": True})
    if pooling == "pooler":
        write_dense(places[2], _read(bundle, "bert/pooler/dense/kernel"), _read(bundle, "bert/pooler/dense/bias"))
    make_readable(out)
    encoder = Encoder(out, "cpu")
    encoder.encode(encoder.tokenize(["如何还款"]))
    writes = "cls.predictions.bias" in weights
    if writes:
        Generator(out, "cpu")
    purposes = "vectors and paraphrases" if writes else "vectors (without cls/predictions it cannot write)"
    return (
        f"{out}: {kind}, {described['num_hidden_layers']} layers of {size}, {len(vocabulary):,} tokens, for {purposes}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command = argparse.ArgumentParser(
        prog="python -m scripts.convert_checkpoint", description=(__doc__ or "").split("\n\n")[0]
    )
    command.add_argument("folder", type=Path, help="holds *.ckpt.index, *.ckpt.data-*, bert_config.json, vocab.txt")
    command.add_argument("out", type=Path, help="model folder to write")
    command.add_argument("--checkpoint", help="its prefix in the folder (default: that of the only .index)")
    command.add_argument("--config", default="bert_config.json")
    command.add_argument("--vocabulary", default="vocab.txt")
    command.add_argument("--pooling", choices=("pooler", "cls"), default="pooler", help="the sentence vector")
    command.add_argument("--half", action="store_true", help="write half precision: half the size")
    choices = command.parse_args(arguments)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it would list the weights that each of the two readings leaves out
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        found = [file.name.removesuffix(".index") for file in choices.folder.glob("*.index")]
        if choices.checkpoint is None and len(found) != 1:
            raise ValueError(f"{choices.folder} has {len(found)} files *.index; name one with --checkpoint PREFIX")
        print(
            convert(
                choices.folder / (choices.checkpoint or found[0]),
                choices.folder / choices.config,
                choices.folder / choices.vocabulary,
                choices.out,
                choices.pooling,
                choices.half,
            )
        )
    except (ValueError, OSError) as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
