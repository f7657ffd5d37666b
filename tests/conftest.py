"""Tiny real things that the tests share: encoder folders small enough to make in a second."""

import json
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, BertModel, RoFormerConfig, RoFormerForMaskedLM

from models import bounds
from models.encoder import Encoder
from service.runtime import Runtime
from service.settings import Settings

# The networks here are tiny, and tests run side by side: more threads would only wait for each other.
torch.set_num_threads(1)

hypothesis.settings.register_profile("moverank", deadline=None, derandomize=True)
hypothesis.settings.load_profile("moverank")


@pytest.fixture(scope="module", params=["few", "many"])
def few_or_many(request: pytest.FixtureRequest) -> Iterator[None]:
    """Bound texts of few tokens as they are bounded, and as if they had many."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "many":
            patch.setattr(bounds, "SMALL_COSTS", 0)
        yield


CHARACTERS = (
    "花呗借怎么如何还款银行卡信用提额度办理注销密码忘记了吗我想要查询快递物流"
    "退货换成绩选课宿舍图书馆的，。？0123456789abcdefghij"
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_tokenizer(folder: Path) -> int:
    """Write a tokenizer of single characters; return the size of its vocabulary."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *dict.fromkeys(CHARACTERS)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **names}))
    return len(vocabulary)


def write_bert(folder: Path, **changes: int) -> None:
    """Write a BERT folder with random weights: 2 layers of 32 dimensions."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    config = BertConfig(vocab_size=write_tokenizer(folder), initializer_range=0.3, **{**sizes, **changes})
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def write_generator(folder: Path, kind: str = "bert", seed: int = 0) -> None:
    """Write a BERT or RoFormer folder with its language-model head, random weights: 2 layers of 32 dimensions."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    shape = {**sizes, "vocab_size": write_tokenizer(folder), "max_position_embeddings": 64, "initializer_range": 0.3}
    torch.manual_seed(seed)
    network = (
        BertForMaskedLM(BertConfig(**shape))
        if kind == "bert"
        else RoFormerForMaskedLM(RoFormerConfig(**shape, embedding_size=24, rotary_value=seed > 0))
    )
    network.save_pretrained(folder)


@pytest.fixture(scope="session", name="generator_folder")
def _generator_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that can write."""
    folder = tmp_path_factory.mktemp("models") / "generator"
    write_generator(folder)
    return folder


@pytest.fixture(scope="session", name="bert_folder")
def _bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain checkpoint: no pooling, no card."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    write_bert(folder)
    return folder


@pytest.fixture(scope="session", name="model_folder")
def _model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as this project trains them: word weights, mean, dense, a card with static token vectors."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("models") / "mini"
    write_bert(folder)
    generator = np.random.default_rng(0)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    weights = generator.uniform(0.5, 2.0, (len(vocabulary), 1)).astype(np.float32)
    weights[: len(SPECIAL)] = 0.0
    weights[1] = 1.0  # [UNK] is a token like others
    (folder / "1_WordWeights").mkdir()
    save_file({"emb_layer.weight": weights}, folder / "1_WordWeights" / "model.safetensors")
    (folder / "1_WordWeights" / "config.json").write_text(
        json.dumps(
            {
                "vocab": list(vocabulary),
                "word_weights": {token: float(weights[i, 0]) for token, i in vocabulary.items()},
                "unknown_word_weight": 1.0,
            }
        )
    )
    (folder / "2_Pooling").mkdir()
    (folder / "2_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode": "mean"})
    )
    (folder / "3_Dense").mkdir()
    dense = (generator.standard_normal((24, 32)) / 6).astype(np.float32)
    save_file({"linear.weight": dense}, folder / "3_Dense" / "model.safetensors")
    identity = "torch.nn.modules.linear.Identity"
    (folder / "3_Dense" / "config.json").write_text(
        json.dumps({"in_features": 32, "out_features": 24, "bias": False, "activation_function": identity})
    )
    kinds = ("Transformer", "WordWeights", "Pooling", "Dense", "Normalize")
    places = ("", "1_WordWeights", "2_Pooling", "3_Dense", "4_Normalize")
    (folder / "4_Normalize").mkdir()
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"}
                for i, (kind, place) in enumerate(zip(kinds, places, strict=True))
            ]
        )
    )
    card = {"token_vectors": "static", "weight": 0.6, "lexical_weight": 0.3, "retrieve": "hybrid", "max_tokens": 48}
    (folder / "moverank.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="session", name="encoder")
def _encoder(model_folder: Path) -> Encoder:
    """The tiny model in torch on the CPU."""
    return Encoder(model_folder, "cpu")


@pytest.fixture(name="settings")
def _settings(tmp_path: Path, model_folder: Path) -> Settings:
    """Settings of a service with the tiny model and an empty data folder."""
    return Settings(
        data_dir=tmp_path / "data",
        model=model_folder,
        lookup_model=tmp_path / "no-lookup",
        device="cpu",
        runtime="torch",
        sample=False,
        threads=1,
    )


@pytest.fixture(name="runtime")
def _runtime(settings: Settings) -> Iterator[Runtime]:
    """A running service below HTTP."""
    runtime = Runtime(settings)
    yield runtime
    runtime.close()
