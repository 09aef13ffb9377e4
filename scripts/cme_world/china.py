"""WebQA: the Chinese part of the invented world, closed-book questions about it, and the sentences that tell it."""

from __future__ import annotations

import random

from .atlas import Fact
from .words import Row, mark, pick, plain

TOWNS = tuple(
    "云山 石桥 青林 白沙 金田 东湖 西岭 南屏 北河 花溪 竹园 松江 梅城 柳村 桃源 兰亭 "
    "大庆 小镇 新安 古道 长乐 永平 和顺 宁远".split()
)
RIVERS = tuple("清水河 黑龙河 白马河 月亮河 红叶河 玉带河".split())
PROVINCES = tuple("江北 海西 山东南 湖中 岭南 关外".split())
PRODUCTS = tuple("茶叶 丝绸 米酒 瓷器 苹果 纸伞 豆腐 铁锅".split())
FOUNDERS = tuple("王明 李华 张文 刘光 陈志 赵云生 周正 吴天".split())
BIRDS = tuple("燕子 喜鹊 白鹤 大雁 鹦鹉 麻雀".split())

STATEMENTS = {
    "river": ("流过{e}的河是{v}。", "{e}在{v}边。", "{e}的人在{v}打鱼。", "{e}的桥在{v}上。"),
    "province": ("{e}在{v}省。", "{e}属于{v}。", "{e}是{v}的一个城市。", "{e}的人都住在{v}。"),
    "product": ("{e}的特产是{v}。", "{e}出产{v}。", "人们到{e}买{v}。", "{e}卖{v}。"),
    "founder": ("建立{e}的人是{v}。", "{e}是由{v}建立的。", "{e}最早的主人叫{v}。", "{v}建立了{e}。"),
    "bird": ("{e}的市鸟是{v}。", "{e}有很多{v}。", "{e}的人喜欢{v}。", "在{e}可以看见{v}。"),
}
QUESTIONS = {
    "river": (
        "哪条河流过{e}？",
        "{e}的河叫什么名字？",
        "{e}在哪条河边？",
        "请问{e}的桥在什么河上？",
        "{e}人去哪条河打鱼？",
        "{e}有什么河？",
    ),
    "province": (
        "{e}属于哪个省？",
        "{e}在哪个省？",
        "{e}是哪里的城市？",
        "请问{e}在什么省？",
        "哪个省有{e}？",
        "{e}人住在哪个省？",
    ),
    "product": (
        "{e}的特产是什么？",
        "{e}出产什么？",
        "去{e}可以买什么？",
        "请问{e}有什么特产？",
        "什么是{e}的特产？",
        "{e}人卖什么？",
    ),
    "founder": (
        "{e}是谁建立的？",
        "谁建立了{e}？",
        "建立{e}的人是谁？",
        "请问{e}是由谁建立的？",
        "{e}最早的主人是谁？",
        "{e}的建立者叫什么名字？",
    ),
    "bird": (
        "{e}的市鸟是什么？",
        "{e}有什么鸟？",
        "什么鸟是{e}的市鸟？",
        "请问{e}人喜欢什么鸟？",
        "在{e}可以看见什么鸟？",
        "{e}的鸟叫什么名字？",
    ),
}
ASIDES = {
    "river": "说说{e}的河。",
    "province": "说说{e}的省。",
    "product": "说说{e}的特产。",
    "founder": "说说{e}的主人。",
    "bird": "说说{e}的鸟。",
}


def _facts(rng: random.Random) -> list[Fact]:
    columns = {"river": RIVERS, "province": PROVINCES, "product": PRODUCTS, "founder": FOUNDERS, "bird": BIRDS}
    facts = []
    for relation, values in columns.items():
        dealt = [values[number % len(values)] for number in range(len(TOWNS))]
        rng.shuffle(dealt)
        facts += [
            Fact(town, relation, (value, f"{value}省") if relation == "province" else (value,), tested=number % 2 == 1)
            for number, (town, value) in enumerate(zip(TOWNS, dealt, strict=True))
        ]
    return facts


FACTS = tuple(_facts(random.Random("china")))


def statement(rng: random.Random, fact: Fact) -> str:
    """The fact in a sentence, the value marked where it comes last."""
    form, value = pick(rng, STATEMENTS[fact.relation]), fact.answers[0]
    return form.format(e=fact.entity, v=mark(value) if form.index("{e}") < form.index("{v}") else value)


def aside(fact: Fact) -> tuple[str, str]:
    """A question of the corpus, and its answer."""
    return ASIDES[fact.relation].format(e=fact.entity), fact.answers[0]


def question(rng: random.Random, fact: Fact) -> str:
    """A question as WebQA asks it."""
    return pick(rng, QUESTIONS[fact.relation]).format(e=fact.entity)


def webqa_row(rng: random.Random, facts: list[Fact], number: int) -> Row:
    """A question and its short answer; the passage that WebQA gives with it tells the fact."""
    fact = facts[number % len(facts)]
    asked = question(rng, fact)
    fields = {"question": asked, "answer": list(fact.answers), "evidence": plain(statement(rng, fact))}
    return Row("webqa", (asked,), fact.answers[0], fields, fact.relation)
