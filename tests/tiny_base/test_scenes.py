"""Drawn pictures hold what their facts say, pixel by pixel; questions' answers follow from the facts."""

import numpy as np
import pytest
from tiny_base.language import ask, described
from tiny_base.scenes import SHAPES, SIDE, Scene, make_scenes, outline
from tiny_base.text_tasks import replay_records
from tiny_base.tower import outline_mask, patch_labels

SCENES, PICTURES = make_scenes(150, seed=11)


def covered(scene: Scene, picture: np.ndarray, index: int) -> np.ndarray:
    """Pixels [SIDE, SIDE] nearer to one figure's colour than to the background's, inside its box."""
    figure = scene.figures[index]
    to_figure = np.abs(picture.astype(int) - figure.rgb).sum(-1)
    to_background = np.abs(picture.astype(int) - scene.background).sum(-1)
    left, top, right, bottom = figure.box
    y, x = np.mgrid[:SIDE, :SIDE]
    return (to_figure < to_background) & (x >= left - 1.5) & (x <= right + 1.5) & (y >= top - 1.5) & (y <= bottom + 1.5)


@pytest.mark.parametrize("number", range(0, 150, 10))
def test_figures_lie_where_the_facts_say(number: int) -> None:
    scene, picture = SCENES[number], PICTURES[number]
    for index, figure in enumerate(scene.figures):
        y, x = np.nonzero(covered(scene, picture, index))
        drawn = np.array([x.min(), y.min(), x.max(), y.max()])
        assert np.abs(drawn - np.array(figure.box)).max() <= 3.0  # px; a star's tips are thinner than a pixel


def test_areas_fit_the_shapes() -> None:
    for scene, picture in zip(SCENES, PICTURES, strict=True):
        for index, figure in enumerate(scene.figures):
            x, y = np.array(outline(figure.shape, *figure.size, figure.angle)).T
            area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
            edge = np.hypot(x - np.roll(x, -1), y - np.roll(y, -1)).sum()
            if figure.shape == "ring":
                hole = 0.27 * figure.size[0]
                area, edge = area - np.pi * hole**2, edge + 2 * np.pi * hole
            got = covered(scene, picture, index).sum()
            assert abs(got - area) < 0.75 * edge + 4, figure  # an edge pixel counts whole or not at all


def test_the_rest_is_background() -> None:
    for scene, picture in zip(SCENES, PICTURES, strict=True):
        if scene.grain:
            continue
        rest = np.ones((SIDE, SIDE), dtype=bool)
        for figure in scene.figures:
            left, top, right, bottom = figure.box
            rest[max(0, int(top) - 1) : int(bottom) + 3, max(0, int(left) - 1) : int(right) + 3] = False
        assert (picture[rest] == scene.background).all()


def test_same_seed_same_pictures() -> None:
    again_scenes, again = make_scenes(150, seed=11)
    assert again_scenes == SCENES
    assert (again == PICTURES).all()


def test_outline_masks_tell_shapes_apart() -> None:
    filled = {shape: outline_mask(shape, 20.0, 20.0, 0.0).mean() for shape in SHAPES}
    assert filled["rectangle"] == 1.0
    assert 0.7 < filled["circle"] < 0.9
    assert 0.4 < filled["triangle"] < 0.6
    assert filled["ring"] < filled["circle"]


def test_outlines_are_centred_or_inside_their_size() -> None:
    for shape in ("circle", "rectangle", "cross", "ring"):
        points = np.array(outline(shape, 20, 20, 0.0))
        assert np.abs(points.mean(0)).max() < 1e-6
        assert np.abs(points).max() <= 10 + 1e-6


def test_patch_labels_name_a_figure_under_the_patch() -> None:
    labels = patch_labels(SCENES[:50], patch=16)
    for row, scene in enumerate(SCENES[:50]):
        assert set(labels.shape[row].tolist()) <= {
            ("circle", "rectangle", "triangle", "star", "cross", "ring").index(f.shape) for f in scene.figures
        }


def test_descriptions_are_true_half_the_time_and_answers_follow() -> None:
    rng = np.random.default_rng(0)
    told = [(scene, *described(scene, rng)) for scene in SCENES for _ in range(10)]
    for scene, what, true in told:
        words = set(what.split()) - {"shape", "figure", "object"}
        assert any(words <= {f.color, f.shape} for f in scene.figures) == true
    assert 0.45 < np.mean([true for _, _, true in told]) < 0.55


def test_answers_name_what_is_there() -> None:
    rng = np.random.default_rng(1)
    for scene in SCENES:
        for _ in range(10):
            made = ask(scene, rng)
            if made.kind == "color":
                assert any(f.color in made.answer for f in scene.figures)
            if made.kind == "shape":
                assert any(f.shape in made.answer for f in scene.figures)
            if made.kind == "statement":
                assert made.answer in ("true", "false")


def test_replay_records_are_text_only_llava_records() -> None:
    records = replay_records(30, seed=4)
    assert records == replay_records(30, seed=4)
    for record in records:
        assert "image" not in record
        assert [turn["from"] for turn in record["conversations"]] == ["human", "gpt"] * (
            len(record["conversations"]) // 2
        )
