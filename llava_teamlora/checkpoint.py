"""A run folder <-> the model it holds.

A run folder (and every ``checkpoint-N`` in it) is self-contained but for the frozen base: the adapter with the
projector in ``adapter_model.safetensors``, tokenizer and image processor, and ``run.yaml``, which says what the
folder is: base with its fingerprint, method, template, arguments, versions. What a folder holds is decided by
these files, never by its name.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llava_teamlora.constants import PROJECTOR
from llava_teamlora.data.dataset import VisionFormat
from llava_teamlora.data.images import check_aspect_ratio
from llava_teamlora.data.segments import Template
from llava_teamlora.data.templates import get_template
from llava_teamlora.errors import UserError
from llava_teamlora.models.build import Base, BaseSpec
from llava_teamlora.models.fingerprint import base_fingerprint, file_sha256
from llava_teamlora.models.original import find_original
from llava_teamlora.models.place import Place, default_device, parse_dtype
from llava_teamlora.models.pretrained import check_there
from llava_teamlora.models.sharing import BasesInMemory, move, own_biases
from llava_teamlora.models.vision import load_image_processor
from llava_teamlora.run_card import (
    ADAPTER_FILE,
    FULL_FINETUNING,
    RUN_FILE,
    RunCard,
    library_versions,
    read_run_card,
)
from llava_teamlora.tuners.low_rank.lost import LostWeights, refuse_lost_file

_log = logging.getLogger("llava_teamlora.checkpoint")

_PROMPT = "prompt_embeddings"
BASE_VERSION = "v1"
"""The template of an untuned base, where none is named."""


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer, with all that a prompt needs.

    Attributes:
        model: in eval mode on its device.
        tokenizer: fast tokenizer.
        template: how turns become text.
        vision: how pictures become pixels and tokens; None for a text-only model.
        name: the path as the user gave it.
        manifest: what is written beside scores.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    template: Template
    vision: VisionFormat | None
    name: str
    manifest: dict[str, Any]


def load_model(
    path: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    attn_implementation: str = "auto",
    version: str | None = None,
    image_aspect_ratio: str | None = None,
    model_base: str | None = None,
    vision_tower: str | None = None,
    bits: int | None = None,
    untuned: bool = False,
    bases: BasesInMemory | None = None,
    wide_adapter: bool = False,
) -> Loaded:
    """Load a run folder, or a base as it is, for answering.

    Args:
        path: run folder, checkpoint folder, or a base (folder or hub id).
        device: torch device; None takes the accelerator if there is one.
        dtype: ``float32``, ``bfloat16`` or ``float16``, of adapters too but those of quantised linears; None is half
            precision on an accelerator, else float32.
        attn_implementation: see ``models.build.resolve_attention``.
        version: template of a base, None is ``v1``; a run folder names its own, and another is refused.
        image_aspect_ratio: of a base only; None is what the base's config says, else ``pad``.
        model_base: where a run folder's base lies now, if it has moved. Its content must be the same. Of an original
            LLaVA's LoRA or projector: what it belongs to.
        vision_tower: likewise of the tower, where the base was put together or is an original LLaVA.
        bits: of the language model: 16, 8 or 4; None is what the run was trained with, 16 for a base.
        untuned: of a run folder take the base alone, as it was before; it is asked in the run's template.
        bases: those in memory, whose weights are used again, and whose models nobody may train; None shares nothing.
        wide_adapter: leave adapters in float32, as they are saved, whatever the dtype: to work on their weights.

    Raises:
        UserError: nothing usable there, a base that is not the one the adapter was trained on, or another template.
    """
    path = Path(path)
    check_there(str(path))
    device = device or default_device()
    torch_dtype = parse_dtype(dtype, device)
    place = Place(torch_dtype, attn_implementation, device, bits, bases)
    if version is not None:
        get_template(version)  # refuses an unknown one before anything is loaded
    if (path / RUN_FILE).is_file():
        load_it = _load_untuned if untuned else partial(_load_run, wide_adapter=wide_adapter)
        loaded = load_it(path, place, model_base, vision_tower, version)
    elif (path / "adapter_config.json").is_file() and find_original(str(path)) is None:
        raise UserError(f"{path}: holds an adapter but no {RUN_FILE}; use the whole run folder")
    else:
        spec = BaseSpec(str(path), vision_tower, model_base=model_base)
        loaded = _load_plain_base(spec, place, version or BASE_VERSION, image_aspect_ratio)
    return replace(
        loaded,
        model=move(loaded.model, device).eval(),
        manifest={
            **loaded.manifest,
            "dtype": str(torch_dtype).removeprefix("torch."),
            "device": device,
            "attn_implementation": loaded.model.config._attn_implementation,
        },
    )


def _load_run(
    path: Path,
    place: Place,
    model_base: str | None,
    vision_tower: str | None,
    version: str | None,
    *,
    wide_adapter: bool,
) -> Loaded:
    card = _card_of(path, version)
    if card.method == FULL_FINETUNING:
        spec, found = _whole_model(path, model_base or vision_tower)
        spec, base = place.load(spec)
        model, weights = base.model, found
    else:
        spec, base = place.load(base_of_run(path, card, model_base, vision_tower), card.base_fingerprint)
        found = check_base(path, card, spec)  # after loading: a hub model is in the cache now
        model, weights = _with_adapter(base, path, wide_adapter), file_sha256(path / ADAPTER_FILE)
    tokenizer = AutoTokenizer.from_pretrained(path)
    config: Any = base.model.config
    base = replace(base, tokenizer=tokenizer)
    if base.image_processor is not None:
        base = replace(base, image_processor=load_image_processor(str(path), config.vision_config))
    manifest = {
        "kind": "run",
        "model": str(path),
        "method": card.method,
        "base": asdict(spec),
        "base_fingerprint": found,
        "adapter_sha256": weights,
        "version": card.version,
        "image_aspect_ratio": card.image_aspect_ratio,
        "versions": library_versions(),
    }
    vision = base.vision_format(card.image_aspect_ratio)
    return Loaded(model, tokenizer, base.template(card.version), vision, str(path), manifest)


def _card_of(path: Path, version: str | None) -> RunCard:
    card = read_run_card(path)
    if version is not None and get_template(version) != get_template(card.version):
        raise UserError(f"{path}: was trained with --version {card.version}, not {version}; drop --version")
    return card


def _load_untuned(
    path: Path, place: Place, model_base: str | None, vision_tower: str | None, version: str | None
) -> Loaded:
    card = _card_of(path, version)
    if card.method == FULL_FINETUNING:
        raise UserError(f"{path}: holds a whole model, trained in full; name its base {card.base.model} instead")
    spec = base_of_run(path, card, model_base, vision_tower)
    projector = card.base.projector_weights
    if projector is not None and Path(projector).is_file():
        spec = replace(spec, projector_weights=projector)
    loaded = _load_plain_base(spec, place, card.version, card.image_aspect_ratio)
    check_base(path, card, spec)
    if spec.vision_tower is None or spec.projector_weights is not None:
        return loaded
    _log.warning("%s: its projector was made in the run, so that the base alone sees no pictures", spec.model)
    return replace(loaded, vision=None)


def base_of_run(path: Path, card: RunCard, model_base: str | None, vision_tower: str | None) -> BaseSpec:
    """What the adapter in a run folder sits on, and where that lies now.

    Args:
        path: the run folder.
        card: its ``run.yaml``.
        model_base: see :func:`load_model`.
        vision_tower: see :func:`load_model`.

    Raises:
        UserError: the base is not there, or the run did not finish.
    """
    spec = card.base
    if vision_tower and not spec.vision_tower:
        raise UserError(f"{path}: its base was not put together with a vision tower; drop --vision_tower")
    spec = replace(spec, model=model_base or spec.model, vision_tower=vision_tower or spec.vision_tower)
    for flag, name in (("--model_base", spec.model), ("--vision_tower", spec.vision_tower)):
        if name and Path(name).is_absolute() and not Path(name).is_dir():
            raise UserError(f"{path}: its base {name} is not there; say where it is with {flag}")
    if not (path / ADAPTER_FILE).is_file():
        raise UserError(f"{path}: {ADAPTER_FILE} is missing; the run did not finish, use its last checkpoint-N")
    if spec.projector_weights is not None and not _holds_projector(path / ADAPTER_FILE):
        raise UserError(
            f"{path}: was trained with the projector {spec.projector_weights}, but {ADAPTER_FILE} does not hold it, so "
            "its answers cannot be had again; train anew"
        )
    return replace(spec, projector_weights=None)  # the adapter's file holds the projector


def check_base(path: Path, card: RunCard, spec: BaseSpec) -> str:
    """Compare a base with the one that a run was trained on.

    Args:
        path: the run folder, for messages.
        card: its ``run.yaml``.
        spec: its base, where that lies now; of the hub, in the cache.

    Returns:
        The fingerprint of both.

    Raises:
        UserError: they differ, or there is none.
    """
    found = base_fingerprint(spec)
    if found != card.base_fingerprint:
        raise UserError(
            f"{path}: was trained on a base with fingerprint {card.base_fingerprint[:12]}, but {spec.model} "
            f"now has {found[:12]}; put the original base back"
        )
    return found


def _holds_projector(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt") as weights:
            return any(PROJECTOR in name for name in weights.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from error


def _whole_model(path: Path, elsewhere: str | None) -> tuple[BaseSpec, str]:
    """A run folder of full fine-tuning holds the model itself; its fingerprint stands for the weights."""
    if elsewhere:
        raise UserError(f"{path}: holds a whole model, trained in full; drop --model_base and --vision_tower")
    if not any(path.glob("model*.safetensors")):
        raise UserError(f"{path}: model.safetensors is missing; the run did not finish, use its last checkpoint-N")
    spec = BaseSpec(str(path))
    return spec, base_fingerprint(spec)


def _with_adapter(base: Base, path: Path, wide: bool) -> Any:
    """Put the adapter on its base; every weight the adapter has must be in its file, and the other way round."""
    from peft import PeftConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    try:
        config = PeftConfig.from_pretrained(str(path))
        weights = load_peft_weights(str(path), device="cpu")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{path}: its adapter cannot be read ({str(error).splitlines()[0]})") from error
    try:
        refuse_lost_file(weights)
    except LostWeights as error:
        raise UserError(f"{path / ADAPTER_FILE}: {error}") from error
    config.inference_mode = True
    if getattr(config, "bias", "none") != "none":
        own_biases(base.model)
    config.base_model_name_or_path = base.model.name_or_path  # where the base lies now; its content has been compared
    with warnings.catch_warnings():
        # peft takes AdaLoRA's record of pruned ranks, which it reads two lines below, for names of modules.
        warnings.filterwarnings("ignore", message="The following rank_pattern keys", category=RuntimeWarning)
        # In the base's dtype, as the projector is, and as training under autocast computes with them. float32 is for
        # an optimizer's small steps: here it would be a cast a token, and could not be packed without rounding.
        model = get_peft_model(base.model, config, autocast_adapter_dtype=wide)
    differing = set(get_peft_model_state_dict(model)) ^ set(weights)
    loaded = set_peft_model_state_dict(model, weights)
    # peft reads a learned prompt by itself and still calls it unexpected; `differing` has looked at it.
    problems = sorted({*loaded.unexpected_keys, *differing} - ({_PROMPT} - differing))
    if problems:
        raise UserError(f"{path}: {ADAPTER_FILE} does not fit its configuration (first: {problems[0]})")
    return model


def _load_plain_base(spec: BaseSpec, place: Place, version: str, asked: str | None) -> Loaded:
    check_aspect_ratio(asked or "pad")
    spec, base = place.load(spec)
    aspect_ratio = asked or getattr(base.model.config, "image_aspect_ratio", "pad")
    manifest = {
        "kind": "base",
        "model": spec.model,
        "method": "none",
        "base": asdict(spec),
        "base_fingerprint": base_fingerprint(spec),
        "adapter_sha256": None,
        "version": version,
        "image_aspect_ratio": aspect_ratio,
        "versions": library_versions(),
    }
    vision = base.vision_format(aspect_ratio)
    return Loaded(base.model, base.tokenizer, base.template(version), vision, spec.model, manifest)
