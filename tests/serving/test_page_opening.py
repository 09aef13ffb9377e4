"""The chat page's server: who may come in, what it tells browsers, what it refuses; and the command's settings."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import httpx
import outbound
import pytest
from PIL import Image

from llava_teamlora.errors import UserError
from llava_teamlora.serving.chat_command import add_parser, page_settings
from llava_teamlora.serving.engine import Engine
from llava_teamlora.serving.family import load_family
from llava_teamlora.serving.page import PageSettings, open_page, opening, read_examples
from llava_teamlora.serving.page.labels import LABELS, preferred

USERS = (("ada", "secret"),)


@pytest.fixture(scope="module")
def url(tiny: str) -> Iterator[str]:
    """A page for one user by password; at the end nothing has asked for another machine."""
    with outbound.watched() as calls, Engine(load_family([tiny], device="cpu")) as engine:
        opened = open_page(engine, PageSettings(port=0, users=USERS))
        try:
            yield opened.url.rstrip("/")
        finally:
            opened.close()
    assert calls == []


@pytest.fixture
def inside(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        assert client.post("/login", data={"username": "ada", "password": "secret"}).status_code == 200
        yield client


def test_nobody_comes_in_without_the_password(url: str) -> None:
    assert url.startswith("http://127.0.0.1:")
    assert httpx.get(f"{url}/config").status_code == 401
    assert httpx.post(f"{url}/login", data={"username": "ada", "password": "wrong"}).status_code == 400
    upload = httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.png", b"x")})
    assert upload.status_code == 401


def test_browsers_are_told_to_load_nothing_from_elsewhere(inside: httpx.Client) -> None:
    page = inside.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and page.headers["referrer-policy"] == "no-referrer"
    settings = inside.get("/config").json()
    assert settings["analytics_enabled"] is False
    assert "fonts.googleapis" not in inside.get("/theme.css").text


def test_another_name_for_this_machine_is_refused(inside: httpx.Client) -> None:
    assert inside.get("/", headers={"Host": "evil.example:80"}).status_code == 421
    assert inside.get("/", headers={"Host": "localhost:7860"}).status_code == 200


def test_another_page_cannot_have_a_browser_send_files(inside: httpx.Client) -> None:
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
        upload = inside.post("/gradio_api/upload", files={"files": ("a.png", b"x")}, headers={"Sec-Fetch-Site": site})
        assert upload.status_code == status, site


def test_files_of_the_machine_and_addresses_are_refused(inside: httpx.Client) -> None:
    assert inside.get("/gradio_api/file=/etc/hostname").status_code == 403
    for endpoint in ("/docs", "/redoc", "/openapi.json", "/monitoring/summary"):
        assert inside.get(endpoint).status_code in (403, 404), endpoint


def test_an_upload_beyond_the_limit_is_refused(inside: httpx.Client) -> None:
    content = bytes(PageSettings().pictures.max_bytes + 1)
    assert inside.post("/gradio_api/upload", files={"files": ("a.png", content)}).status_code == 413


def test_uploads_do_not_fill_the_disk(inside: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(opening, "_MOST_KEPT", 1000)
    sent = {"files": {"files": ("a.png", b"a")}}
    assert inside.post("/gradio_api/upload", **sent).status_code == 200
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.png").write_bytes(bytes(1001))
    assert inside.post("/gradio_api/upload", **sent).status_code == 507


def test_bodies_have_a_longest(inside: httpx.Client) -> None:
    join = {"url": "/gradio_api/queue/join", "headers": {"Content-Type": "application/json"}}
    assert inside.post(**join, content=bytes(9 * 2**20)).status_code == 413
    assert inside.post(**join, content=iter([b"{", b"}"])).status_code == 413  # chunked: of no length
    assert inside.post(**join, content=b"{}").status_code == 422


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser.parse_args(["chat", *words])


def test_settings_of_the_command_line(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("ada:se:cret\n\nbob:x\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "shape.png")
    (tmp_path / "shape.txt").write_text("what shape?\n")
    settings = page_settings(
        parsed("run", "--auth", str(users), "--examples", str(tmp_path), "--max_upload_mib", "0.5", "--theme", "dark")
    )
    assert settings.users == (("ada", "se:cret"), ("bob", "x")) and settings.pictures.max_bytes == 2**19
    assert [(each.picture.name, each.question) for each in settings.examples] == [("shape.png", "what shape?")]
    assert settings.host == "127.0.0.1" and not settings.share and settings.colours == "dark"
    assert settings.log_votes is None and page_settings(parsed("run")).users == ()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--auth", "nobody"], "neither USER:PASSWORD nor a file"),
        (["--auth", ":x"], "neither USER:PASSWORD nor a file"),
        (["--max_upload_mib", "0"], "--max_upload_mib 0.0 must be above 0"),
        (["--port", "70000"], "--port 70000"),
        (["--log_votes", "no/such/votes.jsonl"], "its folder is not there"),
        (["--temperature", "-1"], "--temperature -1.0"),
        (["--examples", "nowhere"], "no such folder"),
    ],
)
def test_impossible_settings(flags: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        page_settings(parsed("run", *flags))


def test_examples_need_a_picture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no picture"):
        read_examples(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(" ")
    with pytest.raises(UserError, match="is empty"):
        read_examples(tmp_path)


def test_a_port_in_use_is_said(url: str, tiny: str) -> None:
    taken = int(url.rpartition(":")[2])
    with Engine(load_family([tiny], device="cpu")) as engine, pytest.raises(UserError, match=f"--port {taken}"):
        open_page(engine, PageSettings(port=taken))


def test_each_label_is_there_in_both_languages() -> None:
    for key, (english, chinese) in LABELS.items():
        assert english and chinese, key
        assert sorted(_slots(english)) == sorted(_slots(chinese)), key
    found = {None: "en", "": "en", "zh-TW,en": "zh", "en-GB,zh": "en", "de, zh;q=0.5": "zh", ";;,,": "en"}
    assert {accepted: preferred(accepted) for accepted in found} == found


def _slots(text: str) -> list[str]:
    from string import Formatter

    return [name for _, name, _, _ in Formatter().parse(text) if name]
