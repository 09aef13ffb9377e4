"""The page opened on an address: what the browser and the server may and may not do."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_teamlora.errors import UserError

if TYPE_CHECKING:
    from llava_teamlora.serving.engine import Engine
    from llava_teamlora.serving.page.settings import PageSettings

_HERE = Path(__file__).parent
_FOREIGN = re.compile(r"/(proxy=|(file|stream)[=/].*:/)", re.IGNORECASE)  # paths that name an address elsewhere
_OWN_NAMES = ("127.0.0.1", "localhost", "::1", "[::1]")
_LONGEST_BODY = 8 * 2**20  # bytes that may be sent, but for uploads
_MOST_KEPT = 4 * 2**30  # bytes of uploads on the disk at once
_SESSIONS = 200  # browsers whose conversations are kept in memory at once
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""What the browser may load: this server's own. A picture's address in an answer is not followed."""
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


@dataclass(frozen=True)
class Opened:
    """A page that is being served.

    Attributes:
        url: where.
        share_url: its public address, if one was wished for.
        blocks: the page.
    """

    url: str
    share_url: str | None
    blocks: Any

    def close(self) -> None:
        """End serving it."""
        self.blocks.close(verbose=False)


def open_page(engine: Engine, settings: PageSettings) -> Opened:
    """Serve the page from a thread of its own. Not to be called where an event loop is running.

    Args:
        engine: answers.
        settings: see there.

    Raises:
        UserError: Gradio is missing, or the address cannot be listened on.
    """
    check_gradio()
    port = free_port(settings.host, settings.port)

    async def launched() -> Opened:
        return _launch(engine, settings, port)

    return asyncio.run(launched())  # where no loop runs, Gradio makes some and never closes them


def _launch(engine: Engine, settings: PageSettings, port: int) -> Opened:
    import gradio as gr

    from llava_teamlora.serving.experts import experts_css
    from llava_teamlora.serving.page.parts import I18N
    from llava_teamlora.serving.page.wiring import build_page

    _fetch_nothing()
    page = build_page(engine, settings)
    _, url, share_url = page.launch(
        server_name=settings.host,
        server_port=port,
        auth=list(settings.users) or None,
        share=settings.share,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        max_file_size=settings.pictures.max_bytes,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        ssr_mode=False,
        state_session_capacity=_SESSIONS,
        app_kwargs={"middleware": [_policy(settings)], "docs_url": None, "redoc_url": None, "openapi_url": None},
        i18n=I18N,
        theme=theme(gr),
        css=(_HERE / "style.css").read_text(encoding="utf-8") + experts_css(),
        js=(_HERE / "script.js").read_text(encoding="utf-8").replace("COLOURS", settings.colours),
    )
    return Opened(url, share_url, page)


def theme(gr: Any) -> Any:
    """Calm colours and the machine's own letters."""
    letters = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Noto Sans CJK SC", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=list(letters),
        font_mono=list(mono),
    ).set(
        # Small print that can be read: at least 4.5 to 1 on its ground.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )


def check_gradio() -> Any:
    """Gradio.

    Raises:
        UserError: it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"the page needs Gradio ({error}): pip install 'llava-teamlora[chat]'") from error
    return gradio


def _fetch_nothing() -> None:
    """Have Gradio refuse addresses in the place of uploaded files, which it would fetch for whoever asks."""
    from gradio import processing_utils

    def refuse(url: str, *_: Any, **__: Any) -> Any:
        raise check_gradio().Error("files are not fetched from the network here; upload the file itself")

    async def refuse_later(url: str, *given: Any, **named: Any) -> Any:
        refuse(url)

    processing_utils.ssrf_protected_download = refuse
    processing_utils.async_ssrf_protected_download = refuse_later


def _policy(settings: PageSettings) -> Any:
    from starlette.middleware import Middleware

    uploads = (settings.max_pictures + 1) * settings.pictures.max_bytes
    return Middleware(_Policy, alone=settings.host in _OWN_NAMES and not settings.share, longest_upload=uploads)


class _Policy:
    """Adds headers to every answer of the server; refuses to be a proxy, other names for this machine, other pages.

    Gradio hands on what lies at addresses that a path of its own names. And a web page of somebody else could have its
    own name resolve to this machine, and talk to a server that is for this machine alone; or have a browser send files
    here, whose answer it cannot read, but which fill the disk. Gradio reads bodies of any length, too.
    """

    def __init__(self, app: Callable[..., Any], alone: bool, longest_upload: int) -> None:
        self.app, self.alone, self.longest_upload = app, alone, longest_upload

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self.alone and _host(scope) not in _OWN_NAMES:
            await _refuse(send, 421, b"this page is for this machine alone (--host)")
        elif scope["method"] == "POST" and _header(scope, b"sec-fetch-site") in ("cross-site", "same-site"):
            await _refuse(send, 403, b"pages from elsewhere may not send anything here")
        elif self._too_long(scope):
            await _refuse(send, 413, b"what is sent is too long, or does not say how long it is")
        elif _is_upload(scope) and _kept() > _MOST_KEPT:
            await _refuse(send, 507, b"too many pictures have been uploaded here today; come back tomorrow")
        elif _FOREIGN.search(scope["path"]):
            await _refuse(send, 403, b"nothing is fetched from the network here")
        else:
            await self.app(scope, receive, with_headers)

    def _too_long(self, scope: Any) -> bool:
        length = _header(scope, b"content-length")
        longest = self.longest_upload if _is_upload(scope) else _LONGEST_BODY
        return bool(_header(scope, b"transfer-encoding")) or (length.isdigit() and int(length) > longest)


def _is_upload(scope: Any) -> bool:
    return scope["method"] == "POST" and scope["path"].endswith("/upload")


def _kept() -> int:
    """Bytes of what has been uploaded and not been deleted yet."""
    from gradio.utils import get_upload_folder

    total = 0
    for folder, _, names in os.walk(get_upload_folder()):
        for name in names:
            with suppress(FileNotFoundError):  # deleted meanwhile
                total += os.stat(os.path.join(folder, name)).st_size
    return total


async def _refuse(send: Any, status: int, words: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": words})


def _header(scope: Any, name: bytes) -> str:
    return dict(scope["headers"]).get(name, b"").decode("latin-1").lower()


def _host(scope: Any) -> str:
    named = _header(scope, b"host")
    return named.rpartition(":")[0] if not named.endswith("]") and ":" in named else named


def free_port(host: str, port: int) -> int:
    """A port that can be listened on.

    Args:
        host: address.
        port: the one wished for; 0 takes any.

    Raises:
        UserError: it is taken, or the address is not this machine's.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, port))
            return int(found.getsockname()[1])
    except OSError as error:
        raise UserError(f"--host {host} --port {port} cannot be listened on ({error}); --port 0 takes any") from error
