"""What somebody might send to the chat page past its own buttons: every time a clear refusal, and the page lives on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser_page import Served, serve
from hostile_files import hostile_files

from llava_teamlora.errors import UserError
from llava_teamlora.generation import Decoding, Query
from llava_teamlora.serving.pictures import PictureLimits, read_picture
from llava_teamlora.serving.tickets import Request

# See test_page_browser.py.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

FILES = hostile_files()
MIB = 2**20


@pytest.fixture(scope="module")
def served(run_folders: dict[str, Path]) -> Iterator[Served]:
    with serve([run_folders["teamlora"]], pictures=PictureLimits(max_bytes=MIB), max_question=5000) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """At the end the page still answers, and has asked nobody else."""
    with httpx.Client(base_url=served.url, timeout=30, trust_env=False) as client:
        yield client
        assert client.get("/").status_code == 200
    assert served.answer(Request("teamlora", Query.ask("are you there?"), Decoding(max_new_tokens=3)))
    assert served.calls == []


def upload(client: httpx.Client, name: str, content: bytes) -> httpx.Response:
    return client.post("/gradio_api/upload", files={"files": (name, content)})


def send(client: httpx.Client, question: Any, session: str = "hostile") -> str:
    """Send a question as the page's script does; returns all that comes back."""
    config = client.get("/config").json()
    asking = next(part["id"] for part in config["components"] if part["props"].get("elem_id") == "question")
    deed = next(
        deed for deed in config["dependencies"] if [asking, "submit"] in [list(target) for target in deed["targets"]]
    )
    values = {part["id"]: part["props"].get("value") for part in config["components"]}
    data = [question if each == asking else values.get(each) for each in deed["inputs"]]
    body = {"data": data, "fn_index": deed["id"], "session_hash": session, "event_data": None, "trigger_id": asking}
    joined = client.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    said = []
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            said.append(line)
            if '"process_completed"' in line or '"close_stream"' in line:
                break
    return json.dumps([json.loads(line[5:]) for line in said if line.startswith("data:")], ensure_ascii=False)


def a_file(path: str, **more: Any) -> dict[str, Any]:
    return {"text": "what is it?", "files": [{"path": path, "meta": {"_type": "gradio.FileData"}, **more}]}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_picture_is_refused_in_words(name: str) -> None:
    with pytest.raises(UserError, match=name) as refused:
        read_picture(FILES[name], name)
    assert len(str(refused.value)) < 300 and "Traceback" not in str(refused.value)


@pytest.mark.parametrize("name", ("bomb.png", "truncated.jpg", "text.png", "animated.gif", "drawing.png"))
def test_an_uploaded_file_is_looked_at(client: httpx.Client, served: Served, name: str) -> None:
    (path,) = upload(client, name, FILES[name]).json()
    before = len(served.engine.requests)
    said = send(client, a_file(path, orig_name=name), session=name)
    assert name in said and ("picture" in said or "pixels" in said or "animated" in said)
    assert len(served.engine.requests) == before


def test_an_upload_has_a_largest_size(client: httpx.Client) -> None:
    assert upload(client, "large.png", bytes(2 * MIB)).status_code == 413


@pytest.mark.parametrize(
    "name", ("../../../../etc/x.png", "..\\..\\x.png", "图片 🎉.png", "a" * 600 + ".png", "/etc/x.png")
)
def test_an_uploads_name_leads_nowhere(client: httpx.Client, name: str) -> None:
    (path,) = upload(client, name, b"content").json()
    assert Path(path).resolve().is_relative_to(os.environ["GRADIO_TEMP_DIR"])
    assert Path(path).read_bytes() == b"content"


@pytest.mark.parametrize(
    "path", ("/etc/hostname", "../../../../../../etc/hostname", str(Path(__file__)), "pyproject.toml")
)
def test_files_of_the_machine_stay_there(client: httpx.Client, served: Served, path: str) -> None:
    assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)
    before = len(served.engine.requests)
    said = send(client, a_file(path), session=path)
    assert "error" in said.lower() and len(served.engine.requests) == before


@pytest.mark.parametrize(
    "address", ("http://203.0.113.7/x.png", "https://example.invalid/x.png", "http://169.254.169.254/")
)
def test_the_server_fetches_nothing(client: httpx.Client, served: Served, address: str) -> None:
    before = len(served.engine.requests)
    for question in (a_file(address), a_file("x.png", url=address)):
        assert "error" in send(client, question, session=address).lower()
    for path in ("proxy=", "file=", "file/"):
        assert client.get(f"/gradio_api/{path}{address}").status_code == 403
    assert len(served.engine.requests) == before and served.calls == []


def test_a_drawing_is_not_run_by_the_browser(client: httpx.Client) -> None:
    (path,) = upload(client, "drawing.svg", FILES["drawing.svg"]).json()
    answer = client.get(f"/gradio_api/file={path}")
    assert answer.status_code in (403, 404) or "attachment" in answer.headers.get("content-disposition", "")


def test_a_text_has_a_longest(client: httpx.Client, served: Served) -> None:
    before = len(served.engine.requests)
    said = send(client, {"text": "why? " * 200_000, "files": []})
    assert "1000000 characters" in said and "5000" in said and len(served.engine.requests) == before


@pytest.mark.parametrize("question", (None, 7, "text", [], {}, {"text": 7, "files": 7}, {"text": "x", "files": [None]}))
def test_wrong_types(client: httpx.Client, question: Any) -> None:
    assert "Traceback" not in send(client, question, session=json.dumps(question))


def test_broken_bodies(client: httpx.Client) -> None:
    for body in (b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b'{"fn_index": 99999, "data": []}'):
        answer = client.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
        assert answer.status_code >= 400 and "Traceback" not in answer.text
