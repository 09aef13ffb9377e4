"""What an endpoint allows."""

from __future__ import annotations

from dataclasses import dataclass

from llava_teamlora.serving.pictures import PictureSources


@dataclass(frozen=True)
class ApiSettings:
    """Limits and permissions of one endpoint.

    Attributes:
        keys: any of them must come with every request to ``/v1``; none asks for none. They are shown nowhere.
        pictures: where pictures may come from, and what they may weigh.
        origins: web pages' origins whose scripts may ask (CORS); ``*`` is all of them.
        hosts: names that a request may call this server by, without the port; none allows all. A server for this
            machine alone names itself here, lest a web page reach it under a name of its own (DNS rebinding).
        max_body_bytes: of one request, pictures included.
        max_messages: of one conversation.
        max_pictures: of one conversation.
        max_answers: ``n`` of one request.
        max_answer_tokens: of one answer, and its length where none is asked for.
        body_timeout_s: longest time for a request's body to arrive.
    """

    keys: tuple[str, ...] = ()
    pictures: PictureSources = PictureSources()
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 2**20
    max_messages: int = 256
    max_pictures: int = 16
    max_answers: int = 8
    max_answer_tokens: int = 2048
    body_timeout_s: float = 60.0

    def __repr__(self) -> str:  # the generated one would show the keys
        return f"ApiSettings({len(self.keys)} keys, ...)"
