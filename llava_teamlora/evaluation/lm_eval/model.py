"""A loaded model as lm-eval asks language models: raw prompts, no conversation template.

What a context and a continuation are in tokens is lm-eval's own (``TemplateLM``), and special tokens are handled as its
``HFLM`` does: the tokenizer adds what it adds by default, unless the text begins with its beginning-of-sequence token.
The module needs the extra ``lm-eval``; import it where that is known to be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]  an extra
from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
    get_rolling_token_windows,
    make_disjoint_window,
)
from tqdm import tqdm

from llava_teamlora.errors import UserError
from llava_teamlora.generation.query import LogLikelihood
from llava_teamlora.generation.raw import RawReader

if TYPE_CHECKING:
    from llava_teamlora.checkpoint import Loaded

Scored = tuple[float, bool]


class HarnessedModel(TemplateLM):
    """See the module's text.

    Args:
        loaded: as ``checkpoint.load_model`` gives it.
        batch_size: contexts at once.

    Attributes:
        cut: how many contexts lost their beginning, for they did not fit into the model's positions.
    """

    max_gen_toks = 256  # HFLM's, for tasks that do not say

    def __init__(self, loaded: Loaded, batch_size: int) -> None:
        super().__init__()
        self.reader = RawReader(loaded)
        self.tokenizer: Any = loaded.tokenizer
        self.name = loaded.name
        self.batch_size = batch_size
        self.cut = 0

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What an empty context becomes."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """A text's ids; see the module's text for those in front."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **given)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[Scored]:
        """Of (texts, context ids, continuation ids). Continuations of one context are computed together."""
        found: dict[int, Scored] = {}
        together: dict[tuple[int, ...], list[int]] = {}
        for number, (_texts, context, continuation) in enumerate(requests):
            fitting = self._fitting(context, self.reader.room + 1 - len(continuation), len(continuation))
            together.setdefault(tuple(fitting), []).append(number)
        # The longest first: a batch's rows are alike in length, and too large a batch is known at once.
        contexts = sorted(together, key=len, reverse=True)
        for batch in tqdm(_batches(contexts, self.batch_size), desc="log-likelihoods", disable=disable_tqdm):
            answers = [[requests[number][2] for number in together[context]] for context in batch]
            likely = self.reader.log_likelihoods([list(context) for context in batch], answers)
            for context, each in zip(batch, likely, strict=True):
                found |= {number: _scored(one) for number, one in zip(together[context], each, strict=True)}
        return [found[number] for number in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, each token once, with as much before it as fits."""
        windows: list[tuple[int, list[int], list[int]]] = []
        for number, request in enumerate(requests):
            (text,) = request.args
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.reader.room,
                context_len=1,
            )
            windows += [(number, *make_disjoint_window(window)) for window in rolling]
        totals = [0.0] * len(requests)
        scored = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        for (number, *_), (total, _greedy) in zip(windows, scored, strict=True):
            totals[number] += total
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers, up to a stop text.

        Raises:
            UserError: a task that samples, or whose answers leave no room for the question.
        """
        asked = []
        for request in requests:
            context, settings = request.args
            until, budget = self._stops(settings)
            ids = self._fitting(self.tok_encode(context), self.reader.room - budget, budget)
            asked.append((ids, until, budget))
        order = sorted(range(len(asked)), key=lambda i: (asked[i][1:], -len(asked[i][0])))
        written: dict[int, str] = {}
        groups = [batch for same in _alike(order, asked) for batch in _batches(same, self.batch_size)]
        for batch in tqdm(groups, desc="answers", disable=disable_tqdm):
            _, until, budget = asked[batch[0]]
            texts = self.reader.write([asked[i][0] for i in batch], until, budget)
            written |= dict(zip(batch, texts, strict=True))
        return [written[i] for i in range(len(asked))]

    def _stops(self, settings: dict[str, Any]) -> tuple[tuple[str, ...], int]:
        """Stop texts and budget of a request."""
        if settings.get("do_sample") or settings.get("temperature"):
            raise UserError("this protocol decodes greedily, but a task asks for sampling")
        until = settings.get("until") or []
        stops = (until,) if isinstance(until, str) else tuple(until)
        return (*stops, self.tokenizer.decode(self.eot_token_id)), settings.get("max_gen_toks", self.max_gen_toks)

    def _fitting(self, context: list[int], most: int, rest: int) -> list[int]:
        """The end of a context that fits, as HFLM cuts it."""
        if most < 1:
            raise UserError(
                f"{self.name}: has {self.reader.room} positions, which leaves none for a question beside {rest} tokens "
                "of an answer; leave this task out"
            )
        self.cut += len(context) > most
        return context[-most:]


def _scored(one: LogLikelihood) -> Scored:
    return one.total, one.greedy


def _batches(items: Sequence[Any], size: int) -> list[Any]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _alike(order: Iterable[int], asked: Sequence[tuple[Any, ...]]) -> list[list[int]]:
    """Requests with the same stop texts and budget, together."""
    groups: dict[Any, list[int]] = {}
    for i in order:
        groups.setdefault(asked[i][1:], []).append(i)
    return list(groups.values())
