"""Files made on demand, in a folder that the page may serve from and that goes when the program ends."""

import atexit
import io
import secrets
import shutil
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

from app import animation
from app.figures import COLOURS, comparison, trajectory
from app.session import Session
from app.words import SCALING_NAMES, SOLVER_NAMES, bound_of, captions, file_stem, headline
from igds.runs import Record

KINDS = {
    "png": "Comparison PNG",
    "gif": "Animation GIF",
    "mp4": "Animation MP4",
    "webp": "Animation WebP",
    "zip": "Images ZIP",
    "csv": "Curves CSV",
}
KEPT_SECONDS = 3600


class Downloads:
    def __init__(self, parent: Path):
        parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(mkdtemp(prefix="igds-", dir=parent))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)

    def put(self, name: str, content: bytes) -> Path:
        """Write a file under an address that cannot be guessed; ValueError where the disk does not take it."""
        self._clear()
        path = self.folder / secrets.token_urlsafe(12) / name
        try:
            path.parent.mkdir(parents=True)  # the folder goes where temporary files are swept
            path.write_bytes(content)
        except OSError as error:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise ValueError(f"the file could not be written on the server: {error.strerror}") from None
        return path

    def _clear(self) -> None:
        for path in self.folder.glob("*"):
            with suppress(FileNotFoundError):  # another download may have cleared it just now
                if path.stat().st_mtime < time.time() - KEPT_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)


def file_of(session: Session, kind: str) -> tuple[str, bytes]:
    """Name and content of a file, one of KINDS, of the run on the stage; ValueError where there is nothing yet."""
    if not session.has_frames:
        raise ValueError("there is nothing to download yet: start a run first")
    if kind == "zip":
        if not session.is_finished:
            raise ValueError("a stopped run has no images yet, only expectations of them: let one finish")
        return zip_of(session.record)
    record = session.record
    stem = file_stem(record.run, record.bundle)
    if not session.is_finished:
        stem += f"-stopped-at-{len(session.steps)}"
    if kind == "csv":
        return f"{stem}-curves.csv", record.curves_csv().encode()
    if kind in animation.KINDS:
        heads = [
            (f"{name}, β = {record.run.beta:g}" if name == "contextual" else name, COLOURS[name])
            for name in record.run.columns
        ]
        return f"{stem}-trajectory.{kind}", trajectory([step["frames"] for step in session.steps], heads, kind)
    return f"{stem}-comparison.png", _comparison(session)


def zip_of(record: Record) -> tuple[str, bytes]:
    """The images by class folder, run.json and curves.csv of a finished run."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in record.files().items():
            archive.writestr(path, content)
    return f"{file_stem(record.run, record.bundle)}.zip", buffer.getvalue()


def _comparison(session: Session) -> bytes:
    record = session.record
    run, done = record.run, len(session.steps)
    bounds = {}
    for key in ("prototype", "contextual"):
        bound = bound_of(key, run, record.bundle)
        bounds[f"{key}_nats"] = (bound["value"], bound["name"]) if bound else None
    return comparison(
        dict(zip(run.columns, session.steps[-1]["frames"])),
        captions(run),
        record.curves,
        bounds,
        title=headline(run) + ("" if session.is_finished else f", stopped at step {done} of {run.steps}"),
        footer=f"{record.bundle.card['title']}. {SOLVER_NAMES[run.solver]}, {run.steps} steps, η = {run.eta:g} "
        f"times {SCALING_NAMES[run.scaling]}, reference: {run.reference}, guided at {run.at}. The noise is the same in "
        "all columns.",
    )
