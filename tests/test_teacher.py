"""A teacher: its lessons, how unlike vectors and relations are, and a small network that learns from a larger one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from scripts.train_simbert import run
from scripts.training.network import SimBert, bert_config
from scripts.training.packed import Sentences, sentences
from scripts.training.pairs import tokenize
from scripts.training.processes import Processes
from scripts.training.start import load_start
from scripts.training.teacher import Lessons, align, lesson_losses, likeness, load_teacher, relations
from tiny_training import QUESTIONS, choices, write_corpus


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(3, 30), min_size=5, max_size=200), st.integers(1, 9), st.integers(0, 5))
def test_a_lesson_is_sentences_of_the_row(row: list[int], size: int, number: int) -> None:
    """Every text of a lesson is [CLS], a sentence, [SEP] and padding; two processes share what one has."""
    tokens = np.array(row, dtype=np.uint16)
    found = sentences(tokens, [7, 9], 1, 12)
    lessons = Lessons(torch.from_numpy(tokens.astype(np.int32)), found, size, seed=1)
    if not len(found.starts):
        with pytest.raises(ValueError, match="no sentence"):
            lessons.batch(number)
        return
    expected = {tuple(row[start : start + length]) for start, length in zip(*found, strict=True)}
    ids = lessons.batch(number)
    assert len(ids) == min(size, len(found.starts))
    for line in ids.tolist():
        text = line[: max(place for place, token in enumerate(line) if token) + 1]
        assert (text[0], text[-1]) == (2, 3)
        assert tuple(text[1:-1]) in expected
    halves = [lessons.batch(number, slice(rank, None, 2)) for rank in (0, 1)]
    assert torch.equal(halves[0], ids[::2])
    assert torch.equal(halves[1], ids[1::2])


def test_an_epoch_of_lessons_reads_every_sentence_once() -> None:
    """The lessons of an epoch hold each sentence at most once, nearly all of them, those of a lesson of like length."""
    row = np.concatenate([np.append(np.full(1 + place % 9, 10 + place % 20), 3) for place in range(200)]).astype(
        np.uint16
    )
    found = Sentences(np.flatnonzero(np.append(3, row[:-1]) == 3), np.array([1 + place % 9 for place in range(200)]))
    lessons = Lessons(torch.from_numpy(row.astype(np.int32)), found, 6, seed=3)
    texts = [lessons.batch(number) for number in range(33)]
    assert sum(map(len, texts)) == 198
    spread = [int((one != 0).sum(dim=1).max() - (one != 0).sum(dim=1).min()) for one in texts]
    assert max(spread) <= 1


def test_equal_vectors_have_nothing_to_learn() -> None:
    """Both losses are 0 for equal vectors and above it for others; the relations are the mean KL divergence of the rows."""
    torch.manual_seed(0)
    ours, theirs = (torch.nn.functional.normalize(torch.randn(6, 8), dim=1) for _ in range(2))
    assert float(likeness(ours, ours)) == pytest.approx(0, abs=1e-6)
    assert float(likeness(ours, theirs)) == pytest.approx(1 - float((ours * theirs).sum() / 6), abs=1e-6)
    taught, teacher = ours @ ours.T, theirs @ theirs.T
    p, q = (20 * teacher).softmax(dim=1).double(), (20 * taught).softmax(dim=1).double()
    assert float(relations(taught, teacher, 20)) == pytest.approx(
        float((p * (p / q).log()).sum(dim=1).mean()), rel=1e-3
    )
    assert float(relations(taught, taught, 20)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [3, 50])
def test_another_basis_need_not_be_learnt(size: int) -> None:
    """A network whose teacher is itself in another basis gives the teacher's vectors once it is aligned, by small lessons too."""
    torch.manual_seed(0)
    network, teacher = (SimBert(bert_config(50, 24, 1, 2, 48, 64), 16, 1) for _ in range(2))
    teacher.load_state_dict(network.state_dict())
    torch.nn.init.normal_(teacher.dense.weight, std=0.2)
    tokens = torch.randint(5, 50, (4000,), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    starts = np.arange(0, 3990, 10)
    lessons = Lessons(tokens, Sentences(starts, 3 + starts // 10 % 7), size, 1)
    ids = torch.randint(5, 50, (40, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = float(likeness(network(ids).sentences, teacher.eval()(ids).sentences))
        align(network, teacher, lessons)
        after = float(likeness(network.eval()(ids).sentences, teacher(ids).sentences))
    assert before > 0.5
    assert after < 0.02


def test_a_small_network_learns_what_a_larger_one_says(tmp_path: Path) -> None:
    """All stages under a teacher bring the vectors nearer to the teacher's; the run goes on where it was stopped."""
    corpus = write_corpus(tmp_path)
    larger = ["--hidden", "32", "--layers", "3", "--stages", "language", "similar", "--steps", "3"]
    run(choices(corpus, tmp_path / "teacher", *larger))
    more = ["--teacher", str(tmp_path / "teacher"), "--tokenizer", str(tmp_path / "teacher" / "tokenizer.json")]
    more += ["--stages", "language", "taught", "similar", "supervised"]
    more += ["--steps", "1", "2", "150", "6", "--sentences", "16", "--rates", "1e-3", "1e-3", "5e-3", "1e-3"]
    small = run(choices(corpus, tmp_path / "small", *more)).eval()
    assert "taught" in (tmp_path / "small" / "curves.csv").read_text(encoding="utf-8")
    run(choices(corpus, tmp_path / "cut", *more), stop_at=2)
    resumed = run(choices(corpus, tmp_path / "cut", *more))
    for name, value in small.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    tokenizer = Tokenizer.from_file(str(tmp_path / "small" / "tokenizer.json"))
    teacher = load_teacher(tmp_path / "teacher", tokenizer.get_vocab(), 16)
    ids = tokenize(tokenizer, QUESTIONS).batch(np.arange(8), 12)
    ids = torch.from_numpy(ids)
    untaught = SimBert(small.bert.config, 16, 2).eval()
    with torch.no_grad():
        theirs = teacher(ids).sentences
        near, far = (float(likeness(one(ids).sentences, theirs)) for one in (small, untaught))
    assert near < 0.8 * far
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    alone = ["--start", str(tmp_path / "small"), "--teacher", str(tmp_path / "teacher"), "--projection-alone"]
    alone += ["--language-every", "0", "--mover-weight", "0", "--passages", "0"]
    alone += ["--stages", "taught", "supervised", "--steps", "1", "1", "2", "2"]
    projected = run(choices(corpus, tmp_path / "alone", *alone))
    started = SimBert(small.bert.config, 16, len(projected.threshold))
    load_start(started, tmp_path / "small")
    changed = {
        name for name, value in started.state_dict().items() if not torch.equal(value, projected.state_dict()[name])
    }
    assert {"dense.weight"} <= changed <= {"dense.weight", "threshold"}


def test_a_teacher_of_other_tokens_is_refused(tmp_path: Path) -> None:
    """A teacher with another vocabulary or other dimensions, a folder without one, and a lesson without a teacher are errors."""
    corpus = write_corpus(tmp_path)
    run(choices(corpus, tmp_path / "teacher", "--stages", "static", "--steps", "1"))
    vocabulary = Tokenizer.from_file(str(tmp_path / "teacher" / "tokenizer.json")).get_vocab()
    with pytest.raises(ValueError, match=r"this network 7 and 16"):
        load_teacher(tmp_path / "teacher", dict(list(vocabulary.items())[:7]), 16)
    with pytest.raises(ValueError, match="another vocabulary of"):  # of the same size
        load_teacher(tmp_path / "teacher", vocabulary | {"怎": vocabulary["么"], "么": vocabulary["怎"]}, 16)
    with pytest.raises(ValueError, match=r"no folder that scripts\.train_simbert wrote"):
        load_teacher(tmp_path / "nothing", vocabulary, 16)
    with pytest.raises(ValueError, match="needs a --teacher"):
        run(choices(corpus, tmp_path / "other", "--stages", "language", "taught", "--steps", "1"))
    network = SimBert(bert_config(50, 24, 1, 2, 48, 64), 16, 1)
    lessons = Lessons(torch.arange(5, 45, dtype=torch.int32), Sentences(np.array([0, 9]), np.array([5, 5])), 2, 1)
    found = lesson_losses(network, network, lessons, 0, 20.0, False)
    assert float(found["unlike"].detach()) == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="two sentences for each of 2 processes"):
        lesson_losses(network, network, lessons, 0, 20.0, False, Processes(1, 2))
