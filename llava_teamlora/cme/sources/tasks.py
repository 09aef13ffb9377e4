"""The training splits of the eleven tasks, in Table 2's order. Their rows are read by the tasks' own modules."""

from __future__ import annotations

from llava_teamlora.cme.forms import TaskForm
from llava_teamlora.cme.sources.source import MixSource, train
from llava_teamlora.evaluation.cme.task import Source

_GLUE = "https://gluebenchmark.com, or nyu-mll/glue on the hub"
_ARC = "https://ai2-public-datasets.s3.amazonaws.com/arc/ARC-V1-Feb2018.zip, or allenai/ai2_arc on the hub"


def _task(name: str, rows: int, licence: str, seen: int, *files: Source, cap: int | None = None) -> MixSource:
    records = f"; {seen} of the 132 example records" if seen else "; none of the 132 example records"
    return MixSource(name, files, TaskForm(name), rows, cap or rows, licence, f"a task of Table 2{records}")


TASKS = (
    _task(
        "tldr",
        116_722,
        "CC BY 4.0 (Webis-TLDR-17, of which OpenAI chose a part)",
        6,
        train(
            ("train.jsonl", "tldr_3_filtered/train.jsonl", "data/train-*.parquet", "train*.parquet"),
            "116,722 posts with summaries",
            "openai/summarize-from-feedback, datasets/tldr_3_filtered; CarperAI/openai_summarize_tldr on the hub",
        ),
    ),
    _task(
        "imdb",
        25_000,
        "unclear: ask (its page asks for a citation only)",
        4,
        train(
            ("aclImdb/train", "plain_text/train-*.parquet", "data/train-*.parquet", "train*.parquet"),
            "25,000 reviews",
            "https://ai.stanford.edu/~amaas/data/sentiment (aclImdb_v1.tar.gz), or stanfordnlp/imdb on the hub",
        ),
    ),
    _task(
        "anli",
        162_865,
        "CC BY-NC 4.0",
        8,
        *(
            train(
                (
                    f"anli_v1.0/{number}/train.jsonl",
                    f"{number}/train.jsonl",
                    f"plain_text/train_{number.lower()}*.parquet",
                    f"train_{number.lower()}*.parquet",
                ),
                f"round {number[1]}, {count} pairs",
                "https://dl.fbaipublicfiles.com/anli/anli_v1.0.zip, or facebook/anli on the hub",
                number,
            )
            for number, count in {"R1": "16,946", "R2": "45,460", "R3": "100,459"}.items()
        ),
    ),
    _task(
        "qqp",
        363_846,
        "Quora's terms of use: not for commerce",
        8,
        train(
            ("QQP/train.tsv", "train.tsv", "qqp/train-*.parquet", "train*.parquet")
            + ("quora_duplicate_questions.tsv", "train.csv"),
            "GLUE's training split, 363,846 pairs",
            f"{_GLUE} (QQP)",
        ),
        cap=200_000,
    ),
    _task(
        "rte",
        2_490,
        "unclear: ask (PASCAL's challenges, by way of GLUE)",
        0,
        train(
            ("RTE/train.tsv", "train.tsv", "RTE/train.jsonl", "train.jsonl", "rte/train-*.parquet", "train*.parquet"),
            "GLUE's training split, 2,490 pairs",
            f"{_GLUE} (RTE)",
        ),
    ),
    _task(
        "winogrande",
        40_398,
        "CC BY",
        4,
        train(
            (
                "winogrande_1.1/train_xl.jsonl",
                "train_xl.jsonl",
                "train.jsonl",
                "winogrande_xl/train-*.parquet",
                "train*.parquet",
            ),
            "the XL training split, 40,398 sentences",
            "https://storage.googleapis.com/ai2-mosaic/public/winogrande/winogrande_1.1.zip, or allenai/winogrande on "
            "the hub",
        ),
    ),
    _task(
        "arc",
        3_370,
        "CC BY-SA 4.0",
        1,
        *(
            train(
                (
                    f"ARC-V1-Feb2018*/{name}/{name}-Train.jsonl",
                    f"{name}/{name}-Train.jsonl",
                    f"{name}-Train.jsonl",
                    f"{name}/train-*.parquet",
                ),
                f"{name}'s training split, {count} questions",
                _ARC,
                group,
            )
            for group, name, count in (("easy", "ARC-Easy", "2,251"), ("challenge", "ARC-Challenge", "1,119"))
        ),
    ),
    _task(
        "webqa",
        36_145,
        "unclear: ask (Baidu, for research)",
        4,
        train(
            ("WebQA.v1.0/me_train.json", "me_train.json", "train.json", "train.jsonl", "train*.parquet"),
            "36,145 questions",
            "Baidu's WebQA 1.0 (arXiv 1607.06275; kexue.fm/archives/4338 has it without features), or suolyer/webqa on "
            "the hub",
        ),
    ),
    _task(
        "nq",
        87_925,
        "CC BY-SA 3.0",
        8,
        train(
            ("NQ-open.train.jsonl", "nq_open/NQ-open.train.jsonl", "nq_open/train-*.parquet", "train*.parquet"),
            "87,925 questions",
            "google-research-datasets/natural-questions, nq_open/; nq_open on the hub",
        ),
    ),
    _task(
        "triviaqa",
        87_622,
        "Apache-2.0 for the collection; its questions' own is unclear: ask",
        6,
        train(
            (
                "triviaqa-unfiltered/unfiltered-web-train.json",
                "unfiltered-web-train.json",
                "unfiltered.nocontext/train-*.parquet",
                "train*.parquet",
            ),
            "the unfiltered training split, 87,622 questions",
            "nlp.cs.washington.edu/triviaqa (triviaqa-unfiltered.tar.gz), or mandarjoshi/trivia_qa on the hub",
        ),
    ),
    _task(
        "mmlu",
        99_842,
        "MIT (its auxiliary training questions come from ARC, RACE, OpenBookQA, MCTest and others)",
        0,
        train(
            (
                "data/auxiliary_train/*.csv",
                "auxiliary_train/*.csv",
                "all/auxiliary_train-*.parquet",
            ),
            "auxiliary_train, 99,842 questions",
            "https://people.eecs.berkeley.edu/~hendrycks/data.tar, or cais/mmlu on the hub",
        ),
    ),
)
