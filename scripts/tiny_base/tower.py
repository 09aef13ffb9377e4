"""Stage 1: the vision tower alone, taught by what stands nearest to each patch.

In: pictures and their scenes. Out: a CLIP vision tower whose second-to-last hidden state tells, at every patch, the
nearest figure's shape, colour and place. The language model later reads exactly that state (vision_feature_layer -2).
The geometry targets (box and outline mask) matter: with names alone, shapes are hardly learned.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from .scenes import COLORS, SHAPES, SIDE, Scene, outline

MASK_SIDE = 8  # the outline target is MASK_SIDE x MASK_SIDE cells over the figure's own box
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25  # on a 0-1 scale, the same for the three channels

log = logging.getLogger("tiny_base")


@dataclass(frozen=True)
class PatchLabels:
    """Targets for N pictures of P patches: class ids [N, P], boxes [N, P, 4] (px / SIDE), outlines [N, P, 64]."""

    shape: Tensor
    color: Tensor
    box: Tensor
    mask: Tensor

    def take(self, rows: Tensor) -> PatchLabels:
        """The labels of some pictures; rows [B] of indices."""
        return PatchLabels(self.shape[rows], self.color[rows], self.box[rows], self.mask[rows])


def tower_config(layers: int, width: int, patch: int) -> CLIPVisionConfig:
    """`layers` counts those in use; one more is added, since LLaVA reads the state before the last layer."""
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers + 1,
        num_attention_heads=width // 32,
        image_size=SIDE,
        patch_size=patch,
        projection_dim=width,
        hidden_act="gelu",
    )


def patch_of(tower: CLIPVisionModel) -> int:
    """The side of a square patch, px."""
    patch = tower.config.patch_size
    assert isinstance(patch, int)
    return patch


def to_pixels(pictures: np.ndarray) -> Tensor:
    """[N, SIDE, SIDE, 3] uint8 -> [N, 3, SIDE, SIDE] float32, normalised as the saved image processor does."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


def outline_mask(shape: str, width: float, height: float, angle: float) -> np.ndarray:
    """Which cells of a figure's own box its outline covers: [MASK_SIDE * MASK_SIDE] of 0.0 and 1.0."""
    points = np.array(outline(shape, width, height, angle))
    low, high = points.min(0), points.max(0)
    ticks = (np.arange(MASK_SIDE) + 0.5) / MASK_SIDE
    x, y = np.meshgrid(low[0] + ticks * (high[0] - low[0]), low[1] + ticks * (high[1] - low[1]))
    inside = np.zeros_like(x, dtype=bool)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, 0), strict=True):  # even-odd rule
        crosses = (y1 > y) != (y2 > y)
        inside ^= crosses & (x < (x2 - x1) * (y - y1) / (y2 - y1 + 1e-9) + x1)
    if shape == "ring":
        inside &= x**2 + y**2 > (0.27 * width) ** 2
    return inside.reshape(-1).astype(np.float32)


def patch_labels(scenes: list[Scene], patch: int) -> PatchLabels:
    """Labels each patch of each scene by the figure whose box is nearest to the patch's centre (ties: its centre)."""
    ticks = (np.arange(SIDE // patch) + 0.5) * patch
    cy, cx = (grid.reshape(-1) for grid in np.meshgrid(ticks, ticks, indexing="ij"))  # [P]
    shape, color, box, mask = [], [], [], []
    for scene in scenes:
        edges = np.array([figure.box for figure in scene.figures])  # [F, 4]
        gap_x = np.maximum(0, np.maximum(edges[:, :1] - cx, cx - edges[:, 2:3]))  # [F, P]
        gap_y = np.maximum(0, np.maximum(edges[:, 1:2] - cy, cy - edges[:, 3:]))
        middle = np.hypot((edges[:, :1] + edges[:, 2:3]) / 2 - cx, (edges[:, 1:2] + edges[:, 3:]) / 2 - cy)
        nearest = (np.hypot(gap_x, gap_y) + 0.01 * middle).argmin(0)  # [P]
        near_edges = edges[nearest]
        shape.append(np.array([SHAPES.index(f.shape) for f in scene.figures])[nearest])
        color.append(np.array([COLORS.index(f.color) for f in scene.figures])[nearest])
        box.append((near_edges - np.stack([cx, cy, cx, cy], 1)) / SIDE)
        mask.append(np.stack([outline_mask(f.shape, *f.size, f.angle) for f in scene.figures])[nearest])
    return PatchLabels(
        torch.from_numpy(np.stack(shape)),
        torch.from_numpy(np.stack(color)),
        torch.from_numpy(np.stack(box)).float(),
        torch.from_numpy(np.stack(mask)),
    )


def init_positions(tower: CLIPVisionModel) -> None:
    """Starts the learned positions from 2-D sines and cosines, so that neighbourhood need not be discovered."""
    embeddings, width = tower.embeddings, tower.config.hidden_size
    grid = SIDE // patch_of(tower)
    rates = angular_rates(width // 4)
    ticks = torch.arange(grid, dtype=torch.float32)[:, None] * rates  # [G, width / 4]
    wave = torch.cat([ticks.sin(), ticks.cos()], 1)  # [G, width / 2]
    rows = wave[:, None].expand(-1, grid, -1)
    columns = wave[None].expand(grid, -1, -1)
    with torch.no_grad():
        embeddings.position_embedding.weight[1:] = 0.5 * torch.cat([rows, columns], -1).reshape(grid * grid, width)


def angular_rates(count: int) -> Tensor:
    """Angular rates [count], geometric from 1 down to 1/50 rad per patch."""
    return 50.0 ** (-torch.arange(count, dtype=torch.float32) / count)


class PatchHeads(nn.Module):
    """Linear read-outs of the tower's state; thrown away after the stage."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.sizes = (len(SHAPES), len(COLORS), 4, MASK_SIDE**2)
        self.out = nn.Linear(width, sum(self.sizes))

    def forward(self, state: Tensor) -> tuple[Tensor, ...]:
        """[B, P, width] -> shape logits, colour logits, box and outline logits, each [B, P, its size]."""
        return self.out(self.norm(state)).split(self.sizes, dim=-1)


def patch_state(tower: CLIPVisionModel, pixels: Tensor) -> Tensor:
    """The state LLaVA reads, [B, P, width]: after all layers but the last, without the class token."""
    state = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:-1]:
        state = layer(state, attention_mask=None)
        state = state[0] if isinstance(state, tuple) else state
    return state[:, 1:]


def _loss(outputs: tuple[Tensor, ...], labels: PatchLabels) -> Tensor:
    shape, color, box, mask = outputs
    named = F.cross_entropy(shape.flatten(0, 1), labels.shape.flatten())
    named = named + F.cross_entropy(color.flatten(0, 1), labels.color.flatten())
    placed = F.smooth_l1_loss(box, labels.box, beta=0.05)
    return named + 10 * placed + F.binary_cross_entropy_with_logits(mask, labels.mask)


@torch.no_grad()
def tower_scores(tower: CLIPVisionModel, heads: PatchHeads, pixels: Tensor, labels: PatchLabels) -> dict[str, float]:
    """Share of patches whose nearest shape and colour are named right, over held-out pictures."""
    shape, color, _, _ = heads(patch_state(tower, pixels))
    right = {"shape": shape.argmax(-1) == labels.shape, "color": color.argmax(-1) == labels.color}
    return {name: hits.float().mean().item() for name, hits in right.items()}


def train_tower(
    tower: CLIPVisionModel,
    pictures: np.ndarray,
    scenes: list[Scene],
    held_out: tuple[np.ndarray, list[Scene]],
    *,
    steps: int,
    batch_size: int,
    lr: float,
) -> dict[str, float]:
    """Trains the tower in place for `steps` batches of `batch_size` pictures; returns the held-out scores (0-1)."""
    patch = patch_of(tower)
    labels, pixels = patch_labels(scenes, patch), to_pixels(pictures)
    held_pixels, held_labels = to_pixels(held_out[0]), patch_labels(held_out[1], patch)
    heads = PatchHeads(tower.config.hidden_size)
    init_positions(tower)
    weights = [p for p in [*tower.parameters(), *heads.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.08)
    rows = torch.cat([torch.randperm(len(pixels)) for _ in range(steps * batch_size // len(pixels) + 1)])
    for step in range(steps):
        batch = rows[step * batch_size : (step + 1) * batch_size]
        loss = _loss(heads(patch_state(tower, pixels[batch])), labels.take(batch))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 10) == 0:
            scores = tower_scores(tower, heads, held_pixels, held_labels)
            log.info(
                "tower %d/%d loss %.3f held-out shape %.3f color %.3f",
                step + 1,
                steps,
                loss.item(),
                *scores.values(),
            )
    return tower_scores(tower, heads, held_pixels, held_labels)
