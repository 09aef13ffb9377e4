"""Who answers: a loaded model, by writing or by choosing. A server does it in ``asking.py``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.answers import model_id_of
from llava_teamlora.evaluation.prediction.pictures import load_picture, with_pictures
from llava_teamlora.evaluation.prediction.responses import Response, SetAside
from llava_teamlora.evaluation.types import Sample

if TYPE_CHECKING:
    import torch

    from llava_teamlora.checkpoint import Loaded
    from llava_teamlora.generation import Decoding, Query, Steps


_LIKELIHOOD = "mean per token of each option's text, its end included; of a task's few answers the sum"


class ModelAnswerer:
    """A loaded model that writes its answers.

    Args:
        loaded: as ``checkpoint.load_model`` gives it.
        steps: see :class:`Generator`.
    """

    whole_batches = True

    def __init__(self, loaded: Loaded, steps: Steps | None = None) -> None:
        from llava_teamlora.generation import Generator

        self.name = model_id_of(loaded.name)
        self.manifest: Mapping[str, Any] = loaded.manifest
        self.generator = Generator(loaded, steps)

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
        """See :class:`Answerer`.

        Raises:
            UserError: a prompt that cannot be asked.
        """
        from PIL import Image

        from llava_teamlora.generation import Query

        pictures = () if sample.image is None else (Image.new("RGB", (1, 1)),)
        try:
            return self.generator.rendered(Query.ask(self.question(sample), *pictures))
        except UserError as error:
            raise UserError(f"{sample.key}: {error}") from error

    def answer(
        self, batches: Iterable[Sequence[Sample]], decoding: Decoding
    ) -> Iterator[Sequence[Response | SetAside]]:
        """See :class:`Answerer`. A batch is answered without those of it whose picture or prompt is of no use."""
        import torch

        def prepare(picture: Any) -> torch.Tensor:
            return self.generator.pixels(load_picture(picture))

        for batch, pixels in with_pictures(batches, prepare):
            queries, aside = self._queries(batch, pixels)
            try:
                yield [*aside, *self._fitting_answers(queries, decoding)]
            except torch.OutOfMemoryError as error:
                clear_frames(error.__traceback__)  # else they hold the activations as long as somebody holds the error
                raise UserError(
                    f"--batch_size {len(batch)} does not fit into the device's memory "
                    f"({str(error).splitlines()[0]}); use a smaller one, answers so far are kept"
                ) from error

    def _queries(
        self, batch: Sequence[Sample], pixels: Mapping[Any, torch.Tensor | UserError]
    ) -> tuple[list[tuple[Sample, Query]], list[SetAside]]:
        from llava_teamlora.generation import Query

        queries, aside = [], []
        for sample in batch:
            found = [] if sample.image is None else [pixels[sample.image]]
            try:
                pictures = [_unless_error(picture) for picture in found]
                queries.append((sample, Query.ask(self.question(sample), *pictures)))
            except UserError as error:
                aside.append(SetAside(sample.key, str(error)))
        return queries, aside

    def _fitting_answers(
        self, queries: Sequence[tuple[Sample, Query]], decoding: Decoding
    ) -> Sequence[Response | SetAside]:
        """Answers; only when that fails each prompt is looked at, for to tokenize twice takes time."""
        try:
            return self._answers(*_apart(queries), decoding) if queries else []
        except UserError:
            aside = {sample.key: found for sample, query in queries if (found := self._unfit(sample, query))}
            if not aside:
                raise
        fit = [(sample, query) for sample, query in queries if sample.key not in aside]
        return [*aside.values(), *(self._answers(*_apart(fit), decoding) if fit else [])]

    def _unfit(self, sample: Sample, query: Query) -> SetAside | None:
        """Why the model cannot read it; None where it can."""
        from llava_teamlora.generation import PromptTooLong

        try:
            self.read(sample, query)
        except UserError as error:
            return SetAside(sample.key, str(error), error.tokens if isinstance(error, PromptTooLong) else 0)
        return None

    def read(self, sample: Sample, query: Query) -> None:
        """Tokenize all that an answer takes.

        Raises:
            UserError: it is too long, say.
        """
        self.generator.encode(query)

    def _answers(self, batch: Sequence[Sample], queries: list[Query], decoding: Decoding) -> list[Response]:
        return [
            Response(sample, answer.text, len(answer.token_ids), answer.finish == "length")
            for sample, answer in zip(batch, self.generator.generate(queries, decoding), strict=True)
        ]


class LikelihoodAnswerer(ModelAnswerer):
    """A loaded model that does not write: the option it finds likeliest, after the question alone, is its answer.

    Source: SEED-Bench's answer ranking. The text of each option (not its letter) is put in the answer's place; the
    highest mean log-likelihood a token wins, the first of equals. The answer is its letter.

    Where ``Sample.candidates`` names the few answers that there are, labels or letters of CME's tasks, they are put
    there, after the whole prompt. The likeliest wins, by the sum over its tokens: that is how likely the model is to
    write just that, and a mean would favour a label for its many tokens.
    """

    # Differs from SEED-Bench-2's LLaVA interface: it takes the mean over one token too many, in front of the option.

    def decoding(self, decoding: Decoding) -> Mapping[str, Any]:
        """See :class:`Answerer`."""
        return {"answer_by": "likelihood", "likelihood": _LIKELIHOOD}

    def check(self, samples: Sequence[Sample]) -> None:
        """See :class:`Answerer`."""
        super().check(samples)
        open_ended = [sample.key for sample in samples if len(_options(sample)) < 2]
        if open_ended:
            raise UserError(
                f"--answer_by likelihood chooses among options, but {len(open_ended)} of {len(samples)} questions "
                f"have none (first: {open_ended[0]}); drop it"
            )

    def question(self, sample: Sample) -> str:
        """Without options and instructions, where the benchmark knows it and they are not asked for."""
        return sample.prompt if sample.candidates else str(sample.metadata.get("question", sample.prompt))

    def read(self, sample: Sample, query: Query) -> None:
        """See :class:`ModelAnswerer`; with each option."""
        super().read(sample, query)
        for option in _options(sample):
            self.generator.encode(query, option)

    def _answers(self, batch: Sequence[Sample], queries: list[Query], decoding: Decoding) -> list[Response]:
        found = self.generator.log_likelihoods(queries, [_options(sample) for sample in batch])
        answers = []
        for sample, options in zip(batch, found, strict=True):
            weights = [option.total if sample.candidates else option.per_token for option in options]
            best = max(range(len(options)), key=weights.__getitem__)
            likely = [{"sum": round(option.total, 4), "tokens": option.tokens} for option in options]
            asked = {} if self.question(sample) == sample.prompt else {"asked": self.question(sample)}
            metadata = {**asked, "log_likelihoods": likely}
            answer = sample.candidates[best] if sample.candidates else chr(ord("A") + best)
            answers.append(Response(sample, answer, metadata=metadata))
        return answers


def _options(sample: Sample) -> tuple[str, ...]:
    """What is ranked: the answers that there are, or the options' texts."""
    return sample.candidates or sample.choices


def _unless_error(picture: Any) -> Any:
    if isinstance(picture, UserError):
        raise picture
    return picture


def _apart(queries: Sequence[tuple[Sample, Query]]) -> tuple[list[Sample], list[Query]]:
    return [sample for sample, _ in queries], [query for _, query in queries]
