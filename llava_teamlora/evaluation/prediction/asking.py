"""A server answers: many questions at once, each asked in a thread of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.prediction.pictures import picture_file
from llava_teamlora.evaluation.prediction.responses import Response, SetAside
from llava_teamlora.evaluation.prediction.threads import side_by_side
from llava_teamlora.evaluation.types import Sample

if TYPE_CHECKING:
    from llava_teamlora.evaluation.endpoint import Endpoint
    from llava_teamlora.generation import Decoding


class EndpointAnswerer:
    """A model behind an OpenAI-compatible address.

    Args:
        endpoint: where.
        concurrency: questions under way at once.
    """

    whole_batches = False

    def __init__(self, endpoint: Endpoint, concurrency: int) -> None:
        if concurrency < 1:
            raise UserError(f"--concurrency {concurrency} must be at least 1")
        self.endpoint, self.concurrency = endpoint, concurrency
        self.name = endpoint.model

    @property
    def manifest(self) -> Mapping[str, Any]:
        """See :class:`Answerer`."""
        from llava_teamlora import __version__

        return {
            "kind": "endpoint",
            "model": self.name,
            "method": "endpoint",
            "endpoint": _without_password(self.endpoint.url),
            "versions": {"llava_teamlora": __version__},
        }

    def decoding(self, decoding: Decoding) -> Mapping[str, Any]:
        """See :class:`Answerer`."""
        return {"answer_by": "generation", **asdict(decoding)}

    def check(self, samples: Sequence[Sample]) -> None:
        """See :class:`Answerer`. What a server can do is not known before it is asked."""

    def shown(self, sample: Sample) -> str | None:
        """See :class:`Answerer`. The server's template is its own."""
        return None

    def answer(
        self, batches: Iterable[Sequence[Sample]], decoding: Decoding
    ) -> Iterator[Sequence[Response | SetAside]]:
        """See :class:`Answerer`. When the server fails for good, questions under way are waited for; then it is told.

        Raises:
            UserError: every question would fail: no such address, a wrong key, many failures in a row.
        """
        from llava_teamlora.evaluation.endpoint import Patience

        fatal: UserError | None = None

        def samples() -> Iterator[Sample]:
            for batch in batches:
                for sample in batch:
                    if fatal is not None:
                        return
                    yield sample

        patience = Patience()
        for sample, found in side_by_side(lambda sample: self._ask(sample, decoding), samples(), self.concurrency):
            if isinstance(found, Response):
                patience.answered()
                yield [found]
                continue
            if not isinstance(found, UserError):
                raise found
            yield [SetAside(sample.key, str(found))]
            fatal = fatal or patience.end(sample.key, found, sample.image)
        if fatal is not None:
            raise fatal

    def _ask(self, sample: Sample, decoding: Decoding) -> Response:
        from llava_teamlora.evaluation.endpoint import picture_message

        if sample.image is None:
            message: dict[str, Any] = {"role": "user", "content": sample.prompt}
        else:
            message = picture_message(sample.prompt, *picture_file(sample.image))
        reply = self.endpoint.chat(
            [message],
            temperature=decoding.temperature,
            max_tokens=decoding.max_new_tokens,
            top_p=decoding.top_p,
            seed=decoding.seed if decoding.temperature > 0 else None,
        )
        return Response(sample, reply.text.strip(), reply.completion_tokens or 0, reply.finish == "length")


def _without_password(url: str) -> str:
    """Scheme, host, port and path alone."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
