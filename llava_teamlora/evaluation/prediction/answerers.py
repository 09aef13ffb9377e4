"""Who answers: a loaded model, or a server. Batches of samples in, answers out as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.prediction.pictures import load_picture, picture_file, with_pictures
from llava_teamlora.evaluation.types import Sample

if TYPE_CHECKING:
    from llava_teamlora.checkpoint import Loaded
    from llava_teamlora.evaluation.endpoint import Endpoint
    from llava_teamlora.generation import Decoding, Query

AnswerBy = Literal["generation", "likelihood"]


@dataclass(frozen=True)
class Response:
    """One answer.

    Attributes:
        sample: what was asked.
        text: the answer.
        tokens: generated; 0 where none were, or a server does not count.
        cut: ended by its greatest length and not by itself.
        metadata: what else goes into the answers file.
    """

    sample: Sample
    text: str
    tokens: int = 0
    cut: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Answerer(Protocol):
    """What :func:`llava_teamlora.evaluation.runner.predict` needs of a model or a server."""

    whole_batches: bool
    """Whether a batch begun before is answered whole again: rounding may make an answer depend on its neighbours."""

    @property
    def name(self) -> str:
        """``model_id`` of its answers."""
        ...

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What it is."""
        ...

    def decoding(self, decoding: Decoding) -> Mapping[str, Any]:
        """How it comes to an answer, for the manifest."""
        ...

    def check(self, samples: Sequence[Sample]) -> None:
        """Refuse samples that it cannot answer.

        Raises:
            UserError: with the first of them.
        """
        ...

    def shown(self, sample: Sample) -> str | None:
        """The prompt as the model reads it; None where that is not known."""
        ...

    def answer(self, batches: Iterable[Sequence[Sample]], decoding: Decoding) -> Iterator[list[Response]]:
        """Answers as they come, each once.

        Raises:
            UserError: a picture is damaged, memory does not suffice, a server fails.
        """
        ...


class ModelAnswerer:
    """A loaded model that writes its answers.

    Args:
        loaded: as ``checkpoint.load_model`` gives it.
    """

    whole_batches = True

    def __init__(self, loaded: Loaded) -> None:
        from llava_teamlora.generation import Generator

        self.name = loaded.name
        self.manifest: Mapping[str, Any] = loaded.manifest
        self.generator = Generator(loaded)

    def decoding(self, decoding: Decoding) -> Mapping[str, Any]:
        """See :class:`Answerer`."""
        return {"answer_by": "generation", **asdict(decoding)}

    def check(self, samples: Sequence[Sample]) -> None:
        """See :class:`Answerer`."""
        if self.generator.vision is None and (seen := next((s for s in samples if s.image is not None), None)):
            raise UserError(f"{self.name}: is a text-only model, but {seen.key!r} is about a picture")

    def question(self, sample: Sample) -> str:
        """The human's turn."""
        return sample.prompt

    def shown(self, sample: Sample) -> str | None:
        """See :class:`Answerer`."""
        from PIL import Image

        from llava_teamlora.generation import Query

        pictures = () if sample.image is None else (Image.new("RGB", (1, 1)),)
        return self.generator.rendered(Query.ask(self.question(sample), *pictures))

    def answer(self, batches: Iterable[Sequence[Sample]], decoding: Decoding) -> Iterator[list[Response]]:
        """See :class:`Answerer`."""
        import torch

        from llava_teamlora.generation import Query

        def prepare(picture: Any) -> torch.Tensor:
            return self.generator.pixels(load_picture(picture))

        for batch, pixels in with_pictures(batches, prepare):
            queries = [
                Query.ask(self.question(sample), *([] if sample.image is None else [pixels[sample.image]]))
                for sample in batch
            ]
            try:
                answers = self._answers(batch, queries, decoding)
            except UserError:
                self._name_the_question(batch, queries)
                raise
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"--batch_size {len(batch)} does not fit into the device's memory "
                    f"({str(error).splitlines()[0]}); use a smaller one, answers so far are kept"
                ) from error
            yield answers

    def _name_the_question(self, batch: Sequence[Sample], queries: Sequence[Query]) -> None:
        """Raise what is wrong with a prompt (it is too long, say), with the question that has it."""
        for sample, query in zip(batch, queries, strict=True):
            try:
                self.generator.encode(query)
            except UserError as error:
                raise UserError(f"{sample.key}: {error}") from error

    def _answers(self, batch: Sequence[Sample], queries: list[Query], decoding: Decoding) -> list[Response]:
        return [
            Response(sample, answer.text, len(answer.token_ids), answer.finish == "length")
            for sample, answer in zip(batch, self.generator.generate(queries, decoding), strict=True)
        ]


class LikelihoodAnswerer(ModelAnswerer):
    """A loaded model that does not write: the option it finds likeliest, after the question alone, is its answer.

    Source: SEED-Bench's answer ranking. The text of each option (not its letter) is put in the answer's place; the
    highest mean log-likelihood a token wins, the first of equals. The answer is its letter.
    """

    # Differs from SEED-Bench-2's LLaVA interface: it takes the mean over one token too many, in front of the option.

    def decoding(self, decoding: Decoding) -> Mapping[str, Any]:
        """See :class:`Answerer`."""
        return {"answer_by": "likelihood", "likelihood": "mean per token of each option's text, its end included"}

    def check(self, samples: Sequence[Sample]) -> None:
        """See :class:`Answerer`."""
        super().check(samples)
        open_ended = [sample.key for sample in samples if len(sample.choices) < 2]
        if open_ended:
            raise UserError(
                f"--answer_by likelihood chooses among options, but {len(open_ended)} of {len(samples)} questions "
                f"have none (first: {open_ended[0]}); drop it"
            )

    def question(self, sample: Sample) -> str:
        """Without options and instructions, where the benchmark knows it."""
        return str(sample.metadata.get("question", sample.prompt))

    def _answers(self, batch: Sequence[Sample], queries: list[Query], decoding: Decoding) -> list[Response]:
        found = self.generator.log_likelihoods(queries, [sample.choices for sample in batch])
        answers = []
        for sample, options in zip(batch, found, strict=True):
            best = max(range(len(options)), key=lambda number: options[number].per_token)
            likely = [{"sum": round(option.total, 4), "tokens": option.tokens} for option in options]
            answers.append(Response(sample, chr(ord("A") + best), metadata={"log_likelihoods": likely}))
        return answers


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

    def answer(self, batches: Iterable[Sequence[Sample]], decoding: Decoding) -> Iterator[list[Response]]:
        """See :class:`Answerer`. When one question fails, those under way are waited for, and then it is told."""
        samples = (sample for batch in batches for sample in batch)
        failure: BaseException | None = None
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            running = {pool.submit(self._ask, sample, decoding) for sample in islice(samples, self.concurrency)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    if (error := future.exception()) is not None:
                        failure = failure or error
                    else:
                        yield [future.result()]
                if failure is None:
                    running |= {pool.submit(self._ask, sample, decoding) for sample in islice(samples, len(done))}
        finally:
            pool.shutdown(cancel_futures=True)
        if failure is not None:
            raise failure

    def _ask(self, sample: Sample, decoding: Decoding) -> Response:
        from llava_teamlora.evaluation.endpoint import picture_message

        if sample.image is None:
            message: dict[str, Any] = {"role": "user", "content": sample.prompt}
        else:
            message = picture_message(sample.prompt, *picture_file(sample.image))
        try:
            reply = self.endpoint.chat(
                [message],
                temperature=decoding.temperature,
                max_tokens=decoding.max_new_tokens,
                top_p=decoding.top_p,
                seed=decoding.seed if decoding.temperature > 0 else None,
            )
        except UserError as error:
            raise UserError(f"{sample.key}: {error}") from error
        return Response(sample, reply.text.strip(), reply.completion_tokens or 0, reply.finish == "length")


def _without_password(url: str) -> str:
    """Scheme, host, port and path alone."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
