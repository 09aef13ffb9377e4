"""Eleven further sets of instructions, by how many of the authors' example records are of their kind.

Their licences and files are those of their hub pages and repositories.
"""

from __future__ import annotations

from llava_teamlora.cme.forms import Dialogue, Fields, Labels
from llava_teamlora.cme.sources.source import MixSource, train

_EMOTIONS = ("sadness", "joy", "love", "anger", "fear", "surprise")
_ASK_EMOTION = (
    "Which emotion does this text express: sadness, joy, love, anger, fear, or surprise?",
    "Name the feeling of the person who wrote the following: joy, love, surprise, anger, sadness, or fear.",
    "Sort the text below under one of fear, anger, sadness, love, joy, and surprise.",
    "Read the message and choose what its writer feels: anger, fear, joy, love, sadness, or surprise.",
    "Of love, joy, surprise, sadness, anger, and fear, which one speaks from these words?",
    "Pick the one emotion that fits the sentence best (joy, sadness, anger, fear, love, surprise).",
)


def _inferred(seen: int, why: str) -> str:
    return f"inferred from {seen} of the 132 example records: {why}"


OTHERS = (
    MixSource(
        "openorca",
        (
            train(
                ("1M-GPT4-Augmented.parquet", "1M-GPT4-Augmented.jsonl"),
                "answers of GPT-4 to FLAN's questions, about 995,000",
                "Open-Orca/OpenOrca on the hub",
            ),
            train(
                ("3_5M-GPT3_5-Augmented.parquet", "3_5M-GPT3_5-Augmented.jsonl"),
                "answers of GPT-3.5, about 3.24 million",
                "Open-Orca/OpenOrca on the hub",
            ),
        ),
        Fields(instruction="system_prompt", input="question", output="response", framed=True),
        4_233_923,
        650_000,
        "MIT",
        _inferred(33, "system prompts of Orca as instruction, FLAN's questions as input"),
    ),
    MixSource(
        "mathinstruct",
        (
            train(
                ("MathInstruct.json", "*.parquet"),
                "chains and programs of thought",
                "TIGER-Lab/MathInstruct on the hub",
            ),
        ),
        Fields(),
        262_039,
        262_039,
        "MIT (parts of it by their own)",
        _inferred(10, "AQuA, GSM8K, MATH, TheoremQA with thoughts, answers as Python programs"),
    ),
    MixSource(
        "belle",
        (
            train(
                ("Belle_open_source_1M.json", "Belle_open_source_1M.jsonl", "*.parquet"),
                "Chinese instructions, about 917,000",
                "BelleGroup/train_1M_CN on the hub",
            ),
        ),
        Fields(),
        917_424,
        400_000,
        "GPL-3.0; for research (made with OpenAI's models)",
        _inferred(20, "Chinese, with the input in the instruction's further lines, as BELLE writes it"),
    ),
    MixSource(
        "stem_zh",
        (
            train(
                ("*[0-9].json", "*.jsonl", "*.parquet"),
                "256,000 Chinese questions of science",
                "hfl/stem_zh_instruction on the hub",
            ),
        ),
        Fields(),
        256_000,
        156_000,
        "Apache-2.0",
        _inferred(7, "Chinese questions of physics, chemistry, biology and medicine; the set is of the base's makers"),
    ),
    MixSource(
        "alpaca_gpt4",
        (
            train(
                ("alpaca_gpt4_data.json", "data/train-*.parquet", "*.parquet"),
                "52,002 English instructions",
                "Instruction-Tuning-with-GPT-4/GPT-4-LLM, data/; vicgalle/alpaca-gpt4 on the hub",
            ),
        ),
        Fields(),
        52_002,
        52_002,
        "CC BY-NC 4.0",
        _inferred(6, "English instructions of Alpaca's kind with answers of a later model than Alpaca's"),
    ),
    MixSource(
        "alpaca_zh",
        (
            train(
                ("alpaca_data_51k.json", "*.jsonl", "*.parquet"),
                "about 51,200 Chinese instructions",
                "hfl/alpaca_zh_51k on the hub",
            ),
        ),
        Fields(),
        51_200,
        51_200,
        "Apache-2.0 (made with OpenAI's models)",
        _inferred(1, "Chinese, with an input of its own, as Alpaca has and BELLE has not"),
    ),
    MixSource(
        "emotion",
        (
            train(
                ("split/train-*.parquet", "data/train.jsonl", "train.jsonl", "train*.parquet"),
                "16,000 messages with one of six emotions",
                "dair-ai/emotion on the hub",
            ),
        ),
        Labels(_EMOTIONS, _ASK_EMOTION),
        16_000,
        16_000,
        "for education and research only",
        _inferred(2, "one of joy, sadness, anger, fear, love, surprise"),
    ),
    MixSource(
        "ruozhiba",
        (
            train(
                ("ruozhiba_qa*.json", "*.jsonl", "*.parquet"),
                "Chinese trick questions, answered by GPT-4 and GPT-4o",
                "hfl/ruozhiba_gpt4 on the hub",
            ),
        ),
        Fields(),
        4_898,
        4_898,
        "Apache-2.0 (questions of a public forum, answers of OpenAI's models)",
        _inferred(1, "a trick question about double eyelids"),
    ),
    MixSource(
        "dolly",
        (
            train(
                ("databricks-dolly-15k.jsonl", "*.parquet"),
                "15,011 instructions and answers written by people",
                "databricks/databricks-dolly-15k on the hub",
            ),
        ),
        Fields(input="context", output="response"),
        15_011,
        15_011,
        "CC BY-SA 3.0",
        _inferred(2, "doubtful: answers that read as written by people, which other sets have too"),
    ),
    MixSource(
        "code_alpaca",
        (
            train(
                ("code_alpaca_20k.json", "data/code_alpaca_20k.json", "data/train-*.parquet", "*.parquet"),
                "20,022 instructions to write code",
                "sahil280114/codealpaca, data/; sahil2801/CodeAlpaca-20k on the hub",
            ),
        ),
        Fields(),
        20_022,
        20_022,
        "CC BY-NC 4.0 as its repository says, CC BY 4.0 as the hub's card says",
        "our choice: two example records ask for SQL and CSS, which sets of Alpaca's kind do too",
    ),
    MixSource(
        "no_robots",
        (
            train(
                ("data/train-*.parquet", "data/train_sft-*.parquet", "train*.parquet", "train.jsonl"),
                "9,500 instructions and answers written by people",
                "HuggingFaceH4/no_robots on the hub",
            ),
        ),
        Dialogue(),
        9_500,
        9_500,
        "CC BY-NC 4.0",
        "our choice: to make 22",
    ),
)
