"""A run of the laboratory as an animation for slides. Imports no gradio."""

import numpy as np
from PIL import Image, ImageDraw

from app.animation import animation, font
from igds.laboratory import Play, Scene
from igds.sampling import COLUMNS

SIDE, GAP, HEAD = 320, 12, 36
FRAME_MS = 80
CLASS_COLORS = ((0, 121, 107), (142, 47, 142), (154, 106, 0))
WAY_COLORS = {"unguided": (95, 102, 112), "prototype": (0, 114, 178), "contextual": (194, 65, 12)}


def film(scene: Scene, played: Play, *, beta: float, kind: str) -> bytes:
    """The three ways side by side over the density, a frame a step, as "gif" or "mp4"; ValueError as `animation`."""
    stage = _stage(scene, beta)
    view = view_of(scene)
    return animation([_frame(stage, positions.tolist(), view) for positions in played.x], kind, milliseconds=FRAME_MS)


def view_of(scene: Scene) -> float:
    """The plane is seen from −view to view, as on the page."""
    return max(4.0, *(max(abs(mode.x), abs(mode.y)) + 3 * mode.std for mode in scene.modes))


def _stage(scene: Scene, beta: float) -> Image.Image:
    density = _density(scene)
    stage = Image.new("RGB", (3 * SIDE + 4 * GAP, SIDE + HEAD + GAP), "white")
    draw = ImageDraw.Draw(stage)
    for way, name in enumerate(COLUMNS):
        left = GAP + way * (SIDE + GAP)
        stage.paste(density, (left, HEAD))
        draw.rectangle((left, HEAD, left + SIDE - 1, HEAD + SIDE - 1), outline=WAY_COLORS[name], width=2)
        words = f"{name}, β = {beta:g}" if name == "contextual" else name
        draw.text((left + 2, 8), words, fill=WAY_COLORS[name], font=font(18))
    return stage


def _density(scene: Scene) -> Image.Image:
    """Each class's density, its highest place alike, in the class's own hue."""
    view = view_of(scene)
    axis = (np.arange(SIDE) + 0.5) / SIDE * 2 * view - view
    tint, whole = np.zeros((SIDE, SIDE, 3)), np.zeros((SIDE, SIDE, 1))
    for label in range(scene.classes):
        field = np.zeros((SIDE, SIDE))
        for mode in scene.of_class(label):
            across = np.exp(-((axis - mode.x) ** 2) / (2 * mode.std**2))
            down = np.exp(-((axis + mode.y) ** 2) / (2 * mode.std**2))
            field += mode.weight / mode.std**2 * down[:, None] * across[None]
        share = np.sqrt(field / field.max())[..., None]
        tint += share * np.array(CLASS_COLORS[label])
        whole += share
    strength = 0.43 * np.clip(whole, 0, 1)
    pixels = 255 * (1 - strength) + tint / np.maximum(whole, 1e-9) * strength
    return Image.fromarray(pixels.astype(np.uint8))


def _frame(stage: Image.Image, positions: list, view: float) -> Image.Image:
    frame = stage.copy()
    draw = ImageDraw.Draw(frame)
    for way, classes in enumerate(positions):
        left = GAP + way * (SIDE + GAP)
        for label, points in enumerate(classes):
            for x, y in points:
                if abs(x) < view and abs(y) < view:
                    at = left + (x + view) / (2 * view) * SIDE, HEAD + (view - y) / (2 * view) * SIDE
                    _draw(draw, label, *at)
    return frame


def _draw(draw: ImageDraw.ImageDraw, label: int, x: float, y: float, r: float = 4.5) -> None:
    """As on the page: a circle, a triangle, a square."""
    look = {"fill": CLASS_COLORS[label], "outline": "white"}
    if label == 0:
        draw.ellipse((x - r, y - r, x + r, y + r), **look)
    elif label == 1:
        draw.polygon([(x, y - 1.25 * r), (x + 1.15 * r, y + 0.8 * r), (x - 1.15 * r, y + 0.8 * r)], **look)
    else:
        draw.rectangle((x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r), **look)
