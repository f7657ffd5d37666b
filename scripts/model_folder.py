"""Files of a model folder that transformers and sentence-transformers load too: tokenizer, list of modules, JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

SPECIALS = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def write_json(file: Path, content: object) -> None:
    """Write `content` as indented JSON; missing folders are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def bert_tokenizer(vocabulary: dict[str, int], normalizer: Normalizer) -> Tokenizer:
    """Make BERT's tokenizer of a vocabulary: word pieces, [CLS] and [SEP] around a text or a pair."""
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, max_tokens: int) -> None:
    """Write `tokenizer`, which cuts texts to `max_tokens`, as AutoTokenizer reads it.

    Only special tokens of its vocabulary are named: one that is not there would get an id beyond the network's table.
    """
    tokenizer.enable_truncation(max_tokens)
    tokenizer.save(str(folder / "tokenizer.json"))
    described: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        "do_lower_case": True,
    }
    described |= {
        f"{name}_token": token for name, token in SPECIALS.items() if tokenizer.token_to_id(token) is not None
    }
    described["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    write_json(folder / "tokenizer_config.json", described)


def write_modules(folder: Path, kinds: Sequence[str], max_tokens: int, model_args: Mapping[str, object]) -> list[Path]:
    """Write what a sentence-transformers folder says of itself: the modules `kinds`, the first of them "Transformer".

    Returns the folder of each module; `model_args` go to AutoModel.
    """
    places = [f"{place}_{kind}" if place else "" for place, kind in enumerate(kinds)]
    modules = [
        {"idx": idx, "name": str(idx), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for idx, (place, kind) in enumerate(zip(places, kinds, strict=True))
    ]
    write_json(folder / "modules.json", modules)
    loading = {"max_seq_length": max_tokens, "do_lower_case": False, "model_args": model_args}
    write_json(folder / "sentence_bert_config.json", loading)
    described = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", described)
    for place, kind in zip(places, kinds, strict=True):
        if kind == "Normalize":
            write_json(folder / place / "config.json", {})
    return [folder / place for place in places]


def write_dense(folder: Path, weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None) -> None:
    """Write a linear layer `weight` (out, in), `bias` (out,) without activation as a Dense module."""
    dense = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write_json(folder / "config.json", dense)
    tensors = {"linear.weight": np.ascontiguousarray(weight)} | ({} if bias is None else {"linear.bias": bias})
    save_file(tensors, folder / "model.safetensors")


def make_readable(folder: Path) -> None:
    """Let everybody read the weights: safetensors makes them private, but a container serves them as another user."""
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
