"""A whole look at training data: every kind of trouble is found, named and counted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoTokenizer

from llava_teamlora.data import check
from llava_teamlora.data.check import Share, collect_records, look, look_at_pictures, measure
from llava_teamlora.data.dataset import ConversationDataset, VisionFormat
from llava_teamlora.data.images import in_threads
from llava_teamlora.data.records import Record, load_records
from llava_teamlora.data.report import check_files, from_ranges, skipped_json, to_ranges
from llava_teamlora.data.templates import get_template
from llava_teamlora.errors import UserError

WriteJson = Callable[..., str]
IMAGE_ID, PER_IMAGE = 3, 16


def conversation(*turns: str) -> list[dict[str, str]]:
    """human, gpt, human, … from plain texts."""
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]


@pytest.fixture
def encoder(tiny: str, pictures: Path) -> Callable[[list[Record]], ConversationDataset]:
    """Records -> samples of at most 120 tokens, 16 a picture."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    vision = VisionFormat(None, IMAGE_ID, PER_IMAGE, "pad")
    return lambda records: ConversationDataset(records, get_template("v1"), tokenizer, 120, vision, pictures)


def test_bad_records_are_collected_and_good_ones_kept(rows: list[Any], write_json: WriteJson) -> None:
    bad = [{"id": "x", "conversations": []}, "text", {"conversations": conversation("<image> q", "a")}]
    path = write_json([rows[0], *bad, rows[1], rows[2]])
    records, findings = collect_records(path)
    assert [record.index for record in records] == [0, 4, 5]
    assert [record.turns for record in records] == [
        record.turns for record in load_records(write_json(rows, "good.json"))
    ]
    assert [(f.index, f.id, f.kind) for f in findings] == [(1, "x", "format"), (2, "2", "format"), (3, "3", "format")]
    assert findings[2].reason == "1 x <image> but no 'image' field; remove it or name a picture"


def test_a_broken_line_is_one_bad_record(rows: list[Any], write_json: WriteJson) -> None:
    lines = [json.dumps(rows[0]), '{"id": "b", "conver', json.dumps(rows[2])]
    path = write_json("\n".join(lines), "data.jsonl")
    records, findings = collect_records(path)
    assert [record.index for record in records] == [0, 2]
    assert "broken JSON at line 2, column 13" in findings[0].reason
    with pytest.raises(UserError, match="broken JSON at line 2"):
        load_records(path)


def _save(path: Path, image: Image.Image, **kwargs: Any) -> Path:
    image.save(path, **kwargs)
    return path


def _cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


NOISE = Image.effect_noise((300, 200), 60).convert("RGB")
BLACK, WHITE = Image.new("RGB", (40, 40)), Image.new("RGB", (40, 40), "white")
TROUBLES: dict[str, tuple[str | None, Callable[[Path], Path]]] = {
    "plain.png": (None, lambda path: _save(path, NOISE)),
    "plain.jpg": (None, lambda path: _save(path, NOISE)),
    "missing.png": ("picture missing", lambda path: path),
    "folder.png": ("picture missing", lambda path: path.mkdir() or path),
    "text.png": ("picture broken", lambda path: (path.write_text("no picture"), path)[1]),
    "cut.png": ("picture broken", lambda path: _cut(_save(path, NOISE), 0.9)),
    "cut.jpg": ("picture broken", lambda path: _cut(_save(path, NOISE), 0.97)),
    "progressive.jpg": ("picture broken", lambda path: _cut(_save(path, NOISE, progressive=True), 0.97)),
    "cut.webp": ("picture broken", lambda path: _cut(_save(path, NOISE), 0.9)),
    "two.gif": ("animated", lambda path: _save(path, BLACK, save_all=True, append_images=[WHITE])),
    "deep.png": ("16-bit", lambda path: _save(path, Image.new("I;16", (40, 40)))),
    "print.jpg": ("CMYK", lambda path: _save(path, Image.new("CMYK", (40, 40)))),
    "clear.png": ("transparent", lambda path: _save(path, Image.new("RGBA", (40, 40)))),
    "turned.jpg": ("EXIF-rotated", lambda path: _save(path, NOISE, exif=_turned())),
    "flat.png": ("tiny", lambda path: _save(path, Image.new("RGB", (40, 7)))),
    "huge.png": ("huge", lambda path: _save(path, Image.new("1", (40_001, 1_000)))),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_picture_is_seen_for_what_it_is(name: str, tmp_path: Path) -> None:
    kind, make = TROUBLES[name]
    found = look(make(tmp_path / name))
    assert [one for one, _ in found] == ([kind] if kind else [])


def test_every_record_with_a_bad_picture_is_named_and_odd_pictures_once(tmp_path: Path, write_json: WriteJson) -> None:
    Image.new("RGBA", (40, 40)).save(tmp_path / "odd.png")
    names = ["odd.png", "gone.png", "odd.png", "gone.png"]
    rows = [{"image": name, "conversations": conversation("<image>\nq", "a")} for name in names]
    records = load_records(write_json(rows))
    findings = look_at_pictures(records, tmp_path)
    assert sorted((f.kind, f.index) for f in findings) == [
        ("picture missing", 1), ("picture missing", 3), ("transparent", 0),
    ]  # fmt: skip
    with pytest.raises(UserError, match="no --image_folder is given"):
        look_at_pictures(records, None)


def _together(work: Callable[[Share], Any], processes: int) -> list[Any]:
    """Threads in place of processes: each gets its share, and all gather."""
    parts: dict[int, list[list[Any]]] = {rank: [] for rank in range(processes)}
    barrier = threading.Barrier(processes)
    results: dict[int, Any] = {}

    def run(rank: int) -> None:
        def gather(part: list[Any]) -> list[Any]:
            parts[rank].append(part)
            barrier.wait(10)
            turn = len(parts[rank]) - 1
            return [item for other in range(processes) for item in parts[other][turn]]

        results[rank] = work(Share(rank, processes, gather))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [results[rank] for rank in range(processes)]


def test_processes_that_share_the_work_agree(
    rows: list[Any], pictures: Path, write_json: WriteJson, encoder: Callable[..., ConversationDataset]
) -> None:
    (pictures / "wide.png").unlink()
    rows = [*rows, {"image": "red.png", "conversations": conversation("<image> " + "red " * 200, "no")}, *rows]
    path = write_json(rows)
    good, report = check_files([path], str(pictures), encoder)
    for other_good, other in _together(lambda share: check_files([path], str(pictures), encoder, share=share), 3):
        assert other_good == good and other.findings == report.findings and other.lengths == report.lengths
    assert [f.kind for f in report.findings] == ["picture missing", "nothing trained", *["duplicate id"] * 2,
                                                 "picture missing", "duplicate id"]  # fmt: skip


def test_lengths_are_those_of_training(
    rows: list[Any], write_json: WriteJson, encoder: Callable[..., ConversationDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.append({"image": "red.png", "conversations": conversation("red " * 200, "no", "<image>", "yes")})
    rows.append({"conversations": conversation("what is it?", "red " * 200)})
    samples = encoder(load_records(write_json(rows)))
    measured = measure(samples)
    for one in (measured[0], measured[1], measured[2]):
        encoded = samples.encode(one.position)
        assert (one.tokens, one.trained) == (len(encoded.input_ids), encoded.trained_tokens)
        assert one.image_tokens == PER_IMAGE * ("image" in rows[one.position])
    assert measured[3].problem is not None and "would cut off a picture's tokens" in measured[3].problem
    assert measured[4].tokens > 200 and 0 < measured[4].trained < 120
    monkeypatch.setattr(check, "_WORTH_PROCESSES", 0)
    assert measure(samples, workers=1) == measured
    kinds = [finding.kind for finding in check.odd_lengths(samples, measured)]
    assert kinds == ["not encodable", "cut off"]


def test_a_report_counts_lists_and_refuses(
    rows: list[Any], pictures: Path, write_json: WriteJson, encoder: Callable[..., ConversationDataset]
) -> None:
    rows[2]["conversations"][1]["value"] = " "
    rows.append({"id": "d", "image": "none.png", "conversations": conversation("<image>\nq", "a")})
    rows.append({"id": "e", "conversations": []})
    path = write_json(rows)
    good, report = check_files([path], str(pictures), encoder)
    assert [record.id for record in good[path]] == ["a", "b", "c"]
    content = json.loads(report.as_json())
    assert content["bad"] == {"format": 1, "picture missing": 1} and content["odd"] == {"empty answer": 1}
    assert content["records"] == {path: 5} and content["unusable_records"] == 2 and content["pictures"] == 3
    assert [(f["index"], f["bad"]) for f in content["findings"]] == [(2, False), (3, True), (4, True)]
    samples = encoder(load_records(write_json(rows[:4], "usable.json")))
    assert content["tokens"]["tokens"] == sum(len(samples.encode(i).input_ids) for i in range(4))
    assert "2 of 5 records cannot be used (1 format, 1 picture missing)" in report.refusal()
    assert f"{path}, record 3 (id d)" in report.refusal()
    listed = json.loads(skipped_json(report))
    assert listed["number"] == 2 and listed["records"][0] == {
        "file": path, "index": 3, "id": "d", "reason": f"{pictures / 'none.png'}: no such picture",
    }  # fmt: skip


def test_many_odd_findings_are_counted_but_not_all_listed(
    write_json: WriteJson, encoder: Callable[..., ConversationDataset]
) -> None:
    rows = [{"id": "same", "conversations": conversation("q", "a")} for _ in range(1500)]
    _, report = check_files([write_json(rows)], None, encoder)
    content = json.loads(report.as_json())
    assert content["odd"] == {"duplicate id": 1499}
    assert len(content["findings"]) == 1000 and content["findings_not_listed"] == 499


def test_ranges() -> None:
    numbers = [0, 1, 2, 5, 9, 10]
    assert to_ranges(numbers) == "0-2,5,9-10" and from_ranges("0-2,5,9-10") == set(numbers)
    assert to_ranges([]) == "" and from_ranges("") == set()


def test_ctrl_c_does_not_wait_for_what_has_not_begun() -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.005)
        return item

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_threads(work, range(4000), interrupt, threads=4)
    assert len(begun) < 400
