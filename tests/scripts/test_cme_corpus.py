"""The text that the embedded base learns from: all facts and words are in it, no evaluation item is."""

import random
import re
from collections import Counter
from pathlib import Path

from cme_world import china, questions
from cme_world.atlas import FIRST_NAMES, PEOPLE_FACTS, TOWN_FACTS
from cme_world.corpus import KINDS, corpus, facts_told
from cme_world.splits import TASKS, normalised, splits
from cme_world.words import CLOSE, OPEN, plain
from embedded_cme import task

FACTS = (*TOWN_FACTS, *PEOPLE_FACTS, *china.FACTS)
MARKED = list(corpus(3, 9000))
DOCUMENTS = [plain(document) for document in MARKED]


def test_corpus_is_deterministic_and_small_in_words() -> None:
    assert list(corpus(3, 50)) == list(corpus(3, 50)) != list(corpus(4, 50))
    words = Counter(word for text in DOCUMENTS for word in normalised(text))
    english = [word for word in words if word.isascii()]
    assert len(english) <= 950 and 120 <= len(words) - len(english) <= 250
    assert 20 <= sum(words.values()) / len(DOCUMENTS) <= 60


def test_corpus_marks_its_answers() -> None:
    """Nearly every document has some; marks never nest, stay open, or stand at a beginning."""
    for text in MARKED:
        signs = re.findall(f"[{OPEN}{CLOSE}]", text)
        assert signs == [OPEN, CLOSE] * (len(signs) // 2) and not text.startswith(OPEN), text
    assert sum(OPEN in text for text in MARKED) > 0.97 * len(MARKED)
    marked = {answer for text in MARKED for answer in re.findall(f"{OPEN}(.+?){CLOSE}", text)}
    assert {"yes", "no", "maybe", "A", "D", "good", "same", "entailment", "negative", "fur"} <= marked


def test_corpus_has_all_words_of_the_tasks() -> None:
    known = {word for text in DOCUMENTS for word in re.findall(r"[\u4e00-\u9fff]|[^\W_]+", text)}
    made = [row for both in splits(0, 350, 120).values() for rows in both for row in rows]
    used = {
        word
        for row in made
        for text in (*row.texts, row.answer)
        for word in re.findall(r"[\u4e00-\u9fff]|[^\W_]+", text)
    }
    assert not used - known


def test_corpus_gives_no_evaluation_item_away(world: Path) -> None:
    """Neither a question of a test, nor thirteen words in a row of one, nor the tasks' instructions."""
    text = "\n".join(DOCUMENTS)
    for name in TASKS:
        for said in (task(name).instruction, *task(name).paraphrases):
            assert not said or said not in text
    runs = {
        words[start : start + 13]
        for document in DOCUMENTS
        for words in [normalised(document)]
        for start in range(len(words) - 12)
    }
    joined = " ".join(normalised(text))
    for name in TASKS:
        for source in task(name).tests:
            for path in source.find(world / "eval" / name):
                for item in task(name).items(path):
                    words = normalised(item.texts[0])
                    assert not runs & {words[start : start + 13] for start in range(len(words) - 12)}
                    if name in ("nq", "triviaqa", "webqa"):
                        assert f" {' '.join(words)} " not in f" {joined} "


def test_corpus_tells_every_fact_and_asks_only_what_tests_do_not() -> None:
    """In a share of the corpus that a base of 100,000 documents reads each fact a hundred times in."""
    rng = random.Random(5)
    told = "\n".join(plain(facts_told(rng)) for _ in range(4000))
    sentences = {sentence.lower() for sentence in re.findall(r"[^.。\n]+[.。]", told.replace(". ", "."))}
    asked = " ".join(re.findall(r"(?:Q: |问：)(.+?)(?: A: |答：)", "\n".join(DOCUMENTS)))
    assert asked.count("?") > 200
    assert sum(share for maker, _, share, _ in KINDS if maker is facts_told) >= 0.1
    for fact in FACTS:
        names = (fact.entity, f"{FIRST_NAMES.get(fact.entity)} {fact.entity}")
        values = (fact.answers[0], fact.answers[-1])
        forms = (china if fact in china.FACTS else questions).STATEMENTS[fact.relation]
        said = {form for form in forms for e in names for v in values if form.format(e=e, v=v).lower() in sentences}
        assert len(said) >= 3, fact
        assert not (fact.tested and fact.entity in asked), fact
