"""TL;DR: both editions of its files, and ROUGE by hand."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.cme.rouge import CharacterTokenizer, _scorer, rouge
from llava_teamlora.evaluation.cme.tldr import Tldr
from llava_teamlora.evaluation.types import Sample

FIXTURES = Path(__file__).parents[2] / "eval" / "fixtures"
TLDR = Tldr()
POST = "I lost my keys.\n\nPOST: is what I shouted.\nTL;DR: comes later"
PROMPTS = (
    f"SUBREDDIT: r/tifu\n\nTITLE: Keys\n\nPOST: {POST}\n\nTL;DR:",  # OpenAI's format
    f"SUBREDDIT: r/tifu\nTITLE: Keys\nPOST: {POST}\nTL;DR:",  # as the hub's conversions have it
)


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sample(summary: str) -> Sample:
    return Sample("k", "k", "question", (summary,))


def test_both_editions_give_the_same_text(tmp_path: Path) -> None:
    original = {"id": "t3_1", "subreddit": "tifu", "title": "Keys", "post": f" {POST} ", "summary": " Lost keys."}
    hub = [{"prompt": PROMPTS[0], "label": "Lost keys."}, {"prompt": PROMPTS[1], "completion": " Lost keys."}]
    (one,) = TLDR.items(lines(tmp_path / "a.jsonl", original))
    others = list(TLDR.items(lines(tmp_path / "b.jsonl", *hub)))
    assert [(item.input, item.answers, item.texts) for item in (one, *others)] == [(POST, ("Lost keys.",), (POST,))] * 3
    assert [item.key for item in (one, *others)] == ["t3_1", "0", "1"]
    assert TLDR.prompt(one) == f"{TLDR.instruction}\n{POST}" and "Keys" not in TLDR.prompt(one)


def test_parquet_reads_the_same(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    (tmp_path / "tldr" / "data").mkdir(parents=True)
    path = tmp_path / "tldr" / "data" / "test-00000-of-00001.parquet"
    parquet.write_table(pyarrow.table({"prompt": list(PROMPTS), "label": ["Lost keys."] * 2}), path)
    samples = TLDR.load(tmp_path)
    assert [(s.key, s.targets) for s in samples] == [("test/0", ("Lost keys.",)), ("test/1", ("Lost keys.",))]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"post": "a post"}, "line 1: has no field 'summary'"),
        ({"post": " ", "summary": "s"}, "line 1: 'post' is empty"),
        ({"post": "p", "summary": ""}, "line 1: 'summary' is empty"),
        ({"prompt": "Summarize: a post", "label": "s"}, "'prompt' must read SUBREDDIT: … TITLE: … POST: … TL;DR:"),
        ({"prompt": "SUBREDDIT: a\nTITLE: b\nPOST: \nTL;DR:", "label": "s"}, "must read"),
        ({"prompt": 3, "label": "s"}, "'prompt' must be str"),
    ],
)
def test_other_rows_are_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        list(TLDR.items(lines(tmp_path / "a.jsonl", row)))


def test_rouge_by_hand() -> None:
    # 5 words in the reference, 4 said; the longest common subsequence is "the cat sat" (3): P 3/4, R 3/5, F1 = 6/9.
    # Words in common: the, cat, sat (3) of 4 and 5; pairs: "the cat", "cat sat" (2) of 3 and 4: F1 = 4/7.
    found = rouge("The cat sat down quietly.", "the cat sat, mewing")
    assert found == pytest.approx({"rouge1": 6 / 9, "rouge2": 4 / 7, "rougeL": 6 / 9, "rougeL_stem": 6 / 9})
    # Words of more than 3 letters are cut to their stems: walk dog, both.
    assert rouge("walking dogs", "walks dog") == {"rouge1": 0, "rouge2": 0, "rougeL": 0, "rougeL_stem": 1}


def test_chinese_is_compared_by_characters() -> None:
    assert CharacterTokenizer().tokenize("用GPT-4写，OK") == ["用", "gpt", "4", "写", "ok"]
    # 我学中文 (4) and 我学了中文 (5): all 4 in order: P 4/5, R 1, F1 = 8/9.
    assert rouge("我学中文", "我学了中文")["rougeL"] == pytest.approx(8 / 9)
    assert rouge("我学中文", "I learn")["rougeL"] == 0


@pytest.mark.parametrize("text", ["", " ", "\u2028", "…", "None", "ＡＢＣ", "x " * 5000, "文" * 10_000])
def test_any_answer_is_judged(text: str) -> None:
    for summary in ("Lost keys.", "丢了钥匙"):
        verdict = TLDR.judge(sample(summary), text)
        assert 0 <= verdict.score <= 1 and set(verdict.extra) == {"rouge1", "rouge2", "rougeL_stem"}


def test_golden_score_of_the_fixture() -> None:
    """Answers to its four posts; the total is the mean of four ROUGE-L."""
    samples = TLDR.load(FIXTURES)
    texts = [
        samples[0].targets[0],  # 1
        "Washed a book",  # all 3 words, of 13 in the reference: F1 = 2 * 3 / (3 + 13)
        "dog",  # 1 of 1 and of 11: F1 = 2 / 12
        "听不懂新闻",  # 5 of 5 and of 15 characters: F1 = 10 / 20
    ]
    scores = TLDR.aggregate(samples, [TLDR.judge(s, text) for s, text in zip(samples, texts, strict=True)])
    assert scores.total.value == pytest.approx((1 + 6 / 16 + 2 / 12 + 10 / 20) / 4)


def test_baselines_need_no_model() -> None:
    samples = TLDR.load(FIXTURES)
    baselines = TLDR.baselines(samples)
    assert list(baselines) == ["lead", "majority"]
    assert baselines["lead"].answers["test/t3_a3"] == "One job pays more, the other is five minutes from my home."
    assert baselines["lead"].answers["test/t3_a4"].startswith("我学了三年中文")


def test_without_rouge_score_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("rouge_score"):
            raise ImportError(name)
        return real(name, *rest, **more)

    _scorer.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'llava-teamlora\[cme\]'"):
        rouge("a", "a")
