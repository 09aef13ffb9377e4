"""The interaction matrix M of a layer, drawn as a table with numbers.

In: a loaded model and, where there is one, its run's routing statistics. Out: HTML. M is what equation 12 mixes the
experts' Shapley values with, omega = M phi.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llava_teamlora.constants import ROUTING_FILE
from llava_teamlora.serving.experts.layers import Experts, read_experts, view_label, watched_layers
from llava_teamlora.serving.experts.words import say

if TYPE_CHECKING:
    from llava_teamlora.checkpoint import Loaded


@dataclass(frozen=True)
class Matrices:
    """The interaction matrices of a model, and where they started.

    Attributes:
        experts: of the model.
        values: ``[layers, k, k]``; None where M is fixed at the identity.
        widest: what an entry beside the diagonal starts below, drawn evenly from 0; 0 is a start at the identity.
        drifts: ``||M - M_0|| / ||M_0||`` of each layer as training wrote it down, ``[layers]``; None where it did not.
    """

    experts: Experts
    values: NDArray[np.float64] | None = None
    widest: float = 0.0
    drifts: tuple[float, ...] | None = None


def read_matrices(loaded: Loaded, run: str | Path | None = None) -> Matrices:
    """Copy a model's interaction matrices.

    Args:
        loaded: as ``checkpoint.load_model`` gives it.
        run: its run folder.

    Raises:
        UserError: the run's routing statistics are broken.
    """
    from torch import nn

    experts, found, init = read_experts(loaded), [], "identity"
    for _, layer in watched_layers(loaded):
        name = layer.active_adapters[0]
        module = layer.weight_module("interaction", name)
        if not isinstance(module, nn.Linear):
            return Matrices(experts)
        found.append(module.weight.detach().double().cpu().numpy().copy())
        init = layer.adapter_configs[name].interaction_init
    if not found:
        return Matrices(experts)
    widest = {"uniform": 1.0 / experts.k, "literal": 1.0, "identity": 0.0}[init]
    return Matrices(experts, np.stack(found), widest, _drifts(experts, run))


def matrix_html(matrices: Matrices, view: str, language: str = "en") -> str:
    """Draw the mean of a view's matrices, or say why there is none.

    Raises:
        UserError: no such view, or an unknown language.
    """
    experts = matrices.experts
    if not experts.k:
        return f"<p class='ltx ltx-none'>{escape(experts.why_none(language))}</p>"
    if matrices.values is None:
        return f"<p class='ltx ltx-none'>{escape(say('no_interaction', language, method=experts.method))}</p>"
    rows = experts.rows(view)
    mean = matrices.values[rows].mean(0)
    title = escape(say("matrix", language, view=view_label(view, language)))
    notes = [say("matrix_read", language), _distance(matrices, rows, language)]
    notes += [say("across", language)] if len(rows) > 1 else []
    return (
        f"<figure class='ltx ltx-matrix'><table><caption>{title}</caption>{_table(mean)}</table>"
        f"<figcaption>{' '.join(notes)}</figcaption></figure>"
    )


def _table(matrix: NDArray[np.float64]) -> str:
    strongest = max(1.0, float(np.abs(matrix).max()))
    head = "".join(f"<th scope=col>φ<sub>{j + 1}</sub></th>" for j in range(len(matrix)))
    body = "".join(
        f"<tr><th scope=row>ω<sub>{i + 1}</sub></th>{''.join(_cell(float(entry), strongest) for entry in row)}</tr>"
        for i, row in enumerate(matrix)
    )
    return f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody>"


def _cell(entry: float, strongest: float) -> str:
    tone, side = round(100 * abs(entry) / strongest), "h" if entry >= 0 else "l"
    return f"<td class={side} style=--v:{tone}>{'' if entry >= 0 else '−'}{abs(entry):.2f}</td>"


def _distance(matrices: Matrices, rows: list[int], language: str) -> str:
    """How far M has come: what training wrote down, else the distance from what it starts at on average."""
    if matrices.drifts is not None:
        drift = float(np.mean([matrices.drifts[row] for row in rows]))
        return say("drift_known", language, drift=f"{drift:.3f}")
    assert matrices.values is not None
    k, off = matrices.experts.k, matrices.widest / 2
    start = np.full((k, k), off)
    np.fill_diagonal(start, 1.0)
    size = float(np.linalg.norm(start))
    drift = float(np.mean([np.linalg.norm(matrices.values[row] - start) for row in rows])) / size
    if not matrices.widest:
        return say("drift_known", language, drift=f"{drift:.3f}")
    usual = matrices.widest * np.sqrt(k * (k - 1) / 12) / size  # an even draw's standard deviation is width / sqrt(12)
    return say("drift_mean", language, off=f"{off:.3g}", drift=f"{drift:.3f}", usual=f"{usual:.3f}")


def _drifts(experts: Experts, run: str | Path | None) -> tuple[float, ...] | None:
    """Each layer's drift in the last window that training wrote; None without one of every layer."""
    from llava_teamlora.analysis.routing import read_routing

    if run is None or not (Path(run) / ROUTING_FILE).is_file():
        return None
    last = {row.layer: row.interaction for row in read_routing(run)}
    found = [last.get(name) for name in experts.layers]
    known = [state.drift for state in found if state is not None]
    return tuple(known) if len(known) == len(found) else None
