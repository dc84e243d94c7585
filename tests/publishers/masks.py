"""Entities as EDI's pipeline holds them, for publishers to make and to tell of: `import masks` in a puppet."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import numpy as np


@dataclass
class EntityMask:
    """EDI's own class: the mask is a uint8 array of 0 and 1."""

    mask: np.ndarray
    entity_id: str
    similarity_score: float
    bbox: tuple[int, int, int, int]
    centroid: tuple[float, float]
    area: int
    dominant_color: tuple[int, int, int]


def smooth(size: int, number: int) -> np.ndarray:
    """Return a smooth mask: an ellipse with a wavy edge, another for each number."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[:size, :size] / size
    angle = np.arctan2(y - 0.5, x - 0.5)
    across, down = random.uniform(0.15, 0.4, 2)
    edge = 1 + 0.1 * np.sin(5 * angle + number)
    return (((x - 0.5) / across) ** 2 + ((y - 0.5) / down) ** 2 < edge).astype(np.uint8)


def entities(count: int = 17, size: int = 1024, first: int = 0) -> list[EntityMask]:
    made = []
    for number in range(first, first + count):
        mask = smooth(size, number)
        area = int(mask.sum())
        made.append(
            EntityMask(mask, f"entity_{number}", 0.5, (0, 0, size, size), (size / 2, size / 2), area, (1, 2, 3))
        )
    return made


def told(value: object) -> object:
    """Return a value with its arrays and bytes told of by type, shape and digest, to be compared across processes."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), sha256(value.tobytes()).hexdigest()]
    if isinstance(value, bytes):
        return ["bytes", len(value), sha256(value).hexdigest()]
    if isinstance(value, EntityMask):
        return told(vars(value))
    if isinstance(value, dict):
        return {key: told(part) for key, part in value.items()}
    return [told(part) for part in value] if isinstance(value, list | tuple) else value
