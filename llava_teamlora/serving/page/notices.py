"""Mistakes and failures of a handler, told on the page instead of a generic error."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from functools import wraps
from typing import Any

import gradio as gr

from llava_teamlora.errors import UserError
from llava_teamlora.serving.page import view

_LOG = logging.getLogger(__name__)

Change = dict[Any, Any]
Changes = AsyncGenerator[Change, None]
"""To be closed by whoever reads them no further: then the model stops at once."""


def told(deed: Callable[..., Coroutine[Any, Any, Change]]) -> Callable[..., Coroutine[Any, Any, Change]]:
    """A handler whose errors become the notice; what it gives back takes an older notice away."""

    @wraps(deed)
    async def careful(self: Any, *given: Any, **named: Any) -> Change:
        try:
            return await deed(self, *given, **named) or gr.skip()
        except Exception as error:
            return {self.parts.notice: _words(error)}

    return careful


def told_while_writing(deed: Callable[..., Changes]) -> Callable[..., Changes]:
    """Likewise of one that shows its work as it goes; the box is ready for another question then."""

    @wraps(deed)
    async def careful(self: Any, *given: Any, **named: Any) -> Changes:
        try:
            async with aclosing(deed(self, *given, **named)) as changes:
                async for change in changes:
                    yield change
        except Exception as error:
            yield {
                self.parts.notice: _words(error),
                self.parts.question: gr.MultimodalTextbox(submit_btn=True, stop_btn=False),
            }

    return careful


def _words(error: Exception) -> str:
    if not isinstance(error, UserError):
        _LOG.exception("the page could not do what was asked", exc_info=error)
    return view.told(error)
