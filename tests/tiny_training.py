"""A tiny corpus and command line for the tests of the training program."""

from argparse import Namespace
from pathlib import Path

from scripts.training.choices import parser

QUESTIONS = [
    "怎么还款",
    "如何办理还款",
    "银行卡丢了怎么办",
    "卡丢失如何处理",
    "密码忘记了",
    "忘了密码怎么找回",
    "how to log in",
    "登录 app 的方法",
]
PARAGRAPHS = [
    "图书馆每天早上八点开门，学生凭校园卡进入。借书期限是三十天，可以续借一次！逾期会收取费用。",
    "退货需要在七天之内提出申请，商品必须完好。客服会在两个工作日里回复；运费由买家承担。退款原路返回。",
    "选课系统在开学前一周开放，先选必修课程。名额满了以后可以排队，有人退课会自动补上。请留意通知。",
]


def write_corpus(folder: Path) -> Path:
    """Write pairs.tsv and text/ of a tiny corpus."""
    lines = []
    for number in range(12):
        for first in range(0, len(QUESTIONS), 2):
            lines.append(f"{QUESTIONS[first]}{number}\t{QUESTIONS[first + 1]}{number}\t1\tfaq/train")
            lines.append(f"{QUESTIONS[first]}{number}\t{QUESTIONS[(first + 3) % 8]}{number}\t0\tfaq/train")
            lines.append(f"{QUESTIONS[first]}甲{number}\t{QUESTIONS[first]}乙{number}\t1\tother")
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "text").mkdir()
    (folder / "text" / "campus.txt").write_text("\n".join(PARAGRAPHS * 6) + "\n", encoding="utf-8")
    return folder


def choices(corpus: Path, out: Path, *more: str) -> Namespace:
    """Give the command line of a tiny training run."""
    tiny = (
        "--steps 5 6 --characters 200 --pieces 60 --hidden 24 --layers 2 --heads 2 --inner 48 --positions 32 --dim 16"
    )
    sizes = "--passages 20 --passages-every 3 --positives 4 --negatives 2 --longest 12 --longest-passage 30"
    rest = "--max-tokens 32 --held-out 0.1 --windows 16 30 --masked-tokens 64"
    files = ["--pairs", str(corpus / "pairs.tsv"), "--text", str(corpus / "text"), "--out", str(out), "--device", "cpu"]
    return parser("").parse_args([*files, *tiny.split(), *sizes.split(), *rest.split(), *more])


EVERYTHING = [
    *("--mixup", "0.5"),
    *("--embedding-noise", "0.1"),
    *("--dropout", "0.1"),
    "--gradient-checkpointing",
    *("--layer-decay", "0.8"),
    *("--hard-negatives", "3"),
    *("--hard-ranks", "1", "12"),
    *("--cosent-weight", "0.5"),
    *("--language-pairs", "4"),
]
"""All options of the training that are off by default."""
