import io

import numpy as np
import torch
from PIL import Image

from app.figures import comparison, frame, frame_of, gap_of, grid, grid_shape, picture_of, trajectory


def shades(count: int, size: int = 8, channels: int = 1) -> torch.Tensor:
    """Images of one shade each, all different."""
    values = torch.arange(count, dtype=torch.uint8) * 4 + 10
    return values.view(-1, 1, 1, 1).expand(-1, channels, size, size)


def test_a_grid_is_the_squarest_that_holds_all_tiles():
    for count in range(1, 51):
        rows, columns = grid_shape(count)
        assert rows * columns >= count > (rows - 1) * columns
        assert 0 <= columns - rows <= 1


def test_every_image_stands_in_its_own_tile_and_the_gaps_are_transparent():
    images = shades(5)
    sheet = np.array(grid(images))
    pitch = 8 + gap_of(8)
    for i in range(5):
        row, column = divmod(i, 3)
        tile = sheet[row * pitch : row * pitch + 8, column * pitch : column * pitch + 8]
        assert (tile[..., 0] == int(images[i, 0, 0, 0])).all() and (tile[..., 1] == 255).all()
    assert (sheet[8, :, 1] == 0).all(), "the gap between two rows"
    assert (sheet[pitch:, 2 * pitch :, 1] == 0).all(), "the place of a sixth image"


def test_a_small_frame_arrives_without_loss():
    x = torch.rand(4, 1, 8, 8) * 2 - 1
    sent = picture_of(frame_of(x))
    expected = ((x[0, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
    assert (np.array(sent)[:8, :8, 0] == expected).all()


def test_a_large_coloured_frame_is_bounded_in_size():
    uri = frame(shades(16, size=300, channels=3))
    assert uri.startswith("data:image/webp;base64,")
    assert max(picture_of(uri).size) <= 1024


def test_the_trajectory_is_an_animation_of_the_columns_side_by_side():
    frames = [[frame(shades(4 + step)) for _ in range(3)] for step in range(5)]
    heads = [("unguided", "black"), ("prototype", "black"), ("contextual", "black")]
    with Image.open(io.BytesIO(trajectory(frames, heads, "webp", side=64))) as animation:
        assert animation.format == "WEBP" and animation.n_frames == 5
        assert animation.width > 1.8 * animation.height


def test_the_comparison_is_a_picture_whatever_the_bounds_and_the_names():
    columns = ("unguided", "prototype", "contextual")
    curves = [
        {"t": t, "column": column, "prototype_nats": -5.0 + t / 30, "contextual_nats": t / 100}
        for t in (90, 50, 10)
        for column in columns
    ]
    for bounds in (
        {"prototype_nats": (2.3, "log 10"), "contextual_nats": None},
        dict.fromkeys(("prototype_nats", "contextual_nats"), (0.0, "log 1")),
    ):
        content = comparison(
            {column: frame(shades(3)) for column in columns},
            dict.fromkeys(columns, "a price of $5 or $6_x"),
            curves,
            bounds,
            title="Tri <angle> $x$",
            footer="made by the tests",
        )
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "PNG" and picture.width >= 1600
