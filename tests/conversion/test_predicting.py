"""A benchmark is answered by every kind of folder: an original LLaVA, a routed run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from llava_originals import make_originals
from made_runs import MakeRun
from PIL import Image

from llava_teamlora.data.images import prepare_image
from llava_teamlora.evaluation.metrics import grouped_mean
from llava_teamlora.evaluation.runner import ModelAnswerer, Plan, predict
from llava_teamlora.evaluation.types import Benchmark, Sample, Scores, Verdict
from llava_teamlora.generation import Decoding, Query
from llava_teamlora.generation.loading import load_quietly

GREEDY = Decoding(max_new_tokens=4)


class Two(Benchmark):
    """Two questions about a picture and one about none."""

    name, summary, metric, version, max_new_tokens, groups = "two", "", "accuracy", 1, 4, ()

    def __init__(self, picture: Path) -> None:
        self.picture = picture

    def load(self, data_root: Path | None = None) -> list[Sample]:
        asked = [("what color is it?", self.picture), ("is it?", self.picture), ("say no", None)]
        return [Sample(str(i), i, prompt, ("red",), image) for i, (prompt, image) in enumerate(asked)]

    def judge(self, sample: Sample, text: str) -> Verdict:
        return Verdict(text, float(text in sample.targets))

    def aggregate(self, samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> Scores:
        return grouped_mean(samples, verdicts, self.groups)


def expected(folder: Path, samples: Sequence[Sample]) -> list[str]:
    """Greedy answers by whole forward passes of the model as it is."""
    loaded = load_quietly(folder, device="cpu")
    answerer, texts = ModelAnswerer(loaded), []
    assert loaded.vision is not None
    for sample in samples:
        extra, shown = {}, []
        if isinstance(sample.image, Path):
            with Image.open(sample.image) as picture:
                shown = [picture.convert("RGB")]
            extra = {"pixel_values": prepare_image(shown[0], loaded.vision.image_processor, "pad")[None]}
        ids = answerer.generator.encode(Query.ask(sample.prompt, *shown))[answerer.generator.prompt_length :]
        found: list[int] = []
        with torch.inference_mode():
            while len(found) < GREEDY.max_new_tokens:
                logits = answerer.generator.forbid(
                    None, loaded.model(torch.tensor([ids + found]), **extra).logits[:, -1]
                )
                found.append(int(logits[0].argmax()))
                if found[-1] in answerer.generator.end:
                    break
        texts.append(loaded.tokenizer.decode(found, skip_special_tokens=True).strip())
    return texts


@pytest.fixture(params=["original", "teamlora"])
def folder(request: pytest.FixtureRequest, make_run: MakeRun, tmp_path: Path, tiny: str) -> Path:
    if request.param == "original":
        return make_originals(tmp_path / "made", tiny).full()
    return make_run(request.param, r=8)


def test_every_kind_of_folder_answers(folder: Path, pictures: Path, tmp_path: Path) -> None:
    benchmark = Two(pictures / "wide.png")
    path = predict(benchmark, ModelAnswerer(load_quietly(folder, device="cpu")), GREEDY, Plan(tmp_path / "out"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["text"] for row in rows] == expected(folder, benchmark.load())
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["model"]["kind"] == ("run" if "run" in folder.name else "base")
    assert manifest["cost"]["pictures_decoded"] == 1
