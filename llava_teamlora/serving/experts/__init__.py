"""Experts made visible: who took part in each token, how they influence each other, each of them weighted by hand."""

from llava_teamlora.serving.experts.gains import (
    GAIN_RANGE,
    even_gains,
    expert_label,
    gains_summary,
    only_expert,
    used_gains,
)
from llava_teamlora.serving.experts.layers import MEAN, Experts, read_experts
from llava_teamlora.serving.experts.matrix import Matrices, matrix_html, read_matrices
from llava_teamlora.serving.experts.strip import Strip, omega_lists
from llava_teamlora.serving.experts.words import experts_css, teaching

__all__ = [
    "GAIN_RANGE",
    "MEAN",
    "Experts",
    "Matrices",
    "Strip",
    "even_gains",
    "expert_label",
    "experts_css",
    "gains_summary",
    "matrix_html",
    "omega_lists",
    "only_expert",
    "read_experts",
    "read_matrices",
    "teaching",
    "used_gains",
]
