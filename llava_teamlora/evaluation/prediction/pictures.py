"""Picture files -> what a model or a server takes, a few batches ahead of where it is needed."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llava_teamlora.errors import UserError
from llava_teamlora.evaluation.reading import read_bytes
from llava_teamlora.evaluation.types import Picture, Sample

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

_THREADS = 4
_BATCHES_AHEAD = 2
_KNOWN = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


def load_picture(picture: Picture) -> Image:
    """Decode to RGB.

    Raises:
        UserError: missing or no picture; it names the file.
    """
    from llava_teamlora.data.images import decode_image, load_image

    return load_image(picture) if isinstance(picture, Path) else decode_image(picture.content(), picture.where)


def picture_file(picture: Picture) -> tuple[bytes, str]:
    """A picture as a server takes it: the file's own bytes where they are JPEG or PNG, else PNG; and which it is.

    Raises:
        UserError: missing or no picture; it names the file.
    """
    content = read_bytes(picture) if isinstance(picture, Path) else picture.content()
    for beginning, kind in _KNOWN.items():
        if content.startswith(beginning):
            return content, kind
    file = io.BytesIO()
    load_picture(picture).save(file, "PNG")
    return file.getvalue(), "image/png"


def with_pictures(
    batches: Iterable[Sequence[Sample]], prepare: Callable[[Picture], T]
) -> Iterator[tuple[Sequence[Sample], dict[Picture, T | UserError]]]:
    """Each batch with its pictures, which threads have prepared while the batches before were answered.

    Args:
        batches: of samples.
        prepare: decodes and whatever else can be done beforehand; called once for each different picture of a batch.
            Where it raises a UserError, that stands in the picture's place.
    """
    pool = ThreadPoolExecutor(_THREADS)
    waiting: deque[tuple[Sequence[Sample], dict[Picture, Future[T]]]] = deque()
    try:
        for batch in batches:
            different = dict.fromkeys(sample.image for sample in batch if sample.image is not None)
            waiting.append((batch, {picture: pool.submit(prepare, picture) for picture in different}))
            if len(waiting) > _BATCHES_AHEAD:
                yield _done(*waiting.popleft())
        while waiting:
            yield _done(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _done(
    batch: Sequence[Sample], futures: dict[Picture, Future[T]]
) -> tuple[Sequence[Sample], dict[Picture, T | UserError]]:
    return batch, {picture: _result(future) for picture, future in futures.items()}


def _result(future: Future[T]) -> T | UserError:
    try:
        return future.result()
    except UserError as error:
        return error
