"""Steps and records as pictures: grids, the comparison that is downloaded, the trajectory. Knows no page."""

import base64
import io
import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from app.animation import animation, font
from igds.data import to_bytes

SMALL = 64  # up to this many pixels a side, tiles travel without loss
LARGEST_GRID = 1024
STEP_MS = 120  # of a step in an animation
COLOURS = {"unguided": "#5f6670", "prototype": "#0072b2", "contextual": "#c2410c"}  # as in stage.css, light
DASHES = {"unguided": (0, (5, 3)), "prototype": "solid", "contextual": "solid"}
MARKERS = {"unguided": "o", "prototype": "s", "contextual": "^"}


def grid_shape(count: int) -> tuple[int, int]:
    """Rows and columns of the squarest grid for `count` tiles."""
    columns = math.ceil(math.sqrt(count))
    return math.ceil(count / columns), columns


def grid(images: Tensor, *, columns: int | None = None) -> Image.Image:
    """uint8 images (n, C, H, W) side by side with transparent gaps, so that it sits on a light or a dark page."""
    count, channels, height, width = images.shape
    columns = columns or grid_shape(count)[1]
    rows, gap = math.ceil(count / columns), gap_of(width)
    depth = channels + 1
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, depth), np.uint8)
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = np.dstack([image, np.full((height, width), 255, np.uint8)])
    return Image.fromarray(sheet)


def gap_of(width: int) -> int:
    """Pixels between two tiles of this width."""
    return max(1, width // 16)


def frame(images: Tensor, *, columns: int | None = None) -> str:
    """A grid as a data URI. Small tiles go as PNG, which is exact and takes a third of a millisecond to make."""
    picture, buffer = grid(images, columns=columns), io.BytesIO()
    if images.shape[-1] <= SMALL:
        picture.save(buffer, "PNG", compress_level=1)
        kind = "png"
    else:
        picture.thumbnail((LARGEST_GRID, LARGEST_GRID))
        picture.convert("RGBA").save(buffer, "WEBP", quality=88, method=1)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def frame_of(x: Tensor, *, columns: int | None = None) -> str:
    """The grid of images in [-1, 1], on whichever device, as a data URI."""
    return frame(to_bytes(x).cpu(), columns=columns)


def compact(uri: str, *, shades: int = 256) -> str:
    """A data URI again as lossless WebP, which takes fewer bytes and longer to make; fewer still with fewer shades."""
    buffer, last = io.BytesIO(), shades - 1
    picture = picture_of(uri).point(lambda value: round(round(value * last / 255) * 255 / last))
    picture.save(buffer, "WEBP", lossless=True, quality=100, method=6)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture_of(uri: str) -> Image.Image:
    """The way back from a data URI that `frame` made."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def on_paper(picture: Image.Image, *, side: int, paper: str = "white") -> Image.Image:
    """A grid enlarged without smoothing to fit a square of `side` pixels, on a plain background."""
    picture = picture.convert("RGBA")
    factor = side / max(picture.size)
    size = tuple(max(1, round(length * factor)) for length in picture.size)
    large = picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (side, side), paper)
    sheet.paste(large, ((side - size[0]) // 2, (side - size[1]) // 2), large)
    return sheet


def trajectory(frames: list[list[str]], heads: list[tuple[str, str]], kind: str, *, side: int = 320) -> bytes:
    """The columns side by side, a frame a step, as one of `animation.KINDS`; ValueError as `animation`.

    `heads` are the words over the columns, each with its colour. A column is `side` wide and as tall as it must be.
    """
    first = picture_of(frames[0][0])
    width, height = side, max(1, round(side * first.height / first.width))
    gap, top = max(8, side // 20), 38
    blank = Image.new("RGB", (len(heads) * (width + gap) + gap, top + height + gap), "white")
    draw = ImageDraw.Draw(blank)
    for i, (words, colour) in enumerate(heads):
        size = next((size for size in range(19, 10, -1) if _length(words, size) <= width), 10)
        draw.text((gap + i * (width + gap), top - 8), words, fill=colour, font=font(size), anchor="ls")
    sheets = []
    for uris in frames:
        sheet = blank.copy()
        for i, uri in enumerate(uris):
            picture = picture_of(uri).convert("RGBA")
            way = Image.Resampling.NEAREST if picture.width <= width else Image.Resampling.LANCZOS
            picture = picture.resize((width, height), way)
            sheet.paste(picture, (gap + i * (width + gap), top), picture)
        sheets.append(sheet)
    return animation(sheets, kind, milliseconds=STEP_MS)


def _length(words: str, size: int) -> float:
    return font(size).getlength(words)


def comparison(
    frames: dict[str, str],
    captions: dict[str, str],
    curves: list[dict],
    bounds: dict[str, tuple[float, str] | None],
    *,
    title: str,
    footer: str,
) -> bytes:
    """A PNG for a slide: the grids by column with their captions, and both curves against t with their bounds.

    `curves` are the rows of a Record; `bounds` maps "prototype_nats" and "contextual_nats" to a value and its name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.6), dpi=150, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    FigureCanvasAgg(figure)
    figure.suptitle(_plain(title), fontsize=17, fontweight="bold")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    for axis, (column, uri) in zip(np.atleast_1d(top.subplots(1, len(frames))), frames.items()):
        axis.imshow(on_paper(picture_of(uri), side=720))
        axis.set_title(_plain(f"{column}\n{captions[column]}"), fontsize=12.5, color=COLOURS[column])
        axis.axis("off")
    names = {
        "prototype_nats": "Î(X;Y), nats: how surely the class is recognised",
        "contextual_nats": "Ĥ(X|Y), nats: how much the images differ",
    }
    for axis, (key, name) in zip(bottom.subplots(1, 2), names.items()):
        _curve(axis, curves, key, bounds[key])
        axis.set_title(name, fontsize=11, loc="left")
    figure.supxlabel(_plain(footer), fontsize=9, color="#5f6670")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _curve(axis, curves: list[dict], key: str, bound: tuple[float, str] | None) -> None:
    for column in dict.fromkeys(row["column"] for row in curves):
        rows = [row for row in curves if row["column"] == column]
        axis.plot(
            [row["t"] for row in rows],
            [row[key] for row in rows],
            color=COLOURS[column],
            linestyle=DASHES[column],
            marker=MARKERS[column],
            markevery=max(1, len(rows) // 8),
            markersize=5,
            label=column,
        )
    highest = max(row[key] for row in curves)
    if bound and bound[0] <= max(4 * highest, 0.1):
        axis.axhline(bound[0], color="#777777", linewidth=1, linestyle=(0, (1, 2)))
        axis.annotate(bound[1], (1, bound[0]), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)
    elif bound:
        axis.annotate(f"{bound[1]}, above ↑", (1, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize=9)
    if key == "prototype_nats":
        axis.set_ylim(max(-1.0, axis.get_ylim()[0]), 1.1 * bound[0] if bound else None)
    else:
        axis.set_ylim(0, max(0.05, axis.get_ylim()[1]))
    axis.invert_xaxis()
    axis.set_xlabel("t (noise on the left, image on the right)", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=9, frameon=False, loc="best")


def _plain(text: str) -> str:
    """matplotlib would read what stands between two dollar signs as mathematics."""
    return text.replace("$", r"\$")


def noise_frame(noise: Tensor, *, columns: int | None = None) -> str:
    """What a run starts from: standard normal noise, ±2 standard deviations from black to white."""
    return frame(to_bytes(torch.clamp(noise / 2, -1, 1)), columns=columns)


def strip(images: Tensor) -> str:
    """uint8 images (n, C, H, W) in one row without gaps, as a data URI: a page cuts its tiles from it.

    Grey as PNG, which is exact; colours as WebP, a tenth of its size.
    """
    count, channels, height, width = images.shape
    pixels = images.permute(2, 0, 3, 1).reshape(height, count * width, channels).numpy()
    row, buffer = Image.fromarray(pixels[..., 0] if channels == 1 else pixels), io.BytesIO()
    if channels == 1:
        row.save(buffer, "PNG", compress_level=1)
    else:
        row.save(buffer, "WEBP", quality=92, method=1)
    kind = "png" if channels == 1 else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
