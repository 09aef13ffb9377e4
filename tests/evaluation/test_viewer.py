"""The page of samples: what is written, and how it behaves in a browser."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import browsers
import pytest
from PIL import Image

from llava_teamlora.cli import main
from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.benchmarks import BENCHMARKS
from llava_teamlora.evaluation.benchmarks.easy_vqa import EasyVqa
from llava_teamlora.evaluation.scoring import score
from llava_teamlora.evaluation.types import EncodedPicture, Sample
from llava_teamlora.evaluation.viewer.pictures import SIDE, Unreadable, shrink
from llava_teamlora.evaluation.viewer.site import build_site

NASTY = '</script><script>window.broken = 1</script><img src=x onerror="window.broken = 1"> \u2028 "\\'
FIRST = ["circle", "no", "red", "circle", "no", "no", "red", NASTY]
SECOND = ["circle", "yes", "blue", "rectangle", "no", "no", "", "no"]
Write = Callable[..., Path]


@pytest.fixture
def two(root: Path, write_answers: Write, tmp_path: Path) -> list[str]:
    """Two scored sets of answers, 4 and 6 of 8 right: the second wins rows 1, 3 and 7 and loses row 2."""
    found = []
    for name, texts in (("first", FIRST), ("second", SECOND)):
        out = tmp_path / name / "scores.json"
        score(EasyVqa(), write_answers(texts), out, data_root=root)
        found.append(f"{name}={out}")
    return found


def data_of(page: Path) -> dict[str, Any]:
    """The samples as the page reads them: a JSON string inside JavaScript."""
    text = (page / "data.js").read_text(encoding="ascii")
    start = text.index("JSON.parse(") + len("JSON.parse(")
    return json.loads(json.loads(text[start : text.rindex(")")]))


def edit_rows(scores: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
    path = Path(scores.partition("=")[2]).with_name("scores.rows.jsonl")
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_page_of_two_runs(two: list[str], tmp_path: Path) -> None:
    site = build_site(two, tmp_path / "page")
    assert (site.samples, site.pictures, site.missing) == (8, 3, 0)
    data = data_of(tmp_path / "page")
    assert [(run["label"], run["value"], run["n"]) for run in data["runs"]] == [("first", 50.0, 8), ("second", 75.0, 8)]
    assert data["groups"] == ["yes/no", "color", "shape"] and data["notes"] == []
    last = data["samples"][-1]
    assert [answer["text"] for answer in last["answers"]] == [NASTY, "no"]
    assert last["answers"][1] == {"text": "no", "parsed": "no", "score": 1.0, "extra": {"lenient": 1.0}}
    assert (last["key"], last["targets"], last["metadata"]) == ("test/7", ["no"], {"picture": 2})
    with Image.open(tmp_path / "page" / last["picture"]) as picture:
        assert picture.format == "JPEG" and picture.getpixel((9, 9)) == (0, 0, 254)  # blue, as JPEG has it
    assert {path.name for path in (tmp_path / "page").iterdir()} == {
        *("index.html", "style.css", "app.js", "filters.js", "data.js", "pictures")
    }


def test_nothing_in_the_data_ends_its_script(two: list[str], tmp_path: Path) -> None:
    build_site(two, tmp_path / "page")
    raw = (tmp_path / "page" / "data.js").read_bytes()
    assert b"<" not in raw and raw.isascii() and raw.count(b"\n") == 2


def test_written_again_the_pictures_stay(two: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page"
    build_site(two, page)
    before = {path: path.stat().st_mtime_ns for path in page.glob("pictures/*")}
    data = (page / "data.js").read_bytes()
    build_site(two, page)
    assert {path: path.stat().st_mtime_ns for path in page.glob("pictures/*")} == before
    assert (page / "data.js").read_bytes() == data
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data.js").write_text("my own")
    with pytest.raises(UserError, match="mine: holds something else already"):
        build_site(two, tmp_path / "mine")


def test_missing_and_damaged_pictures_are_told(two: list[str], root: Path, tmp_path: Path) -> None:
    images = root / "easy-vqa" / "test" / "images"
    (images / "0.png").unlink()
    (images / "2.png").write_bytes(b"no picture")
    site = build_site(two[:1], tmp_path / "page")
    assert (site.pictures, site.missing) == (1, 2)
    data = data_of(tmp_path / "page")
    assert data["notes"][0].startswith(f"2 of 3 pictures cannot be shown; the first: {images / '0.png'}: ")
    assert data["samples"][0]["picture"] is None and "0.png: No such file" in data["samples"][0]["missing"]
    assert data["samples"][3]["missing"] is None and "2.png: cannot identify" in data["samples"][7]["missing"]


def test_pictures_that_moved_are_found_by_data_root(two: list[str], root: Path, tmp_path: Path) -> None:
    moved = root.rename(tmp_path / "moved")
    assert build_site(two[:1], tmp_path / "lost").missing == 3
    assert build_site(two[:1], tmp_path / "page", data_root=moved).pictures == 3
    with pytest.raises(UserError, match="nowhere"):
        build_site(two[:1], tmp_path / "page", data_root=tmp_path / "nowhere")


class Inside(EasyVqa):
    """Its pictures stand inside a data file, as MMBench's."""

    name = "inside"
    color = "red"

    def load(self, data_root: Path | None = None) -> list[Sample]:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), self.color).save(file, "PNG")
        picture = EncodedPicture("data.tsv, line 2", base64.b64encode(file.getvalue()).decode())
        return [Sample(f"q{i}", i, "what?", ("no",), image=picture, group="yes/no") for i in range(3)]

    def baselines(self, *_: Any) -> dict[str, Any]:
        return {}


def test_pictures_inside_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS, "inside", Inside())
    answers = tmp_path / "predictions.jsonl"
    lines = ({"question_id": i, "key": f"q{i}", "prompt": "what?", "text": "no"} for i in range(3))
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = tmp_path / "scores.json"
    score(Inside(), answers, scores)
    site = build_site([str(scores)], tmp_path / "page")
    assert (site.pictures, site.missing) == (1, 0)
    monkeypatch.setattr(Inside, "color", "blue")
    assert build_site([str(scores)], tmp_path / "other").missing == 1
    assert "inside inside's data file" in data_of(tmp_path / "other")["notes"][0]


def test_thumbnails_are_small_and_true() -> None:
    def png(*arguments: Any, **options: Any) -> io.BytesIO:
        file = io.BytesIO()
        Image.new(*arguments).save(file, "PNG", **options)
        return file

    with Image.open(io.BytesIO(shrink(png("RGBA", (2000, 500), (10, 200, 30, 0))))) as small:
        assert small.size == (SIDE, SIDE // 4) and small.mode == "RGB"
        assert max(abs(a - b) for a, b in zip(small.getpixel((9, 9)), (10, 200, 30), strict=True)) <= 2
    with Image.open(io.BytesIO(shrink(png("L", (5, 9), 128)))) as small:
        assert small.size == (5, 9) and small.mode == "RGB"
    with pytest.raises(Unreadable, match="cannot identify"):
        shrink(io.BytesIO(b"nothing"))
    torn = io.BytesIO(png("RGB", (64, 64), "red").getvalue()[:90])
    with pytest.raises(Unreadable):
        shrink(torn)


def test_partial_answers_and_a_limit_are_told(two: list[str], tmp_path: Path) -> None:
    edit_rows(two[1], lambda rows: rows.pop(0))
    build_site(two, tmp_path / "page", limit=5)
    data = data_of(tmp_path / "page")
    assert len(data["samples"]) == 5 and data["samples"][0]["answers"][1] is None
    assert data["notes"] == [
        "only the first 5 of 8 samples are here (--limit)",
        "second has no answer to 1 of 8 questions",
    ]


def test_rows_of_the_first_format(two: list[str], tmp_path: Path) -> None:
    """Further measures stood beside the score; no question_id, choices or metadata."""

    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row.update(row.pop("extra"))
            for name in ("question_id", "choices", "metadata", "cluster"):
                row.pop(name, None)

    edit_rows(two[0], change)
    build_site(two[:1], tmp_path / "page")
    sample = data_of(tmp_path / "page")["samples"][0]
    assert sample["answers"][0]["extra"] == {"lenient": 1.0} and sample["metadata"] == {} and sample["choices"] == []


def test_unlike_things_are_refused(two: list[str], tmp_path: Path) -> None:
    page, first = tmp_path / "page", Path(two[0].partition("=")[2])
    with pytest.raises(UserError, match="one scores.json or two side by side, these are 3"):
        build_site([*two, two[0]], page)
    with pytest.raises(UserError, match="--limit 0 must be at least 1"):
        build_site(two, page, limit=0)
    edit_rows(two[1], lambda rows: rows[3].update(prompt="what?"))
    with pytest.raises(UserError, match=r"1 of 8 questions read otherwise than in .*, the first is 'test/3'"):
        build_site(two, page)
    edit_rows(two[1], lambda rows: rows[3].update(score="high"))
    with pytest.raises(UserError, match=r"second/scores\.rows\.jsonl, line 4: 'score' must be int or float"):
        build_site(two, page)
    edit_rows(two[1], lambda rows: rows[3].update(rows[2]))
    with pytest.raises(UserError, match="line 4: the key 'test/2' stands there twice"):
        build_site(two, page)
    content = json.loads(first.read_text())
    first.write_text(json.dumps({**content, "version": 9}))
    with pytest.raises(UserError, match=r"is of easy_vqa \(version 1\), but .* \(version 9\); view them apart"):
        build_site(two, page)
    first.with_name("scores.rows.jsonl").unlink()
    with pytest.raises(UserError, match=r"scores\.rows\.jsonl: no such file; the rows are written"):
        build_site(two[:1], page)
    assert not page.exists()


def test_two_runs_of_one_model_are_told_apart(two: list[str], tmp_path: Path) -> None:
    """As answers of one model in two ways, without LABEL=: the manifests call both by the same name."""
    paths = [Path(argument.partition("=")[2]) for argument in two]
    for path in paths:
        manifest = {"model": {"model": "x", "kind": "base", "method": "none"}}
        path.write_text(json.dumps({**json.loads(path.read_text()), "manifest": manifest}))
    build_site([str(path) for path in paths], tmp_path / "page")
    labels = [run["label"] for run in data_of(tmp_path / "page")["runs"]]
    assert labels == [f"x (untuned), {path.parent}" for path in paths]


def test_the_command_needs_no_torch(two: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from llava_teamlora.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["evaluate", "view", *two, "--out", str(tmp_path / "page")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"8 samples, 3 pictures\npage: {tmp_path / 'page' / 'index.html'}\n"


def test_the_command_says_what_is_missing(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "view", str(tmp_path / "nothing.json"), "--out", str(tmp_path / "page")]) == 1
    assert "nothing.json: cannot be read" in capsys.readouterr().err


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture
def open_page(chromium: Any, two: list[str], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``open_page(address, **context options)``; at the end: nothing left the disk, failed or broke out."""
    build_site(two, tmp_path / "page")
    asked: list[str] = []
    said: list[str] = []
    contexts = []

    def opened(address: str = "", **options: Any) -> Any:
        contexts.append(chromium.new_context(**{"viewport": {"width": 1200, "height": 700}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(5000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((tmp_path / "page" / "index.html").as_uri() + address)
        page.wait_for_selector(".row")
        return page

    yield opened
    for context in contexts:
        assert all(page.evaluate("window.broken === undefined") for page in context.pages)
        context.close()
    assert asked and all(url.startswith(tmp_path.as_uri()) for url in asked)
    assert said == []


def keys(page: Any) -> list[str]:
    """The samples of the list, by stepping through it."""
    found = []
    for place in range(page.locator(".row").count()):
        page.locator(".row").nth(place).click()
        found.append(page.locator(".path a").inner_text())
    return found


@pytest.mark.browser
def test_filters_search_and_order(open_page: Callable[..., Any]) -> None:
    page = open_page()
    assert page.title() == "easy_vqa: first | second"
    assert page.locator("#status").inner_text() == "8 samples, mean score of all rows 50.0 % | 75.0 %"
    page.select_option("#change", "won")
    assert keys(page) == ["test/1", "test/3", "test/7"]
    assert page.locator("#status").inner_text() == "3 of 8 samples, mean score of these rows 0.0 % | 100.0 %"
    page.select_option("#group", label="shape (2)")
    assert keys(page) == ["test/3"]
    page.select_option("#change", "")
    page.select_option("#group", "")
    page.select_option("#verdict1", "wrong")
    assert keys(page) == ["test/2", "test/6"]
    page.select_option("#verdict1", "")
    page.fill("#search", "NOT THERE")
    assert keys(page) == ["test/7"] and page.locator("#prompt mark").inner_text() == "not there"
    page.fill("#search", "")
    page.select_option("#sort", "lost")
    assert keys(page)[0] == "test/2"
    page.fill("#search", "no such words")
    assert page.locator(".empty").first.inner_text() == "No sample passes these filters."


@pytest.mark.browser
def test_labels_are_numbered_only_where_they_begin_alike(open_page: Callable[..., Any], two: list[str]) -> None:
    def labels(page: Any) -> list[str]:
        return page.locator(".run .label").all_inner_texts()

    assert labels(open_page()) == ["first", "second"]
    folder = Path(two[0].partition("=")[2]).parents[1]
    build_site(
        [f"a rather long label{argument.partition('=')[0]}={folder / argument.partition('=')[0]}" for argument in two],
        folder / "page",
    )
    assert labels(open_page()) == ["1 a rather long labelfirst", "2 a rather long labelsecond"]


@pytest.mark.browser
def test_the_list_leaves_out_what_ends_every_prompt(open_page: Callable[..., Any], two: list[str]) -> None:
    """Two lines end all prompts here; the detail shows them, the list does not."""

    def instruct(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["prompt"] += "\nOptions: none\nAnswer the question using a single word or phrase."

    def counted(path: Path) -> None:
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "total": {**content["total"], "n": 5}}))

    for argument in two:
        edit_rows(argument, instruct)
    counted(Path(two[0].partition("=")[2]))
    build_site(two, Path(two[0].partition("=")[2]).parents[1] / "page")
    page = open_page()
    assert page.locator(".row .words div:first-child").first.inner_text() == "what shape is it?"
    assert page.locator("#prompt").inner_text().endswith("using a single word or phrase.")
    shown = page.locator(".run small").all_inner_texts()
    assert shown[0].endswith("n = 5 (there are 8 rows)") and shown[1].endswith("n = 8")


@pytest.mark.browser
def test_answers_are_text_and_keys_step(open_page: Callable[..., Any]) -> None:
    page = open_page()
    assert page.locator(".path a").inner_text() == "test/0"
    page.keyboard.press("End")
    assert page.locator(".path a").inner_text() == "test/7" and page.url.endswith("#test%2F7")
    answers = page.locator(".answer .text")
    assert answers.nth(0).text_content() == NASTY and answers.nth(1).text_content() == "no"
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.keyboard.press("j")
    assert page.locator(".path a").inner_text() == "test/6"
    page.keyboard.press("/")
    page.keyboard.type("j")  # is written, and steps no more
    assert page.locator("#search").input_value() == "j"
    page.keyboard.press("Escape")
    page.fill("#search", "")
    page.locator(".picture").click()
    assert page.locator("#enlarged").get_attribute("open") is not None
    page.keyboard.press("Escape")
    assert page.locator("#enlarged").get_attribute("open") is None
    assert page.locator(".picture img").evaluate("image => image.naturalWidth") == 64


@pytest.mark.browser
def test_a_link_to_one_sample(open_page: Callable[..., Any]) -> None:
    page = open_page("#" + quote("test/6", safe=""))
    assert page.locator(".path a").inner_text() == "test/6"
    page.fill("#search", "circle")
    page.evaluate("window.location.hash = 'test%2F2'")
    page.wait_for_function("document.querySelector('.path a').textContent === 'test/2'")
    assert page.locator("#search").input_value() == ""  # the filter that hid it is gone
    assert open_page("#%").locator(".path a").inner_text() == "test/0"  # a broken address is none


@pytest.mark.browser
def test_a_phone_shows_the_list_then_the_sample(open_page: Callable[..., Any]) -> None:
    page = open_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    assert not page.locator("#detail").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator(".row").nth(7).click()
    assert page.locator("#detail").is_visible() and page.locator(".path a").inner_text() == "test/7"
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#back").click()
    assert not page.locator("#detail").is_visible()
    page.locator("#more").click()
    page.select_option("#verdict0", "wrong")
    assert page.locator(".row").count() == 4 and page.locator("#more").inner_text() == "Filters (1)"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = open_page(color_scheme="light").evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
