"""A vision tower that runs once for each picture: what it makes of them goes to disk.

In: a LLaVA, pictures. Out: a :class:`FeatureStore` that holds the features of them all. These are what the projector
takes in, so that it can be trained on them; a model of ours takes them in the place of pixels.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from llava_teamlora.data.dataset import VisionFormat
from llava_teamlora.data.features import FeatureStore, open_store
from llava_teamlora.data.images import load_image, prepare_image
from llava_teamlora.errors import UserError
from llava_teamlora.models.pretrained import gathered
from llava_teamlora.models.vision import tower_features

_THREADS = 8
"""Files hashed or written beside each other."""


@dataclass(frozen=True)
class Tower:
    """A LLaVA's vision tower and how it is run.

    Attributes:
        model: the LLaVA.
        vision: preprocessing.
        device: to compute on.
        autocast: dtype of the run's mixed precision; None without.
    """

    model: Any
    vision: VisionFormat
    device: torch.device
    autocast: torch.dtype | None = None

    @property
    def module(self) -> nn.Module:
        """The tower itself."""
        return self.model.model.vision_tower

    @property
    def selection(self) -> tuple[Any, str]:
        """Which hidden states and tokens of it a LLaVA sees, as :func:`tower_features` takes them."""
        config = self.model.config
        return config.vision_feature_layer, config.vision_feature_select_strategy

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels ``[N, 3, H, W]`` -> features ``[N, P, D]`` on the CPU, in the dtype the projector multiplies in."""
        mixed = torch.autocast(self.device.type, self.autocast) if self.autocast is not None else nullcontext()
        with mixed:
            features = tower_features(self.module, pixels.to(self.device), *self.selection)  # [N, P, D]
        return features.to("cpu", self.autocast or features.dtype)

    def about(self) -> dict[str, Any]:
        """Everything that features follow from besides the picture."""
        config: Any = self.module.config
        processor = self.vision.image_processor.to_dict()
        return {
            "tower": _digest(self.module),
            "config": {
                key: value for key, value in config.to_dict().items() if not key.startswith(("_", "transformers"))
            },
            "selection": self.selection,
            "attention": config._attn_implementation,
            "autocast": str(self.autocast),
            "processor": {key: value for key, value in processor.items() if key != "processor_class"},
            "aspect_ratio": self.vision.aspect_ratio,
        }


def _digest(module: nn.Module) -> str:
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def keep_features(
    root: Path,
    tower: Tower,
    pictures: Sequence[Path],
    *,
    batch: int = 32,
    workers: int = 0,
    rank: int = 0,
    processes: int = 1,
    progress: Callable[[int], object] | None = None,
) -> FeatureStore:
    """The store of this tower's features, with those of all pictures in this process's share that it lacked.

    Args:
        root: ``--vision_cache``.
        tower: with its preprocessing; runs without gradients here.
        pictures: of the run, each once, in the same order in every process.
        batch: pictures the tower sees at once.
        workers: processes that decode pictures.
        rank: which share is this process's.
        processes: number of shares.
        progress: called with the number of further pictures that are in the store.

    Raises:
        UserError: a picture cannot be read, or the disk lacks room.
    """
    with _ready(tower):
        size = torch.zeros(1, *_prepared_shape(tower.vision))
        blank = tower.features(size)[0]
        store = open_store(root, tower.about(), tuple(blank.shape), blank.dtype)
        missing = _missing(store, pictures[rank::processes], progress)
        _refuse_full_disk(store, len(missing), processes, len(pictures))
        pixels = _Pixels(list(missing.values()), tower.vision)
        own = torch.Generator()  # a loader draws a number even where nothing is random; not from the run's
        loader = DataLoader(pixels, batch, num_workers=workers, generator=own)
        entries = iter(missing)
        with ThreadPoolExecutor(_THREADS) as pool:
            for some in loader:
                rows = tower.features(some)  # [N, P, D]
                list(pool.map(store.write, [next(entries) for _ in rows], rows))
                if progress is not None:
                    progress(len(rows))
    return store


class _Pixels(Dataset):
    """Pictures as the tower wants them."""

    def __init__(self, pictures: list[Path], vision: VisionFormat) -> None:
        self.pictures = pictures
        self.vision = vision

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = load_image(self.pictures[index])
        return prepare_image(image, self.vision.image_processor, self.vision.aspect_ratio)


def _prepared_shape(vision: VisionFormat) -> torch.Size:
    from PIL import Image

    return prepare_image(Image.new("RGB", (8, 8)), vision.image_processor, vision.aspect_ratio).shape


def _missing(
    store: FeatureStore, pictures: Sequence[Path], progress: Callable[[int], object] | None
) -> dict[Path, Path]:
    """Entry -> picture for those that are not there; pictures of equal content share one."""
    found: dict[Path, Path] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for picture, entry in zip(pictures, pool.map(store.entry, pictures), strict=True):
            if not store.holds(entry) and entry not in found:
                found[entry] = picture
            elif progress is not None:
                progress(1)
    return found


def _refuse_full_disk(store: FeatureStore, missing: int, processes: int, pictures: int) -> None:
    """Better now than after some hundred thousand pictures. Every process looks at its share alone."""
    need, free = missing * processes * store.entry_bytes, shutil.disk_usage(store.folder).free
    if need > free:
        raise UserError(
            f"{store.folder.parent}: features of {pictures:,} pictures ({store.entry_bytes / 1e6:.2f} MB each) need "
            f"{need / 1e9:,.1f} GB more, but {free / 1e9:,.1f} GB are free; name a larger disk with --vision_cache, or "
            "drop it"
        )


@contextmanager
def _ready(tower: Tower) -> Iterator[None]:
    """The tower whole and on its device; afterwards where it was."""
    module = tower.module
    with gathered(list(module.parameters())):
        device = next(module.parameters()).device
        module.to(tower.device)
        try:
            yield
        finally:
            module.to(device)
