"""``llava-teamlora serve`` as a process: what it prints, refuses, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import outbound
import pytest

from llava_teamlora.cli import main
from llava_teamlora.serving.serve_command import _hosts


def test_it_serves_until_it_is_told_to_end(tiny: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("from-file\n")
    command = [
        sys.executable,
        "-m",
        "llava_teamlora.cli",
        "serve",
        f"{tiny}/",
        "--port",
        "0",
        "--served_name",
        "shapes",
    ]
    process = subprocess.Popen(
        [*command, "--api_key_file", str(keys), "--device", "cpu"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LLAVA_TEAMLORA_API_KEY": "from-environment"},
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("loading ")
        said = process.stderr.readline()
        assert said.startswith("serving shapes at http://127.0.0.1:")
        url = said.split()[3]
        curl = "".join(process.stderr.readline() for _ in range(3))
        assert f"curl {url}/chat/completions" in curl and '"model": "shapes"' in curl
        for key in ("from-file", "from-environment"):
            with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
                answer = client.chat.completions.create(
                    model="shapes", messages=[{"role": "user", "content": "hello"}], max_tokens=2
                )
                assert answer.choices[0].finish_reason in ("stop", "length")
        assert httpx.get(f"{url}/models?key=hidden").status_code == 401
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "POST /v1/chat/completions 200" in rest and "GET /v1/models 401" in rest
    assert "from-" not in curl + rest and "hidden" not in rest and "Traceback" not in rest


def refusal(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line in which a command line is refused."""
    assert main(["serve", *flags]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_mistakes_are_found_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"--port {port}: cannot be listened on (Address already in use)" in refusal(
            capsys, "none", "--port", port
        )
    assert "--host 192.0.2.1" in refusal(capsys, "none", "--host", "192.0.2.1", "--port", "0")
    assert "--port 65536: is none" in refusal(capsys, "none", "--port", "65536")
    assert "is no address" in refusal(capsys, "none", "--host", "no.such.name.invalid")
    assert "--max_batch 0" in refusal(capsys, "none", "--max_batch", "0")
    assert "--max_body_mib -1.0" in refusal(capsys, "none", "--max_body_mib", "-1")
    assert "--drain_s inf" in refusal(capsys, "none", "--drain_s", "inf")
    folder = str(tmp_path / "none")
    assert f"--allow_images_under {folder}: no such folder" in refusal(capsys, "none", "--allow_images_under", folder)
    assert "--api_key_file" in refusal(capsys, "none", "--api_key_file", folder)
    (tmp_path / "empty").write_text("\n")
    assert "holds no key" in refusal(capsys, "none", "--api_key_file", str(tmp_path / "empty"))
    assert "one word" in refusal(capsys, "none", "--api_key", "two words")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["cli", "run", "--load-4bit"], "--load-4bit is a flag of LLaVA's own programs; here: --bits 4"),
        (["chat", "--model-path", "run"], "the model needs no flag"),
        (["serve", "run", "--conv_mode", "v1"], "here: --version"),
        (["cli", "run", "--image-file", "a.png"], "here: --image"),
    ],
)
def test_llavas_own_flags_are_answered_with_ours(flags: list[str], words: str, capsys: Any) -> None:
    assert main(flags) == 1
    assert words in capsys.readouterr().err


def test_a_mistyped_folder_is_not_looked_for_on_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "runs" / "teamlora").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with outbound.watched() as calls:
        assert main(["cli", "runs/teamlra"]) == 1
    assert "runs/teamlra: no such folder; did you mean 'teamlora'?" in capsys.readouterr().err and calls == []


def test_which_names_it_is_called_by() -> None:
    assert "localhost" in _hosts("127.0.0.1", []) and "::1" in _hosts("::1", [])
    assert _hosts("0.0.0.0", []) == ()  # it does not know its names
    assert "chat.example" in _hosts("0.0.0.0", ["Chat.Example"])
