"""The network of the lookup: a BERT-type encoder folder grown by a language-model head and the stand-in tokens.

UniLM (arXiv:1905.03197): one network, one mask. The question is read both ways; every token of the key sees the question and
the key up to itself; the question never sees the key.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForMaskedLM

from models.encoder_folder import read_encoder_folder
from models.fallback import STAND_IN_TOKENS
from scripts.training.language import unilm_mask
from scripts.training.network import SPECIAL_IDS  # its import registers attention that is fast backwards on a CPU

PART_WEIGHTS = (1.0, 1.0, 0.3)
"""Weights of the losses of subject, predicate and meaning: no question says the meaning, it can only be guessed."""


def grown_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of `folder` and give its vocabulary the stand-in tokens, at its end, where it lacks them."""
    backend: Tokenizer = read_encoder_folder(folder).load_tokenizer()
    described = json.loads(backend.to_str())
    vocabulary = described["model"]["vocab"]
    if not isinstance(vocabulary, dict) or described["model"].get("type") != "WordPiece":
        raise ValueError(f"{folder}: the lookup needs a WordPiece vocabulary, as BERT's is")
    for token in STAND_IN_TOKENS:
        vocabulary.setdefault(token, len(vocabulary))
    return Tokenizer.from_str(json.dumps(described, ensure_ascii=False))


def grown_network(folder: Path, tokens: int, is_random: bool = False) -> Any:
    """Load the BERT-type network of `folder` with a language-model head, new where it has none, and `tokens` word vectors.

    With `is_random` only the shape is the folder's, and torch's generator draws all weights.
    """
    model: Any = AutoModelForMaskedLM
    if is_random:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        network = model.from_config(config, dtype=torch.float32, trust_remote_code=False)
    else:
        network = model.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    if network.config.model_type == "bert":
        network.config._attn_implementation = "sdpa_full_precision"
    before = network.get_input_embeddings().weight.detach().clone()
    if len(before) < tokens:
        network.resize_token_embeddings(tokens, mean_resizing=False)
        words = network.get_input_embeddings().weight
        with torch.no_grad():
            spread = before[SPECIAL_IDS:].std(dim=0)
            words[len(before) :] = before[SPECIAL_IDS:].mean(dim=0) + spread * torch.randn(
                tokens - len(before), words.shape[1]
            )
    return network.train()


def losses(network: Any, ids: Tensor, segments: Tensor, labels: Tensor, parts: Tensor) -> dict[str, Tensor]:
    """Compute the mean cross-entropy of each part of the keys, their weighted mean "loss", and the share of keys' subjects
    and predicates of which every token is the most likely one ("subject", "predicate").

    All (n, t), as `scripts.lookup_training.batches.Batch` has them. The head runs only where a token of a key follows.
    """
    prompts = ((ids != 0) & (segments == 0)).sum(dim=1)
    mask = unilm_mask(prompts, ids.shape[1])
    hidden = network.base_model(input_ids=ids, token_type_ids=segments, attention_mask=mask).last_hidden_state
    rows, columns = torch.nonzero(labels != -100, as_tuple=True)
    logits = network.cls(hidden[rows, columns]).float()  # (targets, V)
    wanted, part = labels[rows, columns], parts[rows, columns]
    each = functional.cross_entropy(logits, wanted, reduction="none")
    weights = torch.tensor(PART_WEIGHTS, device=ids.device)[part]
    found = {"loss": (each * weights).sum() / weights.sum()}
    wrong = (logits.detach().argmax(dim=1) != wanted).float()
    for number, name in enumerate(("subject", "predicate", "meaning")):
        inside = part == number
        found[f"{name}_loss"] = each.detach()[inside].sum() / inside.sum().clamp_min(1)
        faults = torch.zeros(len(ids), device=ids.device).index_add(0, rows[inside], wrong[inside])
        found[name] = (faults == 0).float().mean()
    return found
