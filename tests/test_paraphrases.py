"""Similar questions: nucleus sampling against its definition, and the route with a tiny model that can write."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from starlette.testclient import TestClient

from live_service import client_of
from models.deadline import Deadline
from models.fallback import STAND_IN_TOKENS, Fallbacks
from models.sampling import SPECIAL, drawn, nucleus, sample, spelled
from models.unilm import Generator
from scripts.training.vocabulary import build_tokenizer
from service.paraphrases import MARKS, Paraphraser, Sampling, different, letters_of
from service.settings import Settings

ROWS = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(1e-6, 1.0))
QUESTION = "花呗怎么还款"


@given(ROWS, st.floats(0.01, 1.0))
def test_a_nucleus_is_the_smallest_set_that_reaches_top_p(rows: np.ndarray, top_p: float) -> None:
    """What is kept are the largest ones, they reach top_p, without the last they do not, and their ratios stay."""
    rows = rows / rows.sum(axis=1, keepdims=True)
    kept = nucleus(rows, top_p)
    np.testing.assert_allclose(kept.sum(axis=1), 1.0, rtol=1e-9)
    for row, found in zip(rows, kept, strict=True):
        inside = np.sort(row[found > 0])
        assert inside.sum() >= top_p - 1e-9
        assert inside[1:].sum() < top_p
        assert inside[0] >= row[found == 0].max(initial=0.0)
        np.testing.assert_allclose(found[found > 0] * inside.sum(), row[found > 0], rtol=1e-9)


def test_places_are_drawn_as_often_as_they_are_probable() -> None:
    """Of 20,000 draws each place has its share, within five standard deviations; one of probability 0 is never drawn."""
    share = np.array([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    number = 20_000
    counts = np.bincount(drawn(np.tile(share, (number, 1)), np.random.default_rng(1)), minlength=6)
    assert (counts[share == 0] == 0).all()
    assert (np.abs(counts - number * share) <= 5 * np.sqrt(number * share * (1 - share))).all()


@pytest.fixture(scope="module", name="generator")
def _generator(generator_folder: Path) -> Generator:
    return Generator(generator_folder, "cpu")


def next_shares(generator: Generator, prompt: list[int], written: list[int]) -> np.ndarray:
    """Compute what comes next by a whole forward: (V,) probabilities without the tokens that are no text."""
    rows = generator.start([prompt])
    if written:
        rows = generator.extend(rows, [written])
    scores = generator.log_probabilities(rows)[0].double().numpy().copy()
    scores[[generator.vocabulary[token] for token in SPECIAL]] = -np.inf
    shares = np.exp(scores - scores.max())
    return np.asarray(shares / shares.sum())


def test_a_tiny_nucleus_writes_what_is_most_likely(generator: Generator) -> None:
    """With top_p near 0 every sample is the greedy text, as a loop of whole forwards finds it, if that ends in time."""
    for question in (QUESTION, "密码忘记了", "图书馆", "ab", "选课成绩查询的吗"):
        prompt = generator.tokenize([question])[0]
        greedy = [int(next_shares(generator, prompt, []).argmax())]
        while greedy[-1] != generator.separator and len(greedy) < 20:
            greedy.append(int(next_shares(generator, prompt, greedy).argmax()))
        ended = greedy[-1] == generator.separator
        found = sample(generator, prompt, 3, 1e-9, 20, seed=1)
        assert [one.tokens for one in found] == ([greedy[:-1]] * 3 if ended else [])
        shares = [next_shares(generator, prompt, greedy[:place])[token] for place, token in enumerate(greedy)]
        for one in found:
            assert one.log_probability == pytest.approx(np.log(shares).mean(), abs=1e-4)


def test_samples_follow_the_model(generator: Generator) -> None:
    """Of 6,000 samples of at most one token each text is as frequent as the model says, within five standard deviations."""
    prompt, number, end = generator.tokenize([QUESTION])[0], 6_000, generator.separator
    counts = Counter(tuple(one.tokens) for one in sample(generator, prompt, number, 1.0, 2, seed=3))
    first = next_shares(generator, prompt, [])
    expected = {(): first[end]}
    for token in np.argsort(-first)[:8].tolist():
        if token != end:
            expected[token,] = first[token] * next_shares(generator, prompt, [token])[end]
    for text, share in expected.items():
        assert abs(counts[text] - number * share) <= 5 * np.sqrt(number * share * (1 - share)) + 1


def test_a_seed_repeats_and_another_does_not(generator: Generator) -> None:
    """The same seed writes the same texts, another one others."""
    prompt = generator.tokenize([QUESTION])[0]
    one, same, other = (sample(generator, prompt, 8, 0.95, 40, seed=seed) for seed in (5, 5, 6))
    assert one == same != other


def test_tokens_that_are_not_wanted_are_not_written(generator: Generator) -> None:
    """Of samples without the likeliest first token none has it, and the others are as frequent as their shares of the rest."""
    prompt, number, end = generator.tokenize([QUESTION])[0], 4_000, generator.separator
    first = next_shares(generator, prompt, [])
    never = [token for token in np.argsort(-first).tolist() if token != end][:3]
    written = [one.tokens for one in sample(generator, prompt, number, 1.0, 2, seed=4, never=never)]
    assert not any(token in never for tokens in written for token in tokens)
    share = first[end] / (1 - first[never].sum())
    assert abs(written.count([]) - number * share) <= 5 * np.sqrt(number * share * (1 - share)) + 1


def test_marks_are_not_written(generator_folder: Path) -> None:
    """No sample has a square bracket or a stand-in where the text has none, though the generator can write them."""
    paraphraser = Paraphraser(generator_folder, "cpu", lambda texts: np.ones((len(texts), 2), np.float32), 1)
    unwanted = {*MARKS, *STAND_IN_TOKENS}
    for top_p in (0.9, 1.0):
        found, _ = paraphraser.samples(QUESTION, Sampling(10, 60, top_p, 2), Deadline())
        assert found
        assert not any(character in unwanted for text in found for character in text)
    paraphraser.close()


def test_word_pieces_become_text() -> None:
    """Chinese has no spaces, words of letters have one, and pieces join."""
    assert spelled(["花", "呗", "怎", "么", "还", "?"]) == "花呗怎么还?"
    assert spelled(["app", "##le", "id", "登", "录", "5", "##g"]) == "apple id登录5g"


def test_what_the_tokenizer_reads_as_another_character_needs_no_stand_in() -> None:
    """A traditional character stays where the tokenizer reads it as a simplified one of the vocabulary; a rare one does not."""
    tokenizer = build_tokenizer(["中国银行"], 100, 40)
    table = Fallbacks(tokenizer.get_vocab(), tokenizer.normalizer.normalize_str)
    assert table.apply("中國銀行") == "中國銀行"
    assert table.apply("龘") in STAND_IN_TOKENS


def test_repetitions_are_left_out() -> None:
    """Case, width and punctuation make no other text; order stays."""
    assert different(["怎么还款？", "如何还款", "如何，还款", "ＡＢ", "ab", "？"], "怎么还款") == ["如何还款", "ＡＢ"]
    assert letters_of("Ａ b，c！") == "abc"


@pytest.fixture(scope="module", name="client")
def _client(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, generator_folder: Path
) -> Iterator[TestClient]:
    given: dict[str, Any] = {"device": "cpu", "runtime": "torch", "sample": False, "threads": 1}
    folder = tmp_path_factory.mktemp("paraphrases") / "data"
    settings = Settings(data_dir=folder, model=model_folder, paraphrase_model=generator_folder, max_samples=60, **given)
    with client_of(settings) as client:
        yield client


def test_paraphrases_are_ranked_distinct_and_never_the_input(client: TestClient) -> None:
    """At most n texts, all different from each other and the input, by falling cosine, the same again for a seed."""
    body = {"text": QUESTION, "n": 5, "samples": 40, "top_p": 0.95, "seed": 7}
    answer = client.post("/v1/paraphrases", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    texts = [one["text"] for one in found["paraphrases"]]
    cosines = [one["cosine"] for one in found["paraphrases"]]
    assert found["text"] == QUESTION
    assert not found["truncated"]
    assert 0 < len(texts) <= 5 <= found["distinct"]
    assert len({letters_of(text) for text in [*texts, QUESTION]}) == len(texts) + 1
    assert cosines == sorted(cosines, reverse=True)
    assert found["took_ms"]["total"] >= found["took_ms"]["generate"] > 0
    assert client.post("/v1/paraphrases", json=body).json()["paraphrases"] == found["paraphrases"]
    pairs = {"pairs": [[QUESTION, text] for text in texts], "measures": ["cosine"]}
    again = client.post("/v1/similarity", json=pairs).json()["results"]
    np.testing.assert_allclose([one["cosine"] for one in again], cosines, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"text": ""}, 422),
        ({"text": "  "}, 422),
        ({"text": QUESTION, "n": 0}, 422),
        ({"text": QUESTION, "samples": 61}, 413),
        ({"text": QUESTION, "top_p": 0}, 422),
        ({"text": QUESTION, "top_p": 1.5}, 422),
        ({"text": QUESTION, "seed": -1}, 422),
        ({"text": [QUESTION]}, 422),
        ({}, 422),
    ],
)
def test_a_bad_request_is_refused(client: TestClient, body: dict[str, Any], status: int) -> None:
    """What cannot be done is a 4xx with the contract's body."""
    answer = client.post("/v1/paraphrases", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert answer.json()["error_type"]


def test_a_default_above_a_limit_is_capped(tmp_path: Path, model_folder: Path, generator_folder: Path) -> None:
    """Whoever asks for no number of samples gets what the limit allows; whoever asks for more is refused."""
    given: dict[str, Any] = {"device": "cpu", "runtime": "torch", "sample": False, "threads": 1, "max_samples": 10}
    settings = Settings(data_dir=tmp_path, model=model_folder, paraphrase_model=generator_folder, **given)
    with client_of(settings) as client:
        answer = client.post("/v1/paraphrases", json={"text": QUESTION})
        assert answer.status_code == 200, answer.text
        assert answer.json()["distinct"] <= 10
        assert client.post("/v1/paraphrases", json={"text": QUESTION, "samples": 50}).status_code == 413


def test_a_text_longer_than_the_model_reads_is_said_to_be_cut(client: TestClient) -> None:
    """A long text is answered, and `truncated` is true."""
    answer = client.post("/v1/paraphrases", json={"text": QUESTION * 20, "n": 1, "samples": 2})
    assert answer.status_code == 200, answer.text
    assert answer.json()["truncated"]


def test_a_model_that_cannot_write_says_so(tmp_path: Path, model_folder: Path) -> None:
    """Without a language-model head the route answers 409 and names the setting."""
    settings = Settings(data_dir=tmp_path, model=model_folder, device="cpu", runtime="torch", sample=False, threads=1)
    with client_of(settings) as client:
        answer = client.post("/v1/paraphrases", json={"text": QUESTION})
    assert answer.status_code == 409
    assert "paraphrase_model" in answer.json()["error"]
