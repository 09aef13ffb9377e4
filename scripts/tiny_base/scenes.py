"""Scenes: random pictures of a few flat figures, and the facts about them.

In: a numpy random generator. Out: 64x64 RGB pictures with an exact description of what was drawn. Everything the
base ever sees of the visual world comes from here; no picture made by others is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64  # px, width and height of a picture
MIN_SIZE, MAX_SIZE = 8, 36  # px, longer side of a figure before rotation

SHAPES = ("circle", "rectangle", "triangle", "star", "cross", "ring")

# Several anchors a name, so that a name covers a region of colour space and not one point. [R, G, B], 0-255
COLOR_ANCHORS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((0, 0, 0), (22, 22, 22)),
    "blue": ((0, 0, 255), (30, 60, 230), (20, 20, 170)),
    "brown": ((165, 42, 42), (139, 69, 19), (120, 60, 30)),
    "gray": ((128, 128, 128), (110, 110, 110), (150, 150, 150)),
    "green": ((0, 255, 0), (0, 160, 0), (60, 220, 60)),
    "red": ((255, 0, 0), (225, 20, 30)),
    "teal": ((0, 128, 128), (0, 150, 145)),
    "yellow": ((255, 255, 0), (240, 225, 30)),
    "orange": ((255, 140, 0), (255, 120, 20)),
    "purple": ((128, 0, 128), (150, 40, 200)),
    "pink": ((255, 105, 180), (255, 60, 190)),
}
COLORS = tuple(COLOR_ANCHORS)


@dataclass(frozen=True)
class Figure:
    """One drawn figure. Lengths in px, angle in degrees, box = the tight (left, top, right, bottom) of its outline."""

    shape: str
    color: str
    rgb: tuple[int, int, int]
    center: tuple[float, float]
    size: tuple[float, float]
    angle: float
    box: tuple[float, float, float, float]

    @property
    def horizontal(self) -> str:
        """Half of the picture that holds the centre: "left" or "right"."""
        return "left" if self.center[0] < SIDE / 2 else "right"

    @property
    def vertical(self) -> str:
        """Half of the picture that holds the centre: "top" or "bottom"."""
        return "top" if self.center[1] < SIDE / 2 else "bottom"

    @property
    def magnitude(self) -> str:
        """ "large" from 20 px of longer side on, else "small"."""
        return "large" if max(self.size) >= 20 else "small"


@dataclass(frozen=True)
class Scene:
    """A picture's facts: background colour, grain (px value noise, standard deviation) and its figures."""

    background: tuple[int, int, int]
    grain: float
    figures: tuple[Figure, ...]


def outline(shape: str, width: float, height: float, angle: float) -> list[tuple[float, float]]:
    """Corner points of a figure around (0, 0), rotated by `angle` degrees; rings and circles as many-sided polygons."""
    if shape in ("circle", "ring"):
        points = [(math.cos(t), math.sin(t)) for t in np.linspace(0, 2 * math.pi, 40, endpoint=False)]
    elif shape == "rectangle":
        points = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    elif shape == "triangle":
        points = [(0, -1), (1, 1), (-1, 1)]
    elif shape == "star":
        turns = [(-math.pi / 2 + i * math.pi / 5, 1.0 if i % 2 == 0 else 0.42) for i in range(10)]
        points = [(radius * math.cos(t), radius * math.sin(t)) for t, radius in turns]
    else:  # cross
        a = 0.34
        points = [
            (-a, -1),
            (a, -1),
            (a, -a),
            (1, -a),
            (1, a),
            (a, a),
            (a, 1),
            (-a, 1),
            (-a, a),
            (-1, a),
            (-1, -a),
            (-a, -a),
        ]
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    scaled = [(x * width / 2, y * height / 2) for x, y in points]
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in scaled]


def _random_rgb(rng: np.random.Generator, color: str) -> tuple[int, int, int]:
    anchors = COLOR_ANCHORS[color]
    anchor = np.array(anchors[0] if rng.random() < 0.5 else anchors[rng.integers(len(anchors))])
    spread = 10 if rng.random() < 0.6 else 0
    r, g, b = np.clip(anchor + rng.integers(-spread, spread + 1, 3), 0, 255).tolist()
    return r, g, b


def _random_background(rng: np.random.Generator) -> tuple[int, int, int]:
    """Mostly near white; now and then any light tone, seldom a dark one."""
    kind = rng.random()
    low, high = (228, 256) if kind < 0.75 else (190, 256) if kind < 0.93 else (20, 70)
    r, g, b = rng.integers(low, high, 3).tolist()
    return r, g, b


def _random_size(rng: np.random.Generator, shape: str, largest: float) -> tuple[float, float]:
    side = float(rng.uniform(MIN_SIZE if shape in SHAPES[:3] else MIN_SIZE + 3, largest))
    if shape == "rectangle":
        other = float(rng.uniform(max(MIN_SIZE, 0.4 * side), side))
        return (side, other) if rng.random() < 0.5 else (other, side)
    if shape == "triangle":
        return side, side * float(rng.uniform(0.75, 1.0))
    return side, side


def _place(rng: np.random.Generator, shape: str, color: str, rgb: tuple[int, int, int], largest: float) -> Figure:
    width, height = _random_size(rng, shape, largest)
    turns = shape in ("rectangle", "triangle", "cross", "star") and rng.random() < 0.3
    angle = float(rng.uniform(0, 360)) if turns else 0.0
    points = np.array(outline(shape, width, height, angle))  # [P, 2]
    low, high = points.min(0), points.max(0)
    x, y = (rng.uniform(-low[i], SIDE - 1 - high[i]) for i in range(2))
    box = (x + low[0], y + low[1], x + high[0], y + high[1])
    return Figure(shape, color, rgb, (float(x), float(y)), (width, height), angle, tuple(map(float, box)))  # type: ignore[arg-type]


def _apart(a: Figure, b: Figure, gap: float = 2.0) -> bool:
    (l1, t1, r1, b1), (l2, t2, r2, b2) = a.box, b.box
    return r1 + gap < l2 or r2 + gap < l1 or b1 + gap < t2 or b2 + gap < t1


def random_scene(rng: np.random.Generator) -> Scene:
    """Draws a scene's facts: one figure in 60 % of scenes, else two or three, never touching, always in contrast."""
    background = _random_background(rng)
    wanted = int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    figures: list[Figure] = []
    for _ in range(60):
        if len(figures) == wanted:
            break
        shape, color = str(rng.choice(SHAPES)), str(rng.choice(COLORS))
        rgb = _random_rgb(rng, color)
        if sum(abs(p - q) for p, q in zip(rgb, background, strict=True)) < 110:
            continue
        figure = _place(rng, shape, color, rgb, MAX_SIZE if wanted == 1 else 28 if wanted == 2 else 24)
        if all(_apart(figure, other) for other in figures):
            figures.append(figure)
    if not figures:
        return random_scene(rng)
    grain = float(rng.uniform(0, 6)) if rng.random() < 0.25 else 0.0
    return Scene(background, grain, tuple(figures))


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Paints a scene, half the time with smooth edges; `rng` feeds that choice and the grain. RGB, SIDE x SIDE px."""
    zoom = 4 if rng.random() < 0.5 else 1
    picture = Image.new("RGB", (SIDE * zoom, SIDE * zoom), scene.background)
    pen = ImageDraw.Draw(picture)
    for figure in scene.figures:
        x, y = figure.center
        if figure.shape in ("circle", "ring"):
            pen.ellipse(tuple(zoom * edge for edge in figure.box), fill=figure.rgb)
        else:
            points = outline(figure.shape, *figure.size, figure.angle)
            pen.polygon([(zoom * (x + dx), zoom * (y + dy)) for dx, dy in points], fill=figure.rgb)
        if figure.shape == "ring":
            hole = 0.27 * figure.size[0]
            pen.ellipse(tuple(zoom * edge for edge in (x - hole, y - hole, x + hole, y + hole)), fill=scene.background)
    if zoom > 1:
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    if scene.grain == 0:
        return picture
    noisy = np.asarray(picture, np.float32) + rng.normal(0, scene.grain, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def make_scenes(count: int, seed: int) -> tuple[list[Scene], np.ndarray]:
    """`count` scenes and their pictures [count, SIDE, SIDE, 3] uint8; a given seed always gives the same ones."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    pictures = np.stack([np.asarray(draw(scene, rng)) for scene in scenes])
    return scenes, pictures
