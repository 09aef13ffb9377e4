"""Names and numbers that more than one room needs."""

IGNORE_INDEX = -100
"""Label of a position that carries no loss (torch's cross-entropy default)."""

IMAGE_TOKEN = "<image>"
"""Marks a picture's place in a conversation's text, as in LLaVA's JSON."""

IM_START, IM_END = "<im_start>", "<im_end>"
"""Stand around every picture where ``--mm_use_im_start_end`` asks for it."""

IM_PATCH = "<im_patch>"
"""Takes up a place in the vocabulary where ``mm_use_im_patch_token`` says so; LLaVA never uses it."""

IMAGE_WRAPPED = IM_START + IMAGE_TOKEN + IM_END
"""A picture's place in that case."""

IMAGE_TOKEN_INDEX = -200
"""Stands for one whole picture in token ids before it is expanded to its patches (LLaVA's own number)."""

PROJECTOR = "multi_modal_projector"
"""Module name of the projector in transformers' LLaVA."""

ROUTING_FILE = "routing.jsonl"
"""Routing statistics in a run folder; docs/telemetry.md says what its lines hold."""

ROUTING_FORMAT = 1
"""Version of its lines."""
