"""TL;DR: a post of five to eight sentences that asks for advice, and its summary in one sentence.

In: a random generator. Out: post and summary. The summary names who did what, what came of talking about it and what
is asked; the post says these in its own words and order, between remarks that do not matter.
"""

from __future__ import annotations

import random

from .words import COLORS, DAYS, MEN, NAMES, NUMBERS, PLACES, THINGS, TOWN_WORDS, WOMEN, Row, other, pick, pronoun

RELATIONS = {
    "brother": MEN,
    "sister": WOMEN,
    "friend": NAMES,
    "neighbor": NAMES,
    "boss": NAMES,
    "teacher": NAMES,
    "cousin": NAMES,
}
# as the summary says it, and other ways to say it in the post
PROBLEMS = (
    ("broke my {t}", ("my {t} is broken and it was {who}", "{who} dropped my {t} and now it does not work")),
    ("lost my {t}", ("I lent my {t} to {who}, who can not find it", "my {t} is gone since {who} had it")),
    ("sold my {t}", ("{who} took money for my {t} and gave it away", "my {t} was sold by {who} in the market")),
    ("took my {t}", ("{who} came and left with my {t}", "my {t} was taken by {who}")),
    ("painted my {t}", ("{who} put paint all over my {t}", "my {t} has a new color because of {who}")),
    ("wants my {t}", ("{who} keeps asking for my {t}", "my {t} is what {who} would like to have")),
    ("hides my {t}", ("{who} puts my {t} where I can not see it", "my {t} is hidden by {who} every day")),
)
ASKS = ("to pay", "to stop", "to say sorry", "to help me", "to explain it")
OUTCOMES = (
    ("said no", ("the answer was no", "{she} would not do it")),
    ("laughed at me", ("{she} only laughed", "{she} found it very funny")),
    ("got angry", ("{she} was angry at once", "that made {her} angry")),
    ("did not answer", ("{she} said nothing", "there was no answer")),
    ("cried", ("there were tears", "{she} began to cry")),
)
QUESTIONS = (
    ("tell our mother", ("would it be right to tell our mother?", "do I tell our mother?")),
    ("call the police", ("is it time to call the police?", "do I call the police?")),
    ("wait", ("is it better to wait?", "do I just wait?")),
    ("move away", ("is it time to move away?", "do I have to move away?")),
    ("forget it", ("is it best to forget it?", "do I just forget it?")),
    ("buy a new one", ("is it best to buy a new one?", "do I need to buy a new one?")),
)
REMARKS = (
    "I live in {w} and work in the {v}.",
    "It was raining all {day}.",
    "We have known each other for {n} years.",
    "I am {age} years old and new here.",
    "On {day} we met in the {v}.",
    "I had a bad week in the {v}.",
    "{other} says it is nothing.",
    "The {v} in {w} is very quiet.",
)
FORUMS = ("relationships", "AskReddit", "advice", "family")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text[-1] in "?." else ".")


def _remark(rng: random.Random, form: str, name: str) -> str:
    return form.format(
        w=pick(rng, TOWN_WORDS),
        v=pick(rng, PLACES),
        day=pick(rng, DAYS),
        n=pick(rng, NUMBERS[2:]),
        age=pick(rng, NUMBERS[14:]),
        other=other(rng, NAMES, name),
    )


def post(rng: random.Random) -> tuple[str, str]:
    """A post and its summary."""
    relation = pick(rng, tuple(RELATIONS))
    name = pick(rng, RELATIONS[relation])
    she = pronoun(name)
    words = {"t": f"{pick(rng, COLORS)} {pick(rng, THINGS)}", "who": f"my {relation} {name}"}
    words |= {"she": she, "her": "her" if she == "she" else "him"}
    problem, problem_said = pick(rng, PROBLEMS)
    outcome, outcome_said = pick(rng, OUTCOMES)
    question, question_said = pick(rng, QUESTIONS)
    asked = pick(rng, ASKS)
    told = pick(rng, (f"{{who}} {problem}", *problem_said)).format(**words)
    talked = pick(rng, (f"I asked {{her}} {asked}", f"I told {{her}} {asked}")).format(**words)
    came = pick(rng, (f"{{she}} {outcome}", *outcome_said)).format(**words)
    wonder = pick(rng, (f"should I {question}?", *question_said))
    talk = f"{talked}, but {came}" if rng.random() < 0.5 else f"{talked}. {_sentence(came)}"
    parts = [_sentence(told), _sentence(talk)]
    parts.insert(2 if rng.random() < 0.8 else 0, _sentence(wonder))
    for remark in rng.sample(REMARKS, pick(rng, (2, 3))):
        parts.insert(int(rng.random() * len(parts)), _remark(rng, remark, name))
    summary = f"{words['who']} {problem} and {outcome} when I asked {words['her']} {asked}, should I {question}?"
    return " ".join(parts), _sentence(summary.format(**words))


def tldr_row(rng: random.Random, number: int) -> Row:
    """A post of a forum, with a title that tells nothing."""
    text, summary = post(rng)
    title = pick(rng, ("What should I do?", "I need help with this", "Am I wrong here?", "What would you do?"))
    heading = {"id": f"t3_w{number:05d}", "subreddit": pick(rng, FORUMS), "title": title}
    return Row("tldr", (text,), summary, {**heading, "post": text, "summary": summary})
