"""The benchmarks, by the name they have on the command line."""

from __future__ import annotations

from collections.abc import Iterable

from llava_teamlora.errors import UserError, nearest
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.benchmarks.gqa import Gqa
from llava_teamlora.evaluation.benchmarks.llava_bench import LlavaBench
from llava_teamlora.evaluation.benchmarks.mmbench import (
    MMBENCH,
    MMBENCH_CN,
    MMBENCH_CN_LLAVA,
    MMBENCH_CN_TEST,
    MMBENCH_LLAVA,
    MMBENCH_TEST,
)
from llava_teamlora.evaluation.benchmarks.mme import Mme
from llava_teamlora.evaluation.benchmarks.mmvet import MmVet
from llava_teamlora.evaluation.benchmarks.pope import Pope
from llava_teamlora.evaluation.benchmarks.seed import SEED, SEED_IMAGE
from llava_teamlora.evaluation.benchmarks.sqa import ScienceQa
from llava_teamlora.evaluation.benchmarks.textvqa import TextVqa
from llava_teamlora.evaluation.benchmarks.vizwiz import VizWizTest, VizWizVal
from llava_teamlora.evaluation.benchmarks.vqav2 import VqaV2TestDev, VqaV2Val
from llava_teamlora.evaluation.cme.anli import Anli
from llava_teamlora.evaluation.cme.arc import Arc
from llava_teamlora.evaluation.cme.imdb import Imdb
from llava_teamlora.evaluation.cme.mmlu import Mmlu
from llava_teamlora.evaluation.cme.nq import Nq
from llava_teamlora.evaluation.cme.qqp import Qqp
from llava_teamlora.evaluation.cme.rte import Rte
from llava_teamlora.evaluation.cme.tldr import Tldr
from llava_teamlora.evaluation.cme.triviaqa import TriviaQa
from llava_teamlora.evaluation.cme.webqa import WebQa
from llava_teamlora.evaluation.cme.winogrande import WinoGrande
from llava_teamlora.evaluation.paper import ELEVEN
from llava_teamlora.evaluation.types import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    "easy_vqa": EasyVqa(),
    "mme": Mme(),
    "mmbench": MMBENCH,
    "mmbench_cn": MMBENCH_CN,
    "mmbench_llava": MMBENCH_LLAVA,
    "mmbench_cn_llava": MMBENCH_CN_LLAVA,
    "mmbench_test": MMBENCH_TEST,
    "mmbench_cn_test": MMBENCH_CN_TEST,
    "seed": SEED,
    "seed_image": SEED_IMAGE,
    "pope": Pope(),
    "sqa": ScienceQa(),
    "textvqa": TextVqa(),
    "vizwiz": VizWizTest(),
    "vizwiz_val": VizWizVal(),
    "vqav2": VqaV2TestDev(),
    "vqav2_val": VqaV2Val(),
    "gqa": Gqa(),
    "mmvet": MmVet(),
    "llava_bench": LlavaBench(),
    "tldr": Tldr(),
    "imdb": Imdb(),
    "anli": Anli(),
    "qqp": Qqp(),
    "rte": Rte(),
    "winogrande": WinoGrande(),
    "arc": Arc(),
    "webqa": WebQa(),
    "nq": Nq(),
    "triviaqa": TriviaQa(),
    "mmlu": Mmlu(),
}

SETS = {"cme": ELEVEN}
"""Names that stand for several benchmarks."""


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        UserError: an unknown name.
    """
    if name not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise UserError(f"{name!r} is not a benchmark (known: {known}){nearest(name, BENCHMARKS)}")
    return BENCHMARKS[name]


def spelled_out(names: Iterable[str]) -> list[str]:
    """Names with those of a set in its place, each once."""
    return list(dict.fromkeys(member for name in names for member in SETS.get(name, (name,))))
