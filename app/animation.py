"""Pictures as an animation for slides: GIF and WebP by Pillow, MP4 by ffmpeg where there is one. Knows no page."""

import io
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageFont

KINDS = ("webp", "gif", "mp4")
LAST_MS = 2500  # how long the last picture stands
RATE = 25  # pictures a second of an MP4, which shows a picture more than once to be as slow as the others
COLOURS = 256
SAMPLED = 6  # pictures, from which a GIF's colours are chosen
NO_FFMPEG = "an MP4 is made by ffmpeg, which is not there: install it with `pip install imageio-ffmpeg` and start again"


def animation(pictures: Sequence[Image.Image], kind: str, *, milliseconds: int) -> bytes:
    """RGB pictures of one size, each shown for so long, as one of KINDS; GIF and WebP play for ever.

    Raises ValueError for an MP4 where there is no ffmpeg, or where it fails.
    """
    if kind == "mp4":
        return _mp4(pictures, milliseconds)
    durations = [milliseconds] * (len(pictures) - 1) + [LAST_MS]
    how = {"quality": 80, "method": 1} if kind == "webp" else {}
    if kind == "gif":
        plain = {"dither": Image.Dither.NONE}  # which would flicker
        palette = _together(pictures).quantize(COLOURS, **plain)
        pictures = [picture.quantize(palette=palette, **plain) for picture in pictures]
    buffer = io.BytesIO()
    pictures[0].save(buffer, kind.upper(), save_all=True, append_images=pictures[1:], duration=durations, loop=0, **how)
    return buffer.getvalue()


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's DejaVu Sans: Pillow's own letters have no β among them."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _together(pictures: Sequence[Image.Image]) -> Image.Image:
    """Some of the pictures, from the first to the last, on one sheet, which has the colours of all."""
    count = min(len(pictures), SAMPLED)
    chosen = [pictures[round(i * (len(pictures) - 1) / max(1, count - 1))] for i in range(count)]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width, height * count))
    for i, picture in enumerate(chosen):
        sheet.paste(picture, (0, i * height))
    return sheet


def ffmpeg() -> str:
    """The program's path: the system's, or that of the package imageio-ffmpeg; ValueError says how to get it."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        raise ValueError(NO_FFMPEG) from None
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise ValueError(NO_FFMPEG) from None


def _mp4(pictures: Sequence[Image.Image], milliseconds: int) -> bytes:
    """H.264 with 4:2:0 colours and even sides, which PowerPoint, Keynote and browsers play; its index comes first."""
    width, height = pictures[0].size
    command = [ffmpeg(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-framerate", f"{1000 / milliseconds:g}", "-i", "-", "-an"]
    command += [
        "-vf",
        f"tpad=stop_mode=clone:stop_duration={LAST_MS / 1000:g},fps={RATE},pad=ceil(iw/2)*2:ceil(ih/2)*2",
    ]
    command += ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-preset", "veryfast", "-threads", "1"]
    command += ["-movflags", "+faststart"]
    frames = b"".join(picture.convert("RGB").tobytes() for picture in pictures)
    with TemporaryDirectory(prefix="igds-") as folder:  # an index that comes first cannot be written to a pipe
        path = Path(folder) / "animation.mp4"
        done = subprocess.run([*command, str(path)], input=frames, capture_output=True)
        if done.returncode:
            why = done.stderr.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
            raise ValueError(f"ffmpeg could not make the MP4: {why[-1]}")
        return path.read_bytes()
