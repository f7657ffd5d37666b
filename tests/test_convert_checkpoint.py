"""Checkpoints in TensorFlow's format become folders that give what the numbers mean, by a plain NumPy forward of the papers."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from scipy.special import erf, log_softmax, softmax
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForMaskedLM

from bundle_writer import write_bundle
from live_service import client_of
from models.encoder import Encoder
from models.unilm import Generator
from scripts.convert_checkpoint import main
from service.settings import Settings

Floats = NDArray[np.float64]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"怎么还款花呗如何办信用卡密码忘了吗", "log", "##in", "。", "？"]
LAYERS, HIDDEN, HEADS, INNER, POSITIONS = 2, 16, 2, 24, 20
PREFIXES = ("attention/self/query", "attention/self/key", "attention/self/value", "attention/output/dense")


def arrays(kind: str, small: int = HIDDEN) -> dict[str, NDArray[np.float32]]:
    """Make the weights of a tiny BERT or RoFormer under Google's names, with the optimiser's state that nobody needs."""
    random = np.random.default_rng(5)
    found: dict[str, NDArray[Any]] = {}

    def put(name: str, *shape: int, mean: float = 0.0) -> None:
        found[name] = (mean + 0.4 * random.standard_normal(shape)).astype(np.float32)

    def dense(name: str, inward: int, outward: int) -> None:
        put(f"{name}/kernel", inward, outward)
        put(f"{name}/bias", outward)

    def norm(name: str, size: int = HIDDEN) -> None:
        put(f"{name}/gamma", size, mean=1.0)
        put(f"{name}/beta", size)

    put("bert/embeddings/word_embeddings", len(TOKENS), small)
    put("bert/embeddings/token_type_embeddings", 2, small)
    if kind == "bert":
        put("bert/embeddings/position_embeddings", POSITIONS, small)
    norm("bert/embeddings/LayerNorm", small)
    if small != HIDDEN:
        dense("bert/encoder/embedding_hidden_mapping_in", small, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"bert/encoder/layer_{layer}"
        for part in PREFIXES:
            dense(f"{prefix}/{part}", HIDDEN, HIDDEN)
        dense(f"{prefix}/intermediate/dense", HIDDEN, INNER)
        dense(f"{prefix}/output/dense", INNER, HIDDEN)
        norm(f"{prefix}/attention/output/LayerNorm")
        norm(f"{prefix}/output/LayerNorm")
    dense("bert/pooler/dense", HIDDEN, HIDDEN)
    dense("cls/predictions/transform/dense", HIDDEN, small)
    norm("cls/predictions/transform/LayerNorm", small)
    put("cls/predictions/output_bias", len(TOKENS))
    put("cls/seq_relationship/output_weights", 2, HIDDEN)
    put("cls/seq_relationship/output_bias", 2)
    found["bert/pooler/dense/kernel/adam_m"] = found["bert/pooler/dense/kernel"]
    found["global_step"] = np.array(9, np.int64)
    return found


def gelu(values: Floats) -> Floats:
    """x Φ(x)."""
    return np.asarray(values * 0.5 * (1 + erf(values / np.sqrt(2))))


class Plain:
    """BERT (arXiv:1810.04805) and RoFormer (kexue.fm/archives/8265) written down once more, with TensorFlow's weights."""

    def __init__(self, weights: dict[str, NDArray[np.float32]]) -> None:
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}

    def dense(self, values: Floats, name: str) -> Floats:
        return values @ self.weights[f"{name}/kernel"] + self.weights[f"{name}/bias"]

    def norm(self, values: Floats, name: str) -> Floats:
        centred = values - values.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return np.asarray(scaled * self.weights[f"{name}/gamma"] + self.weights[f"{name}/beta"])

    def hidden(self, ids: list[int], prompt: int) -> Floats:
        """Hidden states (t, HIDDEN) of ids whose first `prompt` are read both ways, in segment 0, and the rest as UniLM."""
        count, place = len(ids), np.arange(len(ids))
        found = self.weights["bert/embeddings/word_embeddings"][ids]
        found = found + self.weights["bert/embeddings/token_type_embeddings"][(place >= prompt).astype(int)]
        is_rotary = "bert/embeddings/position_embeddings" not in self.weights
        if not is_rotary:
            found = found + self.weights["bert/embeddings/position_embeddings"][:count]
        found = self.norm(found, "bert/embeddings/LayerNorm")
        if "bert/encoder/embedding_hidden_mapping_in/kernel" in self.weights:
            found = self.dense(found, "bert/encoder/embedding_hidden_mapping_in")
        seen = (place[None] < prompt) | (place[None] <= place[:, None])
        seen[:prompt] = place < prompt
        size = HIDDEN // HEADS
        for layer in range(LAYERS):
            prefix = f"bert/encoder/layer_{layer}"
            query, key, value = (
                self.dense(found, f"{prefix}/{part}").reshape(count, HEADS, size) for part in PREFIXES[:3]
            )
            if is_rotary:  # each couple of dimensions is a complex number, turned by its position
                angle = place[:, None] * 10_000.0 ** (-np.arange(0, size, 2) / size)
                turn = np.exp(1j * angle)[:, None]
                query, key = (
                    np.stack([turned.real, turned.imag], -1).reshape(count, HEADS, size)
                    for turned in ((one[..., ::2] + 1j * one[..., 1::2]) * turn for one in (query, key))
                )
            scores = np.einsum("ihd,jhd->hij", query, key) / np.sqrt(size)
            shares = softmax(np.where(seen, scores, -np.inf), axis=-1)
            context = np.einsum("hij,jhd->ihd", shares, value).reshape(count, HIDDEN)
            found = self.norm(
                found + self.dense(context, f"{prefix}/{PREFIXES[3]}"), f"{prefix}/attention/output/LayerNorm"
            )
            inner = self.dense(gelu(self.dense(found, f"{prefix}/intermediate/dense")), f"{prefix}/output/dense")
            found = self.norm(found + inner, f"{prefix}/output/LayerNorm")
        return found

    def sentence(self, ids: list[int]) -> Floats:
        """The linear pooler on [CLS], of length 1."""
        vector = self.dense(self.hidden(ids, len(ids))[0], "bert/pooler/dense")
        return np.asarray(vector / np.linalg.norm(vector))

    def next_token(self, ids: list[int], prompt: int) -> Floats:
        """Log-probabilities (V,) of what comes after ids."""
        inner = gelu(self.dense(self.hidden(ids, prompt)[-1], "cls/predictions/transform/dense"))
        inner = self.norm(inner, "cls/predictions/transform/LayerNorm")
        words = self.weights["bert/embeddings/word_embeddings"]
        return np.asarray(log_softmax(inner @ words.T + self.weights["cls/predictions/output_bias"]))


def write_checkpoint(folder: Path, weights: dict[str, NDArray[np.float32]], **changes: Any) -> None:
    """Write a checkpoint folder as Google and bert4keras do."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bundle(folder / "bert_model.ckpt", weights, shards=2)
    config = {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "max_position_embeddings": POSITIONS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pooler_fc_size": 768,
        "type_vocab_size": 2,
        "vocab_size": len(TOKENS),
    }
    (folder / "bert_config.json").write_text(json.dumps(config | changes))
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")


Converted = tuple[Plain, Path]


@pytest.fixture(scope="module", params=[("bert", 16), ("roformer", 16), ("roformer", 12)], name="converted", ids=str)
def _converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """A checkpoint's weights and the folder made of it: SimBERT, RoFormer-Sim, and one with small embeddings."""
    folder = tmp_path_factory.mktemp("checkpoint")
    weights = arrays(*request.param)
    write_checkpoint(folder / "from", weights)
    assert main([str(folder / "from"), str(folder / "to")]) == 0
    return Plain(weights), folder / "to"


TEXTS = ["怎么还款？", "花呗如何 login 。", "卡", "ＬＯＧ忘了密码吗?"]


def test_hidden_states_are_those_of_the_numbers(converted: Converted) -> None:
    """transformers' hidden states of the folder are those of the plain forward, for every token."""
    plain, folder = converted
    encoder = Encoder(folder, "cpu")
    tokenized = encoder.tokenize(TEXTS)
    assert [TOKENS[token] for token in tokenized[1].ids] == ["[CLS]", *"花呗如何", "log", "##in", "。", "[SEP]"]
    for text, vectors in zip(tokenized, encoder.encode(tokenized).tokens, strict=True):
        expected = plain.hidden(text.ids, len(text.ids))[text.inner]
        np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_the_sentence_vector_is_the_linear_pooler(converted: Converted) -> None:
    """The vectors of this service and of sentence-transformers are SimBERT's: a linear layer on [CLS], of length 1."""
    plain, folder = converted
    encoder = Encoder(folder, "cpu")
    tokenized = encoder.tokenize(TEXTS)
    found = encoder.encode(tokenized).sentences
    np.testing.assert_allclose(found, [plain.sentence(text.ids) for text in tokenized], atol=2e-5)
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(TEXTS)
    np.testing.assert_allclose(found, theirs, atol=1e-5)


def test_it_writes_as_the_numbers_say(converted: Converted) -> None:
    """After a prompt and after written tokens the probabilities of the next token are those of the plain forward."""
    plain, folder = converted
    generator = Generator(folder, "cpu")
    prompts = generator.tokenize(TEXTS[:2])
    rows = generator.start(prompts)
    for step in range(3):
        found = generator.log_probabilities(rows).numpy()
        for row, prompt in enumerate(prompts):
            ids = [*prompt, *[7, 9, 5][:step]]
            np.testing.assert_allclose(found[row], plain.next_token(ids, len(prompt)), atol=1e-4)
        rows = generator.extend(rows, [[[7, 9, 5][step]]] * 2)


def test_nothing_is_missing_for_transformers(converted: Converted) -> None:
    """AutoModelForMaskedLM finds every weight that it looks for, and none too many."""
    _, folder = converted
    _, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert [name for name in report["missing_keys"] if "embed_positions" not in name] == []
    assert list(report["unexpected_keys"]) == []


def test_the_service_serves_it(converted: Converted, tmp_path: Path) -> None:
    """With the folder as its one model the service answers embeddings, the originals' vectors, and paraphrases."""
    plain, folder = converted
    settings = Settings(data_dir=tmp_path, model=folder, device="cpu", runtime="torch", sample=False, threads=1)
    with client_of(settings) as client:
        answer = client.post("/v1/embeddings", json={"model": "any", "input": TEXTS})
        assert answer.status_code == 200, answer.text
        expected = [plain.sentence(text.ids) for text in Encoder(folder, "cpu").tokenize(TEXTS)]
        found = [row["embedding"] for row in answer.json()["data"]]
        np.testing.assert_allclose(found, expected, atol=2e-5)
        answer = client.post("/v1/paraphrases", json={"text": "花呗怎么还款", "n": 3, "samples": 30, "seed": 1})
        assert answer.status_code == 200, answer.text
        assert 1 <= len(answer.json()["paraphrases"]) <= 3


def test_another_pooling_and_precision_can_be_asked_for(tmp_path: Path) -> None:
    """--pooling cls takes [CLS] itself, and --half writes half precision, which changes vectors by little."""
    weights = arrays("bert")
    write_checkpoint(tmp_path / "from", weights)
    assert main([str(tmp_path / "from"), str(tmp_path / "to"), "--pooling", "cls", "--half"]) == 0
    encoder = Encoder(tmp_path / "to", "cpu")
    tokenized = encoder.tokenize(TEXTS[:1])
    expected = Plain(weights).hidden(tokenized[0].ids, len(tokenized[0].ids))[0]
    np.testing.assert_allclose(encoder.encode(tokenized).sentences[0], expected / np.linalg.norm(expected), atol=5e-3)
    with safe_open(tmp_path / "to" / "model.safetensors", framework="np") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"float16"}  # noqa: SIM118


def test_without_a_head_it_gives_vectors_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint without cls/predictions becomes a folder for vectors, and the program says so."""
    weights = {name: value for name, value in arrays("roformer").items() if not name.startswith("cls/")}
    write_checkpoint(tmp_path / "from", weights)
    assert main([str(tmp_path / "from"), str(tmp_path / "to")]) == 0
    assert "it cannot write" in capsys.readouterr().out


def without(name: str) -> dict[str, NDArray[np.float32]]:
    return {each: value for each, value in arrays("bert").items() if not each.startswith(name)}


@pytest.mark.parametrize(
    ("weights", "changes", "vocabulary", "reason"),
    [
        (without("bert/encoder/layer_1/output"), {}, None, "it has no bert/encoder/layer_1/output"),
        (arrays("bert"), {"num_hidden_layers": 1}, None, "it also has bert/encoder/layer_1"),
        (arrays("bert"), {"intermediate_size": 64}, None, "the checkpoint has .16, 24."),
        (arrays("bert"), {"num_attention_heads": 3}, None, "cannot be shared by 3 heads"),
        (arrays("bert"), {"hidden_act": "swish"}, None, "activation 'swish' is not known"),
        (arrays("bert", 12), {}, None, "ALBERT-like"),
        (without("bert/pooler"), {}, None, "use --pooling cls"),
        (arrays("bert"), {}, [*TOKENS, "多"], "vectors of"),
        (arrays("bert"), {}, [*TOKENS[:-1], "怎"], "'怎' twice"),
        (arrays("bert"), {}, [*TOKENS[:-1], "信用卡"], "needs a word segmenter"),
        (arrays("bert"), {}, ["头", *TOKENS[1:]], r"has no \[PAD\]"),
        (arrays("bert"), {}, ["头", *TOKENS[1:-1], "[PAD]"], r"\[PAD\] is token"),
    ],
)
def test_what_does_not_fit_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    weights: dict[str, NDArray[np.float32]],
    changes: dict[str, Any],
    vocabulary: list[str] | None,
    reason: str,
) -> None:
    """A checkpoint of another shape or architecture ends with exit code 1 and a sentence that names the fault."""
    write_checkpoint(tmp_path / "from", weights, **changes)
    if vocabulary is not None:
        (tmp_path / "from" / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    assert main([str(tmp_path / "from"), str(tmp_path / "to")]) == 1
    assert re.search(reason, capsys.readouterr().err)
    assert not (tmp_path / "to").exists()


def test_a_folder_without_a_checkpoint_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty folder, and a checkpoint without its description, end with exit code 1 and the missing name."""
    assert main([str(tmp_path), str(tmp_path / "to")]) == 1
    assert "has 0 files *.index" in capsys.readouterr().err
    write_bundle(tmp_path / "bert_model.ckpt", arrays("bert"))
    assert main([str(tmp_path), str(tmp_path / "to")]) == 1
    assert "bert_config.json" in capsys.readouterr().err
