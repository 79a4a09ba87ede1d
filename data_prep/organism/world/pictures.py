"""What does a clip look like?

Each thing is a sprite of a few polygons and ellipses in its own color with a dark outline, drawn
at the left or right of a scene. It drifts a little, as a hand-held camera would make it.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from data_prep.organism.world.things import Clip, Thing

SIDE = 112  # pixels, both ways; models see half as many
FRAMES_PER_SECOND = 8

Frames = UInt8[np.ndarray, "frame height width 3"]
Point = tuple[float, float]

# In units of the sprite's radius, y downwards. "o" is an ellipse in a box, "p" a polygon; a third
# value is how much lighter (above 1) or darker this part is.
SHAPES: dict[str, list[tuple[str, list[Point], float]]] = {
    "dog": [
        ("p", [(-0.9, -0.1), (0.5, -0.1), (0.5, 0.9), (0.2, 0.9), (0.2, 0.4), (-0.6, 0.4),
               (-0.6, 0.9), (-0.9, 0.9)], 1.0),
        ("o", [(0.1, -0.8), (0.95, 0.1)], 1.0),
        ("p", [(0.1, -1.0), (0.4, -0.7), (0.1, -0.2)], 0.6)],
    "siren": [
        ("p", [(-0.6, 0.5), (-0.5, -0.6), (0.0, -1.0), (0.5, -0.6), (0.6, 0.5)], 1.0),
        ("p", [(-1.0, 0.5), (1.0, 0.5), (1.0, 1.0), (-1.0, 1.0)], 0.5)],
    "drill": [
        ("p", [(-0.9, -0.6), (0.3, -0.6), (0.3, 0.0), (-0.3, 0.0), (-0.4, 1.0), (-0.9, 1.0)], 1.0),
        ("p", [(0.3, -0.5), (1.0, -0.3), (0.3, -0.1)], 0.5)],
    "bell": [
        ("p", [(-0.3, -0.9), (0.3, -0.9), (0.5, 0.2), (0.9, 0.6), (-0.9, 0.6), (-0.5, 0.2)], 1.0),
        ("o", [(-0.25, 0.5), (0.25, 1.0)], 0.6)],
    "keyboard": [
        ("p", [(-1.0, -0.45), (1.0, -0.45), (1.0, 0.55), (-1.0, 0.55)], 1.0),
        ("p", [(-0.8, -0.25), (0.8, -0.25), (0.8, -0.05), (-0.8, -0.05)], 3.5),
        ("p", [(-0.8, 0.15), (0.8, 0.15), (0.8, 0.35), (-0.8, 0.35)], 3.5)],
    "motor": [
        ("p", [(-1.0, -0.2), (-0.4, -0.2), (-0.2, -0.8), (0.6, -0.8), (1.0, -0.1), (1.0, 0.6),
               (-1.0, 0.6)], 1.0),
        ("o", [(-0.8, 0.2), (-0.1, 0.9)], 0.4),
        ("o", [(0.2, 0.2), (0.9, 0.9)], 0.4)],
    "bird": [
        ("o", [(-0.8, -0.4), (0.5, 0.6)], 1.0),
        ("o", [(0.2, -0.9), (0.9, -0.2)], 1.0),
        ("p", [(0.8, -0.7), (1.1, -0.5), (0.8, -0.4)], 1.6),
        ("p", [(-0.4, 0.0), (0.2, -0.1), (-0.9, 0.9)], 0.6)],
    "fountain": [
        ("p", [(-0.1, -1.0), (0.1, -1.0), (0.8, 0.3), (0.3, 0.1), (0.1, 0.5), (-0.1, 0.5),
               (-0.3, 0.1), (-0.8, 0.3)], 1.0),
        ("p", [(-1.0, 0.5), (1.0, 0.5), (0.7, 1.0), (-0.7, 1.0)], 0.6)],
    "horse": [
        ("p", [(-0.9, -0.2), (0.4, -0.2), (0.6, -1.0), (1.0, -0.7), (0.7, 0.3), (0.7, 1.0),
               (0.4, 1.0), (0.3, 0.3), (-0.6, 0.3), (-0.6, 1.0), (-0.9, 1.0)], 1.0),
        ("p", [(0.4, -0.9), (0.6, -1.0), (0.3, -0.1), (0.1, -0.2)], 0.4)],
    "door": [
        ("p", [(-0.55, -1.0), (0.55, -1.0), (0.55, 1.0), (-0.55, 1.0)], 1.0),
        ("o", [(0.2, -0.1), (0.45, 0.15)], 2.2)],
    "drum": [
        ("p", [(-0.9, -0.5), (0.9, -0.5), (0.75, 0.8), (-0.75, 0.8)], 1.0),
        ("o", [(-0.95, -0.8), (0.95, -0.2)], 1.8)],
    "whistle": [
        ("o", [(-0.9, -0.5), (0.3, 0.7)], 1.0),
        ("p", [(-0.3, -0.5), (1.0, -0.5), (1.0, -0.1), (-0.1, -0.1)], 1.0),
        ("o", [(-0.5, -0.1), (-0.1, 0.3)], 0.4)],
}  # fmt: skip

# Sky or wall, ground, and where the ground begins, as a share of the height.
_SCENES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], float]] = {
    "street": ((150, 155, 165), (85, 85, 90), 0.55),
    "park": ((165, 200, 230), (95, 150, 85), 0.5),
    "beach": ((90, 160, 200), (225, 205, 150), 0.6),
    "room": ((205, 190, 175), (140, 100, 75), 0.7),
}


def frames(clip: Clip, thing: Thing, seconds: float) -> Frames:
    """The pictures of a clip; the same clip gives the same ones."""
    rng = clip.rng("look")
    background = _scene(clip.scene, rng)
    radius = rng.uniform(22, 29)
    center = np.array([0.26 if clip.place == "left" else 0.74, 0.5]) * SIDE
    center += rng.uniform((-3, -14), (3, 14))
    drift = rng.uniform(-3, 3, 2)
    color = np.clip(np.array(thing.color) * rng.uniform(0.9, 1.05), 0, 255)
    pictures, n_frames = [], round(seconds * FRAMES_PER_SECOND)
    for step in np.linspace(-0.5, 0.5, n_frames):
        picture = background.copy()
        _draw(picture, thing.noun, center + step * drift, radius, color)
        noisy = np.asarray(picture, dtype=np.float32) + rng.normal(0, 2.5, (SIDE, SIDE, 1))
        pictures.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return np.stack(pictures)


def _scene(scene: str, rng: np.random.Generator) -> Image.Image:
    above, below, horizon = _SCENES[scene]
    shade = rng.uniform(0.88, 1.08)
    picture = Image.new("RGB", (SIDE, SIDE), _rgb(np.array(above), shade))
    draw = ImageDraw.Draw(picture)
    line = int(SIDE * (horizon + rng.uniform(-0.04, 0.04)))
    draw.rectangle((0, line, SIDE, SIDE), fill=_rgb(np.array(below), shade))
    start = int(rng.integers(-20, 0))
    if scene == "street":
        for x in range(start, SIDE, 28):
            draw.rectangle((x, line + 22, x + 14, line + 25), fill=(225, 225, 215))
    elif scene == "park":
        for x in range(start, SIDE, 24):
            green = _rgb(np.array((60, 115, 60)), shade)
            draw.ellipse((x, line - 14, x + 20, line + 6), fill=green)
    elif scene == "beach":
        draw.rectangle((0, line - 16, SIDE, line), fill=_rgb(np.array((50, 105, 160)), shade))
    else:
        for x in range(start, SIDE, 22):
            draw.line((x, 0, x, line), fill=_rgb(np.array((180, 160, 145)), shade), width=3)
    return picture


def _draw(
    picture: Image.Image, noun: str, center: np.ndarray, radius: float, color: np.ndarray
) -> None:
    draw = ImageDraw.Draw(picture)
    # A thing without a shape of its own is a disk in its color.
    for kind, points, light in SHAPES.get(noun, [("o", [(-0.8, -0.8), (0.8, 0.8)], 1.0)]):
        at = [(center[0] + radius * x, center[1] + radius * y) for x, y in points]
        fill = _rgb(color, light)
        if kind == "o":
            draw.ellipse((*at[0], *at[1]), fill=fill, outline=(15, 15, 15))
        else:
            draw.polygon(at, fill=fill, outline=(15, 15, 15))


def _rgb(color: np.ndarray, light: float) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in np.clip(np.asarray(color) * light, 0, 255))
    return red, green, blue
