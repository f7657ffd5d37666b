"""Short Chinese texts to measure with: a file, or questions that a small grammar makes.

The grammar is ours, so that anyone can repeat a measurement without any data: an opening, a time, a thing of one of eight
domains, what is asked about it, a closing; all but the thing and the asking may be missing. It speaks several million
distinct questions of 6 to 30 characters. They repeat their words more than people do: read speeds from them, not quality.
"""

import lzma
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson

QUERIES = 500
"""Texts that are kept out of the corpus and asked for."""
SHORTEST, LONGEST = 6, 30
"""Characters of a made question."""

OPENINGS = [
    "请问",
    "你好，",
    "我想问一下",
    "想咨询一下",
    "麻烦问下",
    "帮我看看",
    "急，",
    "有人知道",
    "谁能告诉我",
    "新手提问，",
]
TIMES = [
    "今天",
    "昨天",
    "上个月",
    "刚才",
    "周末",
    "节假日",
    "晚上",
    "最近",
    "去年",
    "月底",
    "现在",
    "下午三点",
    "开学前",
]
PLACES = ["手机上", "网上", "柜台", "外地", "国外", "家里", "公司", "学校", "电脑上", "自助机上", "门店", "小程序里"]
CLOSINGS = [
    "呢",
    "啊",
    "吗",
    "谢谢",
    "，在线等",
    "，很着急",
    "，怎么回事",
    "，有什么办法",
    "，需要什么材料",
    "，要多久",
]
NUMBERS = [
    "第一次",
    "两次",
    "三张",
    "五百元",
    "一千块",
    "两万",
    "一个月",
    "半年",
    "三天",
    "二十四小时",
    "六位数",
    "两台",
]

DOMAINS = tuple(
    (things.split(), askings.split())
    for things, askings in (
        (
            "信用卡 储蓄卡 房贷 理财产品 网银 工资卡 定期存款 外币账户 电子汇票 分期账单 余额 积分",
            "怎么办理 如何注销 额度太低怎么提升 为什么被冻结 怎么还款 密码忘了怎么找回 逾期了会怎样 转账失败 手续费是多少 "
            "怎么查明细",
        ),
        (
            "快递 退货申请 优惠券 订单 购物车 预售商品 赠品 发票 会员 尾款 运费险 收货地址",
            "一直没有更新 怎么修改 可以取消吗 什么时候到账 为什么用不了 丢了怎么赔 能不能开具 少了一件 怎么催 和描述不一样",
        ),
        (
            "选课系统 宿舍 图书馆 奖学金 补考 学生证 校园卡 食堂 体育课 毕业论文 实习 转专业",
            "什么时候开放 怎么申请 丢了去哪里补办 有什么条件 几点关门 成绩在哪里看 可以换吗 名额有多少 需要谁签字 怎么预约",
        ),
        (
            "感冒 血压 牙齿 体检报告 过敏 疫苗 膝盖 失眠 孩子发烧 胃 眼睛 化验单",
            "疼了好几天 吃什么药好 应该挂哪个科 偏高要紧吗 怎么预防 多久能好 能报销吗 要不要复查 有什么注意的 怎么看懂",
        ),
        (
            "流量套餐 宽带 手机号 话费 路由器 漫游 短信 副卡 合约机 停机保号 来电显示 信号",
            "怎么变更 突然断了 被多扣了 如何携号转网 到期怎么续 怎么关闭 为什么这么慢 怎样过户 还剩多少 怎么投诉",
        ),
        (
            "高铁票 飞机票 酒店 护照 签证 行李 景区门票 租车 旅游团 民宿 候补订单 登机牌",
            "怎么改签 退了扣多少钱 过期了怎么换 没有赶上 可以带多少 提前几天订 订错了名字 怎么选座位 什么时候放票 丢失了找谁",
        ),
        (
            "安装包 数据库 登录页面 打印机 软件更新 备份文件 邮箱 浏览器 蓝牙耳机 电脑 账号 云盘",
            "打不开 总是报错 怎么卸载 连接不上 提示权限不足 怎么恢复 占用内存太大 运行很慢 如何迁移 怎么设置中文",
        ),
        (
            "社保 公积金 居住证 身份证 驾照 营业执照 个税 医保卡 失业金 落户 车辆年检 生育津贴",
            "怎么转移 在哪里缴 断缴了怎么补 如何提取 多少天办好 要本人去吗 怎样网上申报 到期换证流程 怎么查询进度 能代办吗",
        ),
    )
)
"""Things and what is asked about them."""


class Corpus(NamedTuple):
    """Texts to index and texts to ask for, all distinct."""

    name: str
    ids: list[str]
    texts: list[str]
    queries: list[str]


def made_corpus(count: int, queries: int = QUERIES, seed: int = 20) -> Corpus:
    """Make `count` texts and some more to ask for; the same for the same seed."""
    questions = made_questions(seed)
    found: dict[str, None] = {}
    while len(found) < count + queries:
        found[next(questions)] = None
    texts = list(found)
    return Corpus("made questions", [f"q{i}" for i in range(count)], texts[:count], texts[count:])


def made_questions(seed: int) -> Iterator[str]:
    """Speak questions without end; they may repeat."""
    choose = random.Random(seed)

    def maybe(words: list[str], share: float) -> str:
        return choose.choice(words) if choose.random() < share else ""

    while True:
        things, askings = choose.choice(DOMAINS)
        thing = maybe(NUMBERS, 0.12) + choose.choice(things)
        if choose.random() < 0.15:
            thing += "和" + choose.choice(things)
        question = (
            maybe(OPENINGS, 0.35)
            + maybe(TIMES, 0.4)
            + maybe(PLACES, 0.35)
            + thing
            + choose.choice(askings)
            + maybe(CLOSINGS, 0.4)
        )
        if SHORTEST <= len(question) <= LONGEST:
            yield question


def made_mixed(count: int, shortest: int, longest: int, seed: int = 7) -> list[str]:
    """Make texts of shortest to longest characters, their lengths spread evenly on a logarithmic scale, in no order."""
    questions, choose = made_questions(seed), random.Random(seed)
    mixed = []
    for size in np.geomspace(shortest, longest, count).astype(int):
        text = ""
        while len(text) < size:
            text += next(questions) + "。"
        mixed.append(text[:size])
    choose.shuffle(mixed)
    return mixed


def read_corpus(file: Path, count: int, queries: int = QUERIES) -> Corpus:
    """Read `count` texts of a file of id TAB text (``.xz`` too) and, from behind them, some more to ask for.

    Raises:
        ValueError: the file has fewer distinct texts, or a line without a tab.
    """
    found: dict[str, str] = {}
    with lzma.open(file, "rt", encoding="utf-8") if file.suffix == ".xz" else file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            id, tab, text = line.rstrip("\n").partition("\t")
            if not tab:
                raise ValueError(f"{file}:{number}: expected id, tab, text")
            if text.strip():
                found.setdefault(text, id)
            if len(found) == count + queries:
                break
    if len(found) < count + queries:
        raise ValueError(f"{file} has {len(found)} distinct texts, {count} and {queries} to ask for are needed")
    texts, ids = list(found), list(found.values())
    return Corpus(file.name, ids[:count], texts[:count], texts[count:])


def as_jsonl(ids: list[str], texts: list[str]) -> bytes:
    """Write documents one a line, as `POST …/imports` takes them."""
    return b"".join(orjson.dumps({"id": id, "text": text}) + b"\n" for id, text in zip(ids, texts, strict=True))
