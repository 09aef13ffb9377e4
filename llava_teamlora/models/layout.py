"""Names of a LLaVA's weights in the layouts that folders come in.

- original: LLaVA's own folders, such as liuhaotian/llava-v1.5-7b;
- hub: transformers' folders, such as llava-hf/llava-1.5-7b-hf, which every version of transformers reads;
- ours: what transformers' module calls them while it runs, ``model.state_dict()``.

The projector's layers keep the names that the module gives them; ``models/projector.py`` knows LLaVA's.
"""

from __future__ import annotations

from typing import Literal

Layout = Literal["original", "hub"]

# Beginning of a name in our module -> what it is called elsewhere. The first that fits counts.
_FROM_OURS: dict[Layout, tuple[tuple[str, str], ...]] = {
    "original": (
        ("model.language_model.", "model."),
        ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("model.multi_modal_projector.", "model.mm_projector."),
        ("lm_head.", "lm_head."),
    ),
    "hub": (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ),
}

LANGUAGE_MODEL = "model.language_model."
TOWER = "model.vision_tower."
PROJECTOR_PREFIX = "model.multi_modal_projector."

KEY_MAPPING = {
    r"^model\.vision_tower\.vision_tower\.vision_model\.": TOWER,
    r"^model\.(embed_tokens|layers|norm)\.": LANGUAGE_MODEL + r"\1.",
}
"""Original names -> ours, but for the projector's, in the words of ``from_pretrained(key_mapping=…)``."""

RECOMPUTED = (".rotary_emb.inv_freq", ".embeddings.position_ids")
"""Ends of names that old folders hold and no model needs: they follow from the config."""


def elsewhere(name: str, layout: Layout) -> str:
    """Our name of a weight -> its name in that layout.

    Raises:
        ValueError: a weight that is no part of a LLaVA.
    """
    for ours, theirs in _FROM_OURS[layout]:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ValueError(f"{name}: is no weight of a LLaVA's language model, vision tower or projector")
