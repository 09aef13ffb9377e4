"""The heat strip: one column a token, one cell an expert, coloured by how much the expert took part.

In: an answer's tokens as they come, with omega of each expert in each routed layer. Out: HTML for a view of the layers,
or all numbers as JSON or CSV. A token is drawn once a view, so an answer's drawing costs what it is long.

The scale is one of ratios about the even share 1/k, since omega multiplies what an expert adds: 1 (an expert alone) and
1/k^2 are the ends. It is the same for all answers, so that two strips may be compared.
"""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from llava_teamlora.serving.experts.gains import expert_label
from llava_teamlora.serving.experts.layers import Experts, view_label
from llava_teamlora.serving.experts.words import say

FORMAT = 1
"""Version of the JSON."""
_ROOM = 64  # tokens that there is room for at first
_DIGITS = 4
_SHOWN = 24  # characters of a token under its column


class Said(Protocol):
    """A token as the engine tells it."""

    @property
    def text(self) -> str:
        """The piece of the answer that came with it."""
        ...

    @property
    def participation(self) -> Any:
        """omega, ``[layers, k]``, in anything that numpy reads; None where nobody watched."""
        ...


class _Scale(NamedTuple):
    """How an answer's numbers become colours."""

    k: int
    off: tuple[bool, ...]

    def cell(self, omega: float, expert: int, leads: bool) -> str:
        dot = " r" if leads else ""
        if not math.isfinite(omega) or self.off[expert]:
            return "<i class=x></i>"
        if omega <= 0:
            return f'<i class="{"l" if omega == 0 else "l m"}{dot}" style=--v:100></i>'
        tone = round(100 * math.log(omega * self.k) / math.log(max(self.k, 2)))
        return f'<i class="{"h" if tone >= 0 else "l"}{dot}" style=--v:{min(abs(tone), 100)}></i>'


class _Drawn:
    """The columns of one view, so far."""

    def __init__(self, view: str, experts: Experts) -> None:
        self.view, self.rows = view, experts.rows(view)
        self.columns: list[str] = []
        self.total = np.zeros(experts.k)
        self.leads = np.zeros(experts.k, dtype=int)
        self.watched = 0

    def add(self, texts: Sequence[str], omega: NDArray[np.float16], scale: _Scale) -> None:
        """Draw tokens, their participations ``[tokens, layers, k]``."""
        means = omega[:, self.rows].astype(np.float32).mean(1)  # [tokens, k]
        for text, mean in zip(texts, means, strict=True):
            first = int(mean.argmax())
            first = first if mean[first] > 0 else -1  # nobody leads where nobody adds anything
            if np.isfinite(mean).all():
                self.watched += 1
                self.total += mean
                self.leads[first] += first >= 0
            self.columns.append(_column(text, mean.tolist(), first, scale))


class Strip:
    """One answer's participations, growing.

    Args:
        experts: of the model that answers.
        gains: that it answers with; an expert of gain 0 is drawn as off.

    Raises:
        ValueError: if the gains are not one for each expert, or there are no experts.
    """

    def __init__(self, experts: Experts, gains: Sequence[float] | None = None) -> None:
        if not experts.k or (gains is not None and len(gains) != experts.k):
            raise ValueError(f"{gains} for {experts.k} experts")
        self.experts, self.gains = experts, None if gains is None else tuple(gains)
        self.texts: list[str] = []
        self._omega = np.empty((_ROOM, len(experts.layers), experts.k), np.float16)
        self._drawn: _Drawn | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def omega(self) -> NDArray[np.float16]:
        """All participations, ``[tokens, layers, k]``; nan where nobody watched."""
        return self._omega[: len(self.texts)]

    def push(self, tokens: Iterable[Said]) -> None:
        """Take in the answer's next tokens.

        Raises:
            ValueError: if a participation is not of these layers and experts.
        """
        for token in tokens:
            if len(self.texts) == len(self._omega):
                self._omega = np.concatenate([self._omega, np.empty_like(self._omega)])
            omega = np.nan if token.participation is None else np.asarray(token.participation)
            if isinstance(omega, np.ndarray) and omega.shape != self._omega.shape[1:]:
                raise ValueError(f"participation of shape {omega.shape}, expected {self._omega.shape[1:]}")
            with np.errstate(over="ignore"):  # what half precision cannot hold is drawn as not known
                self._omega[len(self.texts)] = omega
            self.texts.append(token.text)

    def html(self, view: str, language: str = "en", newest: int | None = None) -> str:
        """Draw the tokens.

        Args:
            view: one of ``experts.choices()``.
            language: ``en`` or ``zh``.
            newest: draw only so many, the last, and keep them in sight: while they stream. What is sent then stays the
                same in size.

        Raises:
            UserError: no such view.
        """
        drawn = self._draw(view)
        k, count = self.experts.k, len(drawn.columns)
        first = 0 if newest is None else max(0, count - newest)
        notes = [say("rows", language, k=k), say("scale", language, k=k)]
        notes += [say("across", language)] if len(drawn.rows) > 1 else []
        live = "" if newest is None else " ltx-live"
        earlier = f"<span class=ltx-earlier>{say('earlier', language, count=first)}</span>" if first else ""
        columns = "".join(drawn.columns[first:]) or f"<span class=ltx-earlier>{say('no_tokens', language)}</span>"
        return (
            f'<figure class="ltx ltx-strip" aria-label="{say("strip", language)}">'
            f"<div class=ltx-readout>{say('readout', language)}</div>{self._summary(drawn, language)}"
            f'<div class="ltx-window{live}"><div class=ltx-columns>{earlier}{columns}</div></div>'
            f"<figcaption><b>{escape(view_label(view, language))}</b> {_legend(k)}"
            f"<details><summary>{say('how', language)}</summary>{' '.join(notes)}</details></figcaption></figure>"
        )

    def payload(self) -> dict[str, Any]:
        """All numbers as plain lists: ``layers`` (names), ``experts`` (k), ``omega`` ``[tokens][layers][k]``."""
        return {"layers": list(self.experts.layers), "experts": self.experts.k, "omega": omega_lists(self.omega)}

    def to_json(self, model: str = "") -> str:
        """The answer's participations as a JSON document.

        Args:
            model: who answered.
        """
        head = {"format": FORMAT, "model": model, "method": self.experts.method, "gains": self.gains}
        return json.dumps({**head, "tokens": self.texts, **self.payload()}, ensure_ascii=False)

    def to_csv(self) -> str:
        """The same as a table: a line for each token and layer, a column for each expert.

        A token stands in quotes of its own, as in JSON: spaces and line ends can be seen, and no program that reads
        tables takes it for a formula.
        """
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["position", "token", "layer", *(f"expert_{i + 1}" for i in range(self.experts.k))])
        for position, (text, layers) in enumerate(zip(self.texts, omega_lists(self.omega), strict=True)):
            shown = json.dumps(text, ensure_ascii=False)
            table.writerows(
                [position, shown, name, *row] for name, row in zip(self.experts.layers, layers, strict=True)
            )
        return out.getvalue()

    def _draw(self, view: str) -> _Drawn:
        if self._drawn is None or self._drawn.view != view:
            self._drawn = _Drawn(view, self.experts)
        done, k = len(self._drawn.columns), self.experts.k
        scale = _Scale(k, tuple(gain == 0 for gain in self.gains or [1.0] * k))
        self._drawn.add(self.texts[done:], self.omega[done:], scale)
        return self._drawn

    def _summary(self, drawn: _Drawn, language: str) -> str:
        if not drawn.watched:
            return ""
        said = [
            f"<li><b>{expert_label(i, language)}</b> {say('mean_share', language)} {mean:.2f} · "
            f"{say('leads', language)} {leads:.0%}</li>"
            for i, (mean, leads) in enumerate(
                zip(drawn.total / drawn.watched, drawn.leads / drawn.watched, strict=True)
            )
        ]
        return f"<ul class=ltx-summary>{''.join(said)}</ul>"


def omega_lists(omega: Any) -> Any:
    """Participations of any shape as nested lists, rounded; None where nobody watched (JSON has no nan)."""
    rounded = np.round(np.asarray(omega, dtype=np.float64), _DIGITS)
    return np.where(np.isfinite(rounded), rounded, None).tolist()  # pyright: ignore[reportCallIssue, reportArgumentType]


def _column(text: str, omega: Sequence[float], first: int, scale: _Scale) -> str:
    numbers = " · ".join(f"{i + 1}: {value:.3f}" for i, value in enumerate(omega))
    cells = "".join(scale.cell(value, i, i == first) for i, value in enumerate(omega))
    seen = visible(text)
    short = seen if len(seen) <= _SHOWN else f"{seen[: _SHOWN - 1]}…"
    label = escape(f"{short}  {numbers}", quote=True)
    return f'<span class=ltx-t role=img tabindex=-1 aria-label="{label}">{cells}<b>{escape(short)}</b></span>'


def visible(text: str) -> str:
    """A token's text so that all of it can be seen, in order: no control or direction marks, no bare space."""
    if not text.strip("\ufffd"):
        return "·"  # some bytes of a character, or what ends an answer
    marks = {"\n": "↵", "\t": "⇥", " ": " "}
    shown = "".join(
        marks.get(sign) or (f"U+{ord(sign):04X}" if unicodedata.category(sign)[0] == "C" else sign) for sign in text
    )
    return shown.strip() or "␣"


def _legend(k: int) -> str:
    """Five cells of the scale with their numbers."""
    scale = _Scale(k, (False,) * k)
    base = max(k, 2)
    values = [base**power / k for power in (-1, -0.5, 0, 0.5, 1)]
    ends = {0: "≤ ", 4: "≥ "}
    cells = "".join(
        f"{scale.cell(value, 0, False)}<span>{ends.get(i, '')}{value:.2g}</span>" for i, value in enumerate(values)
    )
    return f"<span class=ltx-legend>ω {cells}</span>"
