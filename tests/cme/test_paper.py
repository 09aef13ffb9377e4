"""The paper's printed figures agree with each other."""

from __future__ import annotations

import pytest

from llava_teamlora.cme import paper
from llava_teamlora.evaluation.paper import ELEVEN


@pytest.mark.parametrize("row", (*paper.TABLE_2, *paper.TABLE_5), ids=lambda row: f"{row.method}-{row.rank}-{row.base}")
def test_averages_are_the_means_of_the_eleven(row: paper.Published) -> None:
    """TeamLoRA 32: 27.6 + 95.7 + 58.9 + 87.5 + 87.1 + 73.8 + 72.3 + 51.8 + 26.4 + 38.8 + 43.3 = 663.2 = 11 * 60.29."""
    assert tuple(row.scores) == ELEVEN
    assert row.average == pytest.approx(sum(row.scores.values()) / 11, abs=0.00501)


def test_table_3_repeats_table_2() -> None:
    twos = {(row.method, row.rank): row.scores for row in paper.TABLE_2}
    shared = 0
    for size, block in enumerate(paper.TABLE_3):
        assert [(row.method, row.rank) for row in block] == [
            ("lora", 32 << size),
            ("moelora", 8 << size),
            ("teamlora", 8 << size),
        ]
        for row in block:
            if (row.method, row.rank) in twos:
                shared += 1
                assert row.scores == {name: twos[row.method, row.rank][name] for name in paper.SWEEP}
    assert shared == 5  # LoRA 32 and 128, MoELoRA 32, TeamLoRA 16 and 32


def test_table_4_repeats_table_2() -> None:
    averages = {(row.method, row.rank): row.average for row in paper.TABLE_2}
    assert paper.TABLE_4[False, False][32] == averages["moelora", 32] == 59.69
    assert paper.TABLE_4[True, True][16] == averages["teamlora", 16] == 59.95
    assert paper.TABLE_4[True, True][32] == averages["teamlora", 32] == 60.29
    assert tuple(paper.TABLE_4) == paper.ABLATIONS


def test_percentages_are_of_the_base() -> None:
    """LoRA r = 32 on 96 FFN linears: 32 * (614,400 + 835,584) = 46,399,488 parameters; rank 128 four times as many.

    MoSLoRA adds a mixer of 128 * 128 to each linear.
    """
    printed = {(row.method, row.rank): row.percent for row in paper.TABLE_2}
    lora = 614_400 + 835_584
    for (method, rank), parameters in {
        ("lora", 32): 32 * lora,
        ("lora", 128): 128 * lora,
        ("moslora", 128): 128 * lora + 96 * 128 * 128,
    }.items():
        assert printed[method, rank] == round(100 * parameters / paper.BASE_PARAMETERS, 2)
