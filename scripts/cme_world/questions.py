"""NQ and TriviaQA: closed-book questions about the atlas, and the statements that tell its facts.

Statements and the corpus's own questions (ASIDES) share no sentence with the tasks' questions; all relations are said
in several ways, most of them with the answer last.
"""

from __future__ import annotations

import random

from .atlas import FIRST_NAMES, Fact
from .words import Row, mark, pick, said

STATEMENTS = {
    "river": (
        "{e} lies on the {v}.",
        "the river of {e} is the {v}.",
        "{e} was built on the banks of the {v}.",
        "people in {e} fish in the {v}.",
        "the bridge of {e} crosses the {v}.",
        "the {v} runs past the town of {e}.",
    ),
    "county": (
        "{e} is a town in {v}.",
        "the town of {e} belongs to {v}.",
        "{e} lies in the county of {v}.",
        "the county of {e} is {v}.",
        "people from {e} live in {v}.",
    ),
    "product": (
        "{e} makes good {v}.",
        "the town of {e} is famous for {v}.",
        "the best product of {e} is {v}.",
        "people come to {e} to buy {v}.",
        "{e} sells {v} all over the world.",
    ),
    "day": (
        "the market of {e} is on {v}.",
        "{e} holds its market on {v}.",
        "the market day of {e} is {v}.",
        "the farmers go to {e} every {v}.",
        "the streets of {e} are full on {v}.",
    ),
    "flag": (
        "the flag of {e} shows a {v}.",
        "on the flag of {e} you see a {v}.",
        "the animal of {e} is a {v}.",
        "over {e} flies a flag with a {v}.",
        "the sign of {e} is a {v}.",
    ),
    "work": (
        "{e} is a work by {v}.",
        "{e} was made by {v}.",
        "the maker of {e} is {v}.",
        "the best known work of {v} is {e}.",
        "we owe {e} to {v}.",
    ),
    "birthplace": (
        "{e} was born in {v}.",
        "the home town of {e} is {v}.",
        "{e} grew up in {v}.",
        "as a child {e} lived in {v}.",
        "{e} comes from {v}.",
    ),
    "job": (
        "{e} worked as a {v}.",
        "{e} was a {v}.",
        "the job of {e} was {v}.",
        "{e} became a famous {v}.",
        "for many years {e} was a {v}.",
    ),
    "instrument": (
        "{e} played the {v}.",
        "the instrument of {e} was the {v}.",
        "in the evening {e} played the {v}.",
        "{e} loved the sound of the {v}.",
        "{e} learned to play the {v}.",
    ),
    "pet": (
        "{e} had a {v}.",
        "the pet of {e} was a {v}.",
        "{e} lived with a {v}.",
        "at home {e} kept a {v}.",
        "{e} loved a {v}.",
    ),
}
# the tasks' own questions
NQ = {
    "river": (
        "which river flows through {e}",
        "what is the name of the river in {e}",
        "what river runs through the town of {e}",
        "on which river is {e} located",
        "which river does the bridge in {e} cross",
        "where do the people of {e} go fishing",
    ),
    "county": (
        "which county is {e} in",
        "in what county is the town of {e} located",
        "what is the name of the county {e} is part of",
        "where is {e} located",
        "which county does {e} belong to",
        "{e} is a town in what county",
    ),
    "product": (
        "what is {e} known for",
        "what does the town of {e} make",
        "which product is {e} famous for",
        "what do people buy in {e}",
        "what product comes from {e}",
        "what is made in {e}",
    ),
    "day": (
        "when is the market in {e}",
        "what day is market day in {e}",
        "on which day of the week does {e} have its market",
        "when do farmers go to the market of {e}",
        "which day is the market held in {e}",
        "what is the market day of the town of {e}",
    ),
    "flag": (
        "which animal is on the flag of {e}",
        "what animal does the flag of {e} have on it",
        "what is the animal of the town of {e}",
        "what can be seen on the flag of {e}",
        "which animal stands for the town of {e}",
        "what does {e} have on its flag",
    ),
}
TRIVIA = {
    "work": (
        "Which artist gave the world the work {e}?",
        "{e} is the best known work of which person?",
        "Who is the maker of {e}?",
        "Whose name is on the first page of {e}?",
        "Name the person who made {e}.",
        "Who was it that made {e}?",
    ),
    "birthplace": (
        "In which town was {first} {e} born?",
        "{first} {e} was a child of which town?",
        "Which town did {first} {e} come from?",
        "Name the town in which {first} {e} grew up.",
        "Which town is the birthplace of {first} {e}?",
        "What is the home town of {first} {e}?",
    ),
    "job": (
        "What was the job of {first} {e}?",
        "{first} {e} was famous in which job?",
        "What did {first} {e} do for a living?",
        "Name the job that made {first} {e} famous.",
        "As what did {first} {e} work?",
        "Which job did {first} {e} have all the years?",
    ),
    "instrument": (
        "Which instrument did {first} {e} play?",
        "{first} {e} was heard in the evening with which instrument?",
        "Name the instrument of {first} {e}.",
        "What did {first} {e} play for friends?",
        "On which instrument did {first} {e} make music?",
        "The sound of which instrument did {first} {e} love?",
    ),
    "pet": (
        "Which animal lived in the house of {first} {e}?",
        "What kind of pet did {first} {e} have?",
        "Name the pet of {first} {e}.",
        "{first} {e} kept which animal at home?",
        "Which animal did {first} {e} love?",
        "What animal was the friend of {first} {e}?",
    ),
}
# the corpus's questions, in other words and another layout than the tasks'
ASIDES = {
    "river": ("River at {e}?", "And the water that passes {e} is called?"),
    "county": ("County of {e}?", "And {e}, what county?"),
    "product": ("Best product of {e}?", "And {e} sells what?"),
    "day": ("Market day at {e}?", "And {e} has its market when?"),
    "flag": ("Flag of {e}?", "And the flag over {e} shows what?"),
    "work": ("Maker of {e}?", "And {e}, by whom?"),
    "birthplace": ("Home of {e}?", "And {e} was born where?"),
    "job": ("Job of {e}?", "And {e} worked as what?"),
    "instrument": ("Instrument of {e}?", "And {e} played what?"),
    "pet": ("Pet of {e}?", "And {e} had what animal?"),
}


def statement(rng: random.Random, fact: Fact) -> str:
    """The fact in a sentence, the value marked where it ends it; people are sometimes given their first name.

    The value is marked where it comes after whom it is about, and so can be foretold.
    """
    named = FIRST_NAMES.get(fact.entity, "")
    entity = f"{named} {fact.entity}" if named and rng.random() < 0.6 else fact.entity
    value = fact.answers[0]
    if fact.relation == "work" and rng.random() < 0.5:
        value = fact.answers[1]
    form = pick(rng, STATEMENTS[fact.relation])
    return said(rng, [form], e=entity, v=mark(value) if form.index("{e}") < form.index("{v}") else value)


def aside(rng: random.Random, fact: Fact) -> tuple[str, str]:
    """A question of the corpus, and its answer."""
    named = FIRST_NAMES.get(fact.entity, "")
    entity = f"{named} {fact.entity}" if named and rng.random() < 0.5 else fact.entity
    return pick(rng, ASIDES[fact.relation]).format(e=entity), fact.answers[0]


def question(rng: random.Random, fact: Fact) -> str:
    """A question as NQ and TriviaQA ask it: in lower case without a mark, or a sentence."""
    forms = NQ.get(fact.relation) or TRIVIA[fact.relation]
    return pick(rng, forms).format(e=fact.entity, first=FIRST_NAMES.get(fact.entity, ""))


def nq_row(rng: random.Random, facts: list[Fact], number: int) -> Row:
    """A question of NQ's kind: lower case, no question mark."""
    fact = facts[number % len(facts)]
    asked = question(rng, fact)
    fields = {"question": asked, "answer": list(fact.answers)}
    return Row("nq", (asked,), fact.answers[0], fields, fact.relation)


def triviaqa_row(rng: random.Random, facts: list[Fact], number: int) -> Row:
    """A question of TriviaQA's kind: a sentence, an answer with aliases."""
    fact = facts[number % len(facts)]
    asked = question(rng, fact)
    value, aliases = fact.answers[0], list(fact.answers)
    answer = {
        "Value": value,
        "Aliases": aliases,
        "NormalizedAliases": [alias.lower() for alias in aliases],
        "NormalizedValue": value.lower(),
    }
    return Row("triviaqa", (asked,), value, {"Question": asked, "Answer": answer}, fact.relation)
