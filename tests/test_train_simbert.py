"""The training program on a tiny corpus: vocabulary, first vectors, batches, network, resume, export."""

import csv
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from models.encoder import Encoder
from models.fallback import is_cjk
from models.fusion import SharesByLength
from scripts import fit_lookup, train_lookup, train_simbert
from scripts.model_folder import bert_tokenizer
from scripts.train_simbert import keep_part, run
from scripts.training.first_vectors import count_neighbours, inverse_document_frequency, ppmi, reduced
from scripts.training.network import SimBert, bert_config
from scripts.training.pairs import Pairs, Sampler, read_pairs, split, tokenize
from scripts.training.passages import cloze
from scripts.training.start import load_start
from scripts.training.vocabulary import SPECIALS, build_tokenizer, normalizer, text_files
from tiny_training import EVERYTHING, PARAGRAPHS, QUESTIONS, choices, write_corpus


def read_back(left: np.ndarray, right: np.ndarray, label: np.ndarray, family: np.ndarray) -> Pairs:
    """Make pairs of numbered texts with their groups, as reading a file would."""
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as file:
        rows = zip(left.tolist(), right.tolist(), label.tolist(), family.tolist(), strict=True)
        file.writelines(f"t{a}\tt{b}\t{y}\tfamily{source}\n" for a, b, y, source in rows)
        file.flush()
        return read_pairs(Path(file.name))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write pairs.tsv and text/ of a tiny corpus."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SimBert, Path]:
    """Train both stages without interruption."""
    out = tmp_path_factory.mktemp("trained") / "model"
    return run(choices(corpus, out)), out


ALL_STAGES = ["static", "language", "similar", "supervised"]


@pytest.mark.parametrize(
    ("stages", "steps", "more"),
    [
        (["static"], 3, ["--mixup", "0.5", "--embedding-noise", "0.1"]),
        (["static", "similar"], 2, []),
        (["static", "similar"], 3, EVERYTHING),
        (["language"], 4, ["--muon"]),
        (ALL_STAGES, 3, [*EVERYTHING, "--steps", "2", "2", "2", "2", "5"]),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    corpus: Path, tmp_path: Path, stages: list[str], steps: int, more: list[str]
) -> None:
    """A run that is stopped at a checkpoint and started again ends with the weights of a run that was not."""
    more = ["--stages", *stages, *more]
    whole = run(choices(corpus, tmp_path / "whole", *more))
    run(choices(corpus, tmp_path / "broken", *more), stop_at=steps)
    assert (tmp_path / "broken.work" / "checkpoint.pt").exists()
    resumed = run(choices(corpus, tmp_path / "broken", *more))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_moves_every_part(trained: tuple[SimBert, Path]) -> None:
    """After training the layers' residual branches, the token weights and the thresholds have left their start."""
    network, _ = trained
    assert all(float(layer.output.dense.weight.detach().abs().max()) > 0 for layer in network.bert.encoder.layer)
    assert float((network.threshold.detach() - 0.6).abs().max()) > 0
    assert float(network.table.abs().max()) > 0


def test_the_folder_gives_the_same_vectors_everywhere(trained: tuple[SimBert, Path]) -> None:
    """The exported folder gives the trained network's sentence vectors in this service and in sentence-transformers."""
    network, out = trained
    texts = ["怎么还款3", "how to log in", "图书馆几点开门？", "卡"]
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    ids = tokenize(tokenizer, texts)
    network.eval()
    with torch.no_grad():
        expected = network(torch.from_numpy(ids.batch(np.arange(4), 32))).sentences.numpy()
    encoder = Encoder(out, device="cpu")
    ours = encoder.encode(encoder.tokenize(texts))
    theirs = SentenceTransformer(str(out), device="cpu", local_files_only=True).encode(texts)
    np.testing.assert_allclose(ours.sentences, expected, atol=5e-3)  # half precision on disk
    np.testing.assert_allclose(ours.sentences, theirs, atol=1e-5)
    table = network.table.numpy() / np.linalg.norm(network.table.numpy(), axis=1).mean()
    np.testing.assert_allclose(ours.tokens[0], table[ours.token_ids[0]], rtol=2e-3, atol=2e-4)


def test_the_folder_is_small_and_complete(trained: tuple[SimBert, Path]) -> None:
    """The folder holds safetensors only, a card with its defaults, and curves of every stage."""
    _, out = trained
    assert not [file for file in out.rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]
    card = json.loads((out / "moverank.json").read_text(encoding="utf-8"))
    assert {"token_vectors", "static_table", "weight", "lexical_weight", "retrieve", "max_tokens"} <= set(card)
    assert SharesByLength.of_card(card).at(8.0) == pytest.approx((0.1, 0.85, 0.3))
    assert SharesByLength.of_card(card).at(40.0) == pytest.approx((0.1, 0.9, 0.3))
    with open(out / "curves.csv", encoding="utf-8") as file:
        assert {row["stage"] for row in csv.DictReader(file)} == {"static", "similar", "supervised"}
    assert (out / "curves.png").stat().st_size > 1000
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id] == [0, 1, 2]


def test_training_goes_on_from_a_folder(corpus: Path, trained: tuple[SimBert, Path], tmp_path: Path) -> None:
    """A run that starts from a folder begins with its weights, keeps its tokens and table, and changes its layers."""
    network, folder = trained
    ids = torch.tensor([[2, 7, 9, 30, 3], [2, 8, 3, 0, 0]])
    loaded = SimBert(network.bert.config, 16, 2)
    load_start(loaded, folder)
    for name, value in network.state_dict().items():
        if name not in ("threshold", "table", "gate"):  # not in a folder; scaled there; as weights below
            found = loaded.state_dict()[name]
            torch.testing.assert_close(found, value, atol=1e-3, rtol=2e-3, msg=name)
    torch.testing.assert_close(loaded.weights(), network.weights(), atol=1e-4, rtol=0)
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(ids).sentences, network(ids).sentences, atol=5e-3, rtol=0)
    more = ["--start", str(folder), "--stages", "supervised", "--steps", "1", "1", "1", "1", "3"]
    further = run(choices(corpus, tmp_path / "further", *more))
    assert (tmp_path / "further" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    torch.testing.assert_close(further.table, loaded.table)
    assert not torch.equal(further.dense.weight, loaded.dense.weight)


def test_a_folder_of_another_kind_is_no_start(trained: tuple[SimBert, Path], tmp_path: Path) -> None:
    """A folder without the files of this program, or of another shape, is refused with a sentence that says so."""
    network, folder = trained
    with pytest.raises(ValueError, match=r"lacks model\.safetensors"):
        load_start(network, tmp_path)
    with pytest.raises(ValueError, match="give the sizes that it was made with"):
        load_start(SimBert(bert_config(20, hidden=8, layers=1, heads=2, inner=16, positions=8), 4, 1), folder)


def test_the_supervised_stage_reads_judged_families_alone(corpus: Path, tmp_path: Path) -> None:
    """A family of positive pairs only, which orders nothing, is left to the other stages."""
    pairs = read_pairs(corpus / "pairs.tsv")
    assert {pairs.families[one] for one in pairs.judged().family} == {"faq"}
    only_positive = pairs.take(pairs.label == 1)
    assert len(only_positive.judged().label) == len(only_positive.label)


def test_the_whole_network_starts_as_the_bag() -> None:
    """With residual branches at zero and positions near zero the network's vectors are almost the bag's."""
    torch.manual_seed(0)
    network = SimBert(bert_config(50, hidden=24, layers=3, heads=2, inner=48, positions=16), 16, 1)
    network.start_from(np.random.default_rng(0).normal(size=(50, 24)).astype(np.float32), np.ones(50, np.float32))
    ids = torch.tensor([[2, 7, 9, 30, 3], [2, 8, 3, 0, 0]])
    with torch.no_grad():
        cosine = (network(ids).sentences * network.bag(ids).sentences).sum(dim=1)
    assert float(cosine.min()) > 0.95


def test_a_share_of_a_stage_can_be_kept() -> None:
    """Keeping half of a change gives the mean of both ends, keeping all changes nothing, and the table stays."""
    network = SimBert(bert_config(20, hidden=8, layers=1, heads=2, inner=16, positions=8), 4, 1)
    before = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    network.keep_table()
    after = {name: value.clone() for name, value in network.state_dict().items()}
    keep_part(network, before, 1.0)
    assert all(torch.equal(value, after[name]) for name, value in network.state_dict().items())
    keep_part(network, before, 0.5)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, after[name] * (1.0 if name == "table" else 0.5))


def test_special_tokens_and_padding_have_no_mass() -> None:
    """[PAD], [CLS], [SEP] and [MASK] contribute nothing to a sentence; [UNK] stands for a word and does."""
    network = SimBert(bert_config(50, hidden=24, layers=1, heads=2, inner=48, positions=16), 16, 1)
    assert [weight > 0 for weight in network.weights()[:6].tolist()] == [False, True, False, False, False, True]
    alone, padded = torch.tensor([[2, 7, 9, 3]]), torch.tensor([[2, 7, 9, 3, 0, 0]])
    with torch.no_grad():
        torch.testing.assert_close(network(alone).sentences, network(padded).sentences, atol=1e-6, rtol=1e-5)


def test_the_vocabulary_has_a_token_per_character() -> None:
    """A CJK character is one token, Latin words are lower-cased pieces, and the specials have the first ids."""
    tokenizer = build_tokenizer([*QUESTIONS, *PARAGRAPHS], characters=300, pieces=60)
    assert [tokenizer.token_to_id(special) for special in SPECIALS] == [0, 1, 2, 3, 4]
    tokens = tokenizer.encode("LOG 还款").tokens
    assert tokens[0] == "[CLS]"
    assert tokens[-3:] == ["还", "款", "[SEP]"]
    assert "".join(piece.removeprefix("##") for piece in tokens[1:-3]) == "log"
    assert is_cjk("还")
    assert not is_cjk("a")
    assert not is_cjk("。")


def test_the_vocabulary_is_the_same_every_time() -> None:
    """Two builds from the same texts give the same tokenizer, byte for byte."""
    one, other = (
        build_tokenizer([*QUESTIONS, *PARAGRAPHS, "a tie of as many pieces as letters"], 300, 40) for _ in range(2)
    )
    assert one.to_str() == other.to_str()


def test_neighbours_are_counted_within_a_text_only() -> None:
    """Counts equal a loop over all couples at most `window` apart in the same text, weighing 1 / distance."""
    texts = [[5, 6, 7, 5], [6, 6], [], [7]]
    expected = np.zeros((8, 8))
    for text in texts:
        for one, left in enumerate(text):
            for other, right in enumerate(text):
                if 0 < abs(one - other) <= 2:
                    expected[left, right] += 1 / abs(one - other)
    np.testing.assert_allclose(count_neighbours(texts, 8, window=2), expected)


def test_ppmi_is_zero_for_independent_tokens_and_positive_for_friends() -> None:
    """Tokens that occur together more than by chance get a positive value, unseen couples 0; the SVD keeps them near."""
    information = ppmi(np.array([[0.0, 9.0, 1.0], [9.0, 0.0, 1.0], [1.0, 1.0, 8.0]]), smoothing=1.0)
    assert information[0, 1] > 0
    assert information[0, 0] == 0
    assert information[0, 2] == 0
    vectors = reduced(information, 2, seed=0)
    assert vectors.shape == (3, 2)
    assert float(vectors.std()) == pytest.approx(1.0, abs=1e-5)


def test_rare_tokens_weigh_more() -> None:
    """The inverse document frequency falls with the number of texts that have the token, and is positive."""
    weights = inverse_document_frequency([[1, 2], [1], [1, 1]], 4)
    assert weights[1] < weights[2] < weights[3]
    assert weights.min() > 0


def test_development_texts_never_occur_in_training(corpus: Path) -> None:
    """The split keeps whole groups together: no held-out group's text is in a training pair."""
    pairs = read_pairs(corpus / "pairs.tsv")
    training, held = split(pairs, 0.3, seed=1)
    assert len(training.label) + len(held.label) == len(pairs.label)
    assert len(held.label)
    asked = held.label == 1
    seen = set(training.left) | set(training.right)
    assert not seen & (set(held.left[asked]) | set(held.right[asked]))
    assert all(held.group[held.left[asked]] == held.group[held.right[asked]])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from([0.0, 0.1]))
def test_every_judged_family_is_held_out_enough(seed: int, least: int, share: float) -> None:
    """A family with both labels has `least` development pairs, or a tenth of its pairs, and no text of theirs is trained on."""
    random = np.random.default_rng(seed)
    left, right = (random.integers(0, 1000, 400) for _ in range(2))
    label, family = random.integers(0, 2, 400).astype(np.int8), np.sort(random.integers(0, 3, 400))
    label[family == 2] = 1
    pairs = read_back(left, right, label, family)
    training, held = split(pairs, share, seed, largest=40, least=least)
    for one in (0, 1):
        wanted = min(least, int((pairs.family == one).sum()) // 10)
        assert int((held.family == one).sum()) >= wanted
    positive = held.label == 1
    texts = set(held.left[positive]) | set(held.right[positive])
    assert not texts & (set(training.left) | set(training.right))


def test_left_out_sources_are_not_read(corpus: Path) -> None:
    """A source named by its start is dropped; so is a text file."""
    assert read_pairs(corpus / "pairs.tsv", ["other"]).families == ["faq"]
    assert text_files(corpus / "text")
    assert not text_files(corpus / "text", ["campus"])


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    """A line that is no labelled pair raises an error with file and line number."""
    (tmp_path / "bad.tsv").write_text("一\t二\t1\tx\n一\t二\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.tsv:2"):
        read_pairs(tmp_path / "bad.tsv")


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 40), st.integers(1, 5), st.integers(0, 3))
def test_batches_are_a_function_of_the_step(corpus: Path, step: int, positives: int, negatives: int) -> None:
    """Two samplers give the same batch at the same step, whatever they gave before; an epoch repeats no positive."""
    pairs = read_pairs(corpus / "pairs.tsv")
    lengths = np.array([len(text) for text in pairs.texts])
    one, other = (Sampler(pairs, lengths, positives, negatives, 1000, seed=3) for _ in range(2))
    for before in range(step):
        one.batch(before)
    np.testing.assert_array_equal(one.batch(step).rows, other.batch(step).rows)
    assert (pairs.label[one.batch(step).rows[:positives]] == 1).all()
    epoch = np.concatenate([other.batch(place).rows[:positives] for place in range(other.batches)])
    assert len(np.unique(epoch)) == len(epoch)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_a_drawn_sentence_belongs_to_its_paragraph(seed: int) -> None:
    """The sentence comes from the paragraph, and what remains is the paragraph with or without it."""
    for paragraph in PARAGRAPHS:
        drawn = cloze(paragraph, np.random.default_rng(seed))
        assert drawn is not None
        sentence, rest = drawn
        assert sentence in paragraph
        assert rest in (paragraph, paragraph.replace(sentence, ""))
    assert cloze("只有一句话。", np.random.default_rng(seed)) is None


def test_a_tokenizer_with_other_specials_is_refused(corpus: Path, tmp_path: Path) -> None:
    """The network knows [PAD] to [MASK] by their numbers: a tokenizer that numbers them otherwise is not taken."""
    vocabulary = {"a": 0, "[PAD]": 1, "[UNK]": 2, "[CLS]": 3, "[SEP]": 4, "[MASK]": 5}
    bert_tokenizer(vocabulary, normalizer()).save(str(tmp_path / "other.json"))
    with pytest.raises(ValueError, match=r"other\.json does not number \[PAD\]"):
        run(choices(corpus, tmp_path / "out", "--tokenizer", str(tmp_path / "other.json")))
    assert not (tmp_path / "out.work" / "tokenizer.json").exists()


def test_a_work_folder_is_not_read_as_one_of_other_data(tmp_path: Path) -> None:
    """What a work folder was made from is named where a later run asks for something else; other steps are not."""
    corpus = write_corpus(tmp_path)
    run(choices(corpus, tmp_path / "first", "--stages", "static", "--steps", "1", "--passages", "2"))
    more = ["--work", str(tmp_path / "first.work"), "--stages", "static", "--steps", "2", "--passages"]
    run(choices(corpus, tmp_path / "second", *more, "0"))
    with pytest.raises(ValueError, match=r"first\.work was begun with --passages 2, not 3: give another --work"):
        run(choices(corpus, tmp_path / "third", *more, "3"))
    with pytest.raises(ValueError, match=r"begun with --seed 1, not 2, --dim \d+, not 17:"):
        run(choices(corpus, tmp_path / "third", *more, "2", "--seed", "2", "--dim", "17"))
    with open(corpus / "pairs.tsv", "a", encoding="utf-8") as file:
        file.write("甲乙丙丁戊\t甲乙丙丁己\t1\tother\n")
    with pytest.raises(ValueError, match=r"begun with --pairs pairs\.tsv of \d+ bytes, not pairs\.tsv of"):
        run(choices(corpus, tmp_path / "third", *more, "2"))


@pytest.mark.parametrize(
    ("program", "line", "said"),
    [
        (train_simbert.main, "--pairs none.tsv --text . --out out", "train_simbert: none.tsv cannot be read"),
        (
            train_simbert.main,
            "--pairs none.tsv --text none --out out",
            "train_simbert: none: No such file or directory",
        ),
        (
            train_simbert.main,
            "--pairs none.tsv --text . --out out --stages taught",
            "train_simbert: stage taught needs a",
        ),
        (fit_lookup.main, "none --triples none.tsv --questions none.jsonl", "fit_lookup: none.jsonl"),
        (train_lookup.main, "--model none --questions none.jsonl --out out", "train_lookup: none"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    program: Callable[[list[str]], None], line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing file ends the programs with its name, not with a traceback."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=said):
        program(line.split())
