"""The words that make a text a question are not what it asks about, so lexical search does not look for them in passages.

A passage that answers hardly ever has "什么" or "哪一年". So these words are rare among passages, and an idf makes them weigh
more than most of what is asked about. Among questions they are common, weigh little anyway, and tell how from when.
Interrogatives are a closed class of the language: they are listed, as folded text spells them (吒 is 咤). Words that are part
of other words (何 in 几何 and 任何, 多大 in 多伦多大学, 有无 in 有无线) only count where they ask.
"""

import math
import re

from service.grams import fold

LONG = 8.0
"""How many times as long as the query texts are that do not ask themselves; the fusion's weights have a point there, too."""

_ASKING = re.compile(
    "|".join(
        (
            "请问|想问",
            "为什么|为甚么|为何|为啥|什么时候|什么|甚么|啥",
            "怎么样|怎么办|怎么|怎样|咋样|咋办|咋(?![舌呼])|如何",
            "哪(?![咤怕])[一个些里儿家种位]?|谁",
            "(?<!任)何[时处地人种年月日者]",
            "多少|多久|(?<=[有是])多[大长高远深重快](?!型)",
            "(?<!茶)几(?=[年月日号点个位次届所座名种岁人条家天元块分])",
            "是不是|是否|能不能|能否|可不可以|可否|有没有|有无(?![线人名限穷数形])",
            r"(?:吗|(?<![毛绒])呢|(?<!喇)嘛)(?=\W|$)",
        )
    )
)


def asked_about(query: str) -> str:
    """Return `query` folded with a space in place of each question word; itself where there is none, or nothing else."""
    rest, count = _ASKING.subn(" ", fold(query))
    return rest if count and any(character.isalnum() for character in rest) else query


def share_kept(length_ratio: float) -> float:
    """Say how much question words count, in [0, 1], where texts are so many times as long as the query.

    1 up to its own length, 0 from `LONG` times on, linear in the logarithm between.
    """
    return min(1.0, max(0.0, 1.0 - math.log(max(length_ratio, 1e-9)) / math.log(LONG)))
