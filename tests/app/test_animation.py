import io
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from app import animation
from app.animation import LAST_MS, ffmpeg
from app.figures import frame_of, trajectory

COLOURS = ("#c2410c", "#0072b2", "#ffffff", "#5f6670")


def pictures(size=(61, 40)):
    """Odd in width, which H.264 with 4:2:0 colours cannot be."""
    return [Image.new("RGB", size, colour) for colour in COLOURS]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animation_has_a_picture_each_plays_for_ever_and_rests_on_the_last(kind):
    with Image.open(io.BytesIO(animation.animation(pictures(), kind, milliseconds=80))) as found:
        assert found.n_frames == 4 and found.info["loop"] == 0 and found.size == (61, 40)
        times, shown = [], []
        for i in range(4):
            found.seek(i)
            found.load()
            times.append(found.info["duration"])
            shown.append(found.convert("RGB").getpixel((30, 20)))
    assert times == [80, 80, 80, LAST_MS]
    for pixel, picture in zip(shown, pictures()):
        assert np.allclose(pixel, picture.getpixel((0, 0)), atol=6)


def test_an_mp4_is_h264_with_its_index_first_and_shows_the_pictures_in_their_time(tmp_path):
    content = animation.animation(pictures(), "mp4", milliseconds=200)
    assert content.index(b"moov") < content.index(b"mdat"), "a page can play it before it is whole"
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    about = subprocess.run([ffmpeg(), "-i", path], capture_output=True, text=True).stderr
    assert "h264" in about and "yuv420p" in about and "62x40" in about
    minutes, seconds = re.search(r"Duration: 00:(\d+):([\d.]+)", about).groups()
    assert 60 * int(minutes) + float(seconds) == pytest.approx(4 * 0.2 + LAST_MS / 1000, abs=0.15)
    for i, picture in enumerate(pictures()):
        command = [ffmpeg(), "-v", "error", "-ss", f"{0.2 * i + 0.1:g}", "-i", path, "-frames:v", "1"]
        raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True).stdout
        seen = np.frombuffer(raw, np.uint8).reshape(40, 62, 3)[20, 30]
        assert np.allclose(seen, picture.getpixel((0, 0)), atol=12)


def test_without_ffmpeg_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(animation.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match="pip install imageio-ffmpeg"):
        animation.animation(pictures(), "mp4", milliseconds=80)


def test_an_ffmpeg_that_fails_gives_its_reason(monkeypatch, tmp_path):
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\ncat > /dev/null\necho 'Unknown encoder libx264' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(animation.shutil, "which", lambda name: str(broken))
    with pytest.raises(ValueError, match="could not make the MP4: Unknown encoder libx264"):
        animation.animation(pictures(), "mp4", milliseconds=80)


def test_a_trajectory_has_its_columns_under_their_names():
    white, black = frame_of(torch.ones(4, 1, 8, 8)), frame_of(-torch.ones(4, 1, 8, 8))
    heads = [("unguided", "#5f6670"), ("contextual, β = 0.5", "#c2410c")]
    with Image.open(io.BytesIO(trajectory([[white, black], [black, white]], heads, "gif", side=80))) as film:
        shown = []
        for i in range(film.n_frames):
            film.seek(i)
            shown.append(np.asarray(film.convert("L")).astype(int))
    width = shown[0].shape[1]
    assert len(shown) == 2
    middle = [[bool(frame[60, width * part // 4 - 12] > 128) for part in (1, 3)] for frame in shown]
    assert middle == [[True, False], [False, True]]
    names = shown[0][:34]
    assert names[:, : width // 2].min() < 160 and names[:, width // 2 :].min() < 160


def test_the_letters_over_the_columns_have_greek_among_them():
    missing = bytes(animation.font(18).getmask("\uffff"))
    assert all(bytes(animation.font(18).getmask(letter)) != missing for letter in "βηx̃")
