"""Who grades: a model behind an OpenAI-compatible address, or one in a folder on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llava_teamlora.evaluation.answers import model_id_of
from llava_teamlora.evaluation.endpoint import Endpoint, Reply
from llava_teamlora.evaluation.judging.rubric import Message

if TYPE_CHECKING:
    from llava_teamlora.checkpoint import Loaded


class Judge(Protocol):
    """Anything that can be asked, from several threads at once.

    Attributes:
        name: for the metric's name and the manifest.
        identity: what grades are kept under; differs between judges that might grade differently.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    def ask(self, messages: Sequence[Message], temperature: float, max_tokens: int, draw: int) -> Reply:
        """One reply; ``draw`` tells repeated questions apart where there is a seed."""
        ...

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        ...


class EndpointJudge:
    """A served model. No seed is sent, as the official tools send none."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        # Not the address: a server that comes up elsewhere is the same judge.
        self.name = self.identity = endpoint.model

    def ask(self, messages: Sequence[Message], temperature: float, max_tokens: int, draw: int) -> Reply:
        """See :class:`Judge`."""
        return self._endpoint.chat(messages, temperature=temperature, max_tokens=max_tokens)

    def describe(self) -> dict[str, Any]:
        """See :class:`Judge`."""
        return {"name": self.name, "endpoint": self._endpoint.url}


class LocalJudge:
    """A model that ``checkpoint.load_model`` has loaded; a turn of the system's goes before the user's text."""

    def __init__(self, loaded: Loaded) -> None:
        from llava_teamlora.generation import Generator

        self._generator = Generator(loaded)
        self._lock = threading.Lock()
        self._manifest = loaded.manifest
        self.name = model_id_of(loaded.name)
        digest = hashlib.sha256(json.dumps(loaded.manifest, sort_keys=True, default=str).encode())
        self.identity = f"{self.name} {digest.hexdigest()[:16]}"

    def ask(self, messages: Sequence[Message], temperature: float, max_tokens: int, draw: int) -> Reply:
        """See :class:`Judge`."""
        from llava_teamlora.generation import Decoding, Query

        query = Query.ask("\n\n".join(message["content"] for message in messages))
        decoding = Decoding(max_new_tokens=max_tokens, temperature=temperature, seed=draw)
        with self._lock:
            (answer,) = self._generator.generate([query], decoding)
        return Reply(answer.text, answer.finish, len(answer.token_ids), self.name)

    def describe(self) -> dict[str, Any]:
        """See :class:`Judge`."""
        return {"name": self.name, "model": self._manifest}
