"""models/encoder.py, encoder_folder.py, onnx_export.py and token_codec.py on tiny real networks."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, ElectraConfig, ModernBertConfig, PretrainedConfig, RoFormerConfig, XLMRobertaConfig

from conftest import CHARACTERS, write_bert, write_tokenizer
from models import onnx_export
from models.encoder import Encoded, Encoder, EncoderNetwork, TorchForward, batches_by_length, choose_device, pad
from models.encoder_folder import fingerprint, read_encoder_folder
from models.onnx_export import OnnxForward, _run, graph_file, onnx_forward
from models.token_codec import ScaledBytes, TokenIds, token_codec

TEXTS = ["花呗怎么还款", "信用卡如何提额度", "a", "我想要查询快递物流，怎么退货？", "选课成绩查询 cab 123"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
texts = st.lists(st.text(CHARACTERS + " xyz😀", min_size=1, max_size=70), min_size=1, max_size=9)


def test_sentence_vectors_have_unit_length_and_one_forward_gives_both(encoder: Encoder) -> None:
    """Sentence vectors are unit rows; token vectors belong to the inner tokens."""
    tokenized = encoder.tokenize(TEXTS)
    encoded = encoder.encode(tokenized)
    assert np.allclose(np.linalg.norm(encoded.sentences, axis=1), 1, atol=1e-6)
    assert [len(tokens) for tokens in encoded.tokens] == [len(text.inner) for text in tokenized]
    assert encoded.tokens[0].shape[1] == encoder.token_dim


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=texts)
def test_a_text_does_not_depend_on_its_batch(encoder: Encoder, texts: list[str]) -> None:
    """A text alone and among others gives the same vectors to 1e-5."""
    together = encoder.encode(encoder.tokenize(texts))
    for i, text in enumerate(texts):
        alone = encoder.encode(encoder.tokenize([text]))
        assert np.abs(alone.sentences[0] - together.sentences[i]).max() < 1e-5
        assert np.array_equal(alone.token_ids[0], together.token_ids[i])


def test_contextual_token_vectors_do_not_depend_on_the_batch(bert_folder: Path) -> None:
    """The same for hidden states, of texts whose lengths differ."""
    encoder = Encoder(bert_folder, "cpu", pooling="mean")
    together = encoder.encode(encoder.tokenize(TEXTS))
    for i, text in enumerate(TEXTS):
        alone = encoder.encode(encoder.tokenize([text]))
        assert np.abs(alone.tokens[0] - together.tokens[i]).max() < 1e-5


def test_sentence_transformers_gives_the_same_vectors(model_folder: Path, encoder: Encoder) -> None:
    """The folder is a sentence-transformers model, and both readings agree."""
    theirs = SentenceTransformer(str(model_folder), device="cpu", local_files_only=True)
    theirs.max_seq_length = encoder.max_tokens
    assert np.abs(theirs.encode(TEXTS) - encoder.encode(encoder.tokenize(TEXTS)).sentences).max() < 1e-5


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_of_a_plain_checkpoint_is_a_setting(bert_folder: Path, pooling: str) -> None:
    """cls takes the first hidden state, mean averages all."""
    encoder = Encoder(bert_folder, "cpu", pooling=pooling)  # type: ignore[arg-type]
    text = encoder.tokenize(TEXTS[:1])[0]
    with torch.inference_mode():
        hidden = encoder.folder.load_network()(torch.tensor([text.ids])).last_hidden_state[0]
    expected = (hidden[0] if pooling == "cls" else hidden.mean(0)).numpy()
    assert np.allclose(encoder.encode([text]).sentences[0], expected / np.linalg.norm(expected), atol=1e-6)


def test_projected_token_vectors_sum_to_the_sentence_vector(model_folder: Path, tmp_path: Path) -> None:
    """The summands of the sentence vector are its projected token vectors."""
    folder = tmp_path / "projected"
    shutil.copytree(model_folder, folder)
    (folder / "moverank.json").write_text(json.dumps({"token_vectors": "projected"}))
    encoder = Encoder(folder, "cpu")
    encoded = encoder.encode(encoder.tokenize(TEXTS))
    for sentence, tokens in zip(encoded.sentences, encoded.tokens, strict=True):
        total = tokens.sum(0)
        assert np.allclose(total / np.linalg.norm(total), sentence, atol=1e-5)


def test_truncation_is_reported(encoder: Encoder) -> None:
    """A text of exactly max_tokens is whole, one more is truncated."""
    fits, too_long = encoder.tokenize(["花" * (encoder.max_tokens - 2), "花" * (encoder.max_tokens - 1)])
    assert (fits.truncated, too_long.truncated) == (False, True)
    assert len(too_long.ids) == encoder.max_tokens


def test_offsets_point_into_the_original_text(encoder: Encoder) -> None:
    """Offsets are characters of the text, beyond the basic plane and after folding too."""
    text = "花😀呗 ABC １"
    tokenized = encoder.tokenize([text])[0]
    pieces = [text[slice(*tokenized.offsets[i])] for i in tokenized.inner]
    assert pieces[:3] == ["花", "😀", "呗"]
    assert "".join(pieces[3:]).startswith("ABC")


def test_onnx_runtime_agrees_with_torch_and_is_cached(model_folder: Path, bert_folder: Path, tmp_path: Path) -> None:
    """The exported graph gives torch's vectors for any batch shape; the second load exports nothing."""
    for folder, pooling in ((model_folder, None), (bert_folder, "mean")):
        described = read_encoder_folder(folder, pooling)  # type: ignore[arg-type]
        older = tmp_path / f"{described.fingerprint}.onnx"
        older.write_bytes(b"")
        forward = onnx_forward(described, tmp_path, threads=1)
        graph = graph_file(described, tmp_path)
        assert not older.exists()
        written = graph.stat().st_mtime_ns
        fast = Encoder(folder, "cpu", pooling, forward)  # type: ignore[arg-type]
        slow = Encoder(folder, "cpu", pooling)  # type: ignore[arg-type]
        mine, theirs = (each.encode(each.tokenize(TEXTS)) for each in (fast, slow))
        assert np.abs(mine.sentences - theirs.sentences).max() < 1e-5
        assert all(np.abs(a - b).max() < 1e-4 for a, b in zip(mine.tokens, theirs.tokens, strict=True))
        onnx_forward(described, tmp_path, threads=1)
        assert graph.stat().st_mtime_ns == written


def test_threads_share_a_batch(bert_folder: Path, tmp_path: Path) -> None:
    """Whichever thread computes which texts, the vectors are those of one thread; a part that fails fails the batch."""
    described = read_encoder_folder(bert_folder, "mean")
    alone, shared = (onnx_forward(described, tmp_path, threads) for threads in (1, 3))
    for count in (1, 2, 3, 7, 40):
        ids, mask = pad([[2, *range(5, 20 + i % 9), 3] for i in range(count)])
        for mine, reference in zip(shared(ids, mask), alone(ids, mask), strict=True):
            assert mine.shape == reference.shape
            assert np.abs(mine - reference).max(initial=0.0) < 1e-5
    ids[-1, 1] = 10**6
    with pytest.raises(Exception, match="out of data bounds"):
        shared(ids, mask)


def test_a_lone_long_text_goes_through_all_cores(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From so much work on a text that is alone is computed by all threads, while others are by one each: the same vectors."""
    described = read_encoder_folder(bert_folder, "mean")
    alone = onnx_forward(described, tmp_path, threads=1)
    graph = graph_file(described, tmp_path)
    monkeypatch.setattr(onnx_export, "LONE_WORK", 10 * graph.stat().st_size)
    shared = OnnxForward(graph, threads=3)
    used: list[int] = []

    def run(session: Any, *arrays: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        used.append(session.get_session_options().intra_op_num_threads)
        return _run(session, *arrays)

    monkeypatch.setattr(onnx_export, "_run", run)
    for count, length, threads in ((1, 9, [1]), (1, 10, [3]), (1, 60, [3]), (2, 10, [1, 1])):
        ids, mask = pad([[2, *range(5, 3 + length), 3]] * count)
        used.clear()
        for mine, reference in zip(shared(ids, mask), alone(ids, mask), strict=True):
            assert np.abs(mine - reference).max(initial=0.0) < 1e-5
        assert used[: len(threads)] == threads
    monkeypatch.setattr(onnx_export, "MOST_TWICE_BYTES", graph.stat().st_size - 1)
    once = OnnxForward(graph, threads=3)
    used.clear()
    once(*pad([[2, *range(5, 60), 3]]))
    assert used == [1]


@pytest.mark.parametrize(
    "config",
    [
        RoFormerConfig(embedding_size=32, max_position_embeddings=64, **SIZES),
        XLMRobertaConfig(max_position_embeddings=66, pad_token_id=0, bos_token_id=2, eos_token_id=3, **SIZES),
        ModernBertConfig(
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            cls_token_id=2,
            sep_token_id=3,
            **SIZES,
        ),
        ElectraConfig(embedding_size=32, max_position_embeddings=64, **SIZES),
    ],
    ids=lambda config: config.model_type,
)
def test_other_architectures_encode_as_bert_does(config: PretrainedConfig, tmp_path: Path) -> None:
    """RoFormer, XLM-R, ModernBERT and ELECTRA folders give vectors that do not depend on the batch, in both runtimes."""
    config.vocab_size = write_tokenizer(tmp_path)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    encoder = Encoder(tmp_path, "cpu", pooling="mean")
    fast = encoder
    if config.model_type in (
        "roformer",
        "modernbert",
    ):  # an export takes seconds: one eager attention, one with its own mask
        fast = Encoder(tmp_path, "cpu", "mean", onnx_forward(encoder.folder, tmp_path / "onnx", threads=1))
    tokenized = encoder.tokenize([*TEXTS, "长" * 100])
    assert [text.truncated for text in tokenized] == [False] * len(TEXTS) + [True]
    together = encoder.encode(tokenized)
    assert np.abs(fast.encode(tokenized).sentences - together.sentences).max() < 1e-5
    for i, text in enumerate(tokenized):
        assert np.abs(encoder.encode([text]).sentences[0] - together.sentences[i]).max() < 1e-5


def test_fingerprint_changes_with_what_vectors_depend_on(tmp_path: Path) -> None:
    """Another weight, another pooling or other token vectors are another model; other defaults of the search are not."""
    write_bert(tmp_path)
    first = fingerprint(tmp_path, "mean", {})
    (tmp_path / "moverank.json").write_text('{"weight": 0.1}')
    assert fingerprint(tmp_path, "mean", {"weight": 0.1}) == first
    assert fingerprint(tmp_path, "cls", {}) != first
    assert fingerprint(tmp_path, "mean", {"token_vectors": "static"}) != first
    write_bert(tmp_path, num_hidden_layers=1)
    assert fingerprint(tmp_path, "mean", {}) != first


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
        (lambda folder: (folder / "moverank.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "moverank.json").write_text('{"token_vectors": "odd"}'), "odd"),
        (lambda folder: (folder / "modules.json").write_text('[{"type": "a.Odd", "path": ""}]'), "Odd"),
    ],
)
def test_unusable_folders_are_refused_with_the_reason(tmp_path: Path, spoil: object, sentence: str) -> None:
    """What is wrong with a model folder stands in the error."""
    write_bert(tmp_path)
    spoil(tmp_path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=sentence):
        read_encoder_folder(tmp_path)


def test_cuda_is_refused_where_there_is_none() -> None:
    """`cuda` does not fall back silently; an unknown device is an error."""
    if not torch.cuda.is_available():
        assert choose_device("auto") == "cpu"
        with pytest.raises(ValueError, match="no CUDA device"):
            choose_device("cuda")
    with pytest.raises(ValueError, match="tpu"):
        choose_device("tpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(model_folder: Path, encoder: Encoder) -> None:
    """bfloat16 on the device stays within its rounding of float32 on the CPU."""
    device = Encoder(model_folder, "cuda")
    assert device.device == "cuda"
    cosines = (device.encode(device.tokenize(TEXTS)).sentences * encoder.encode(encoder.tokenize(TEXTS)).sentences).sum(
        1
    )
    assert cosines.min() > 0.995


@given(st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(1, 128), st.sampled_from([0.0, 0.7, 1.0]))
def test_batches_keep_the_budget_and_lose_nothing(lengths: list[int], budget: int, filled: float) -> None:
    """Every position occurs once; padded tokens stay within the budget unless one text alone exceeds it; none is much shorter."""
    batches = batches_by_length(lengths, budget, filled)
    assert all(min(lengths[i] for i in batch) >= filled * max(lengths[i] for i in batch) for batch in batches)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)


def test_static_vectors_are_kept_as_ids(encoder: Encoder) -> None:
    """Two bytes a token give the table's rows back exactly."""
    codec = token_codec(encoder)
    assert isinstance(codec, TokenIds)
    encoded = encoder.encode(encoder.tokenize(TEXTS))
    packed = codec.pack(encoded)
    assert [len(item) for item in packed] == [2 * len(tokens) for tokens in encoded.tokens]
    candidates = codec.unpack(packed)
    for i, tokens in enumerate(encoded.tokens):
        assert np.array_equal(candidates.tokens(i), tokens)


def test_contextual_vectors_are_kept_as_scaled_bytes(bert_folder: Path) -> None:
    """One byte a dimension keeps every entry within half a step of its token's scale."""
    encoder = Encoder(bert_folder, "cpu", pooling="mean")
    codec = token_codec(encoder)
    assert isinstance(codec, ScaledBytes)
    encoded = encoder.encode(encoder.tokenize(TEXTS))
    packed = codec.pack(encoded)
    assert [len(item) for item in packed] == [(encoder.token_dim + 2) * len(tokens) for tokens in encoded.tokens]
    candidates = codec.unpack(packed)
    for i, tokens in enumerate(encoded.tokens):
        step = np.abs(tokens).max(axis=1, keepdims=True) / 127
        assert (np.abs(candidates.tokens(i) - tokens) <= 0.51 * step + 1e-6).all()
    huge = codec.pack(encoded._replace(tokens=[1e30 * encoded.tokens[0]]))
    assert np.isfinite(codec.unpack(huge).tokens(0)).all()


def test_the_torch_forward_returns_float32(bert_folder: Path) -> None:
    """Whatever the device computes in, what comes out is float32."""
    forward = TorchForward(EncoderNetwork(read_encoder_folder(bert_folder, "cls")), "cpu")
    ids = np.full((2, 5), 7)
    sentences, tokens = forward(ids, np.ones_like(ids))
    assert (sentences.dtype, tokens.dtype, tokens.shape) == (np.float32, np.float32, (2, 5, 32))


def test_a_folder_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """Weights that are not in the file would be random: the folder is refused, and one of them is named."""
    from safetensors.numpy import load_file, save_file

    write_bert(tmp_path / "bert")
    file = tmp_path / "bert" / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights of the network: encoder\.layer\.1\.output"):
        Encoder(tmp_path / "bert", "cpu")


@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_a_damaged_graph_is_exported_again(model_folder: Path, tmp_path: Path, content: bytes) -> None:
    """What a power failure left of the cached graph does not keep the service from starting."""
    described = read_encoder_folder(model_folder, None)
    graph = graph_file(described, tmp_path)
    graph.write_bytes(content)
    assert onnx_forward(described, tmp_path, threads=1).concurrency == 1
    assert graph.stat().st_size > len(content)


def test_a_text_that_could_not_be_encoded_packs_as_nothing() -> None:
    """Of a batch with a failed text, the others' token vectors are kept, and its own are none."""
    tokens = [np.empty((0, 0), np.float32), np.ones((3, 4), np.float32)]
    codec = ScaledBytes(4)
    packed = codec.pack(Encoded(np.ones((2, 4), np.float32), tokens, [np.empty(0, np.int32)] * 2))
    assert packed[0] == b""
    assert codec.unpack(packed).tokens(1).shape == (3, 4)
