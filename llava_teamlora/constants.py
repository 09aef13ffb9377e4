"""Names and numbers that more than one room needs."""

IGNORE_INDEX = -100
"""Label of a position that carries no loss (torch's cross-entropy default)."""

IMAGE_TOKEN = "<image>"
"""Marks a picture's place in a conversation's text, as in LLaVA's JSON."""

IMAGE_TOKEN_INDEX = -200
"""Stands for one whole picture in token ids before it is expanded to its patches (LLaVA's own number)."""

PROJECTOR = "multi_modal_projector"
"""Module name of the projector in transformers' LLaVA."""

ROUTING_FILE = "routing.jsonl"
"""Routing statistics in a run folder; docs/telemetry.md says what its lines hold."""

ROUTING_FORMAT = 1
"""Version of its lines."""
