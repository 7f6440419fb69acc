"""Distilled sets, in the making and made: each a folder on the server that its settings find again. Knows no page."""

import hashlib
import io
import json
import math
import platform
import re
import secrets
import threading
import time
import zipfile
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import igds
from app.figures import strip
from app.session import Studio
from app.settings import checked, defaults
from app.workshop import Job, Workshop
from igds.bundle import Bundle
from igds.data import to_bytes, to_unit
from igds.distil import CARD, CLAIM, TILES, Distillation, Progress, check_batch, distil, tiled
from igds.distilled import INDEX
from igds.information import batch_reference, contextual_kl, prototype_information
from igds.measures import features_and_logits
from igds.runs import figures_of
from igds.verdict import judge

KEY = re.compile(r"[0-9a-f]{16}")
GONE = "The set that this page made last is no longer on the server: Start makes the same one again"


def wanted(bundle: Bundle, *, ipc: float, beta: float | str, seed: float) -> Distillation:
    """What to distil, β being a number or "auto", the rest the card's; ValueError says what is wrong."""
    given = {"ipc": ipc, "seed": seed} | ({} if beta == "auto" else {"beta": beta})
    checked(bundle, defaults(bundle) | given)
    return Distillation.of(bundle, ipc=ipc, seed=seed, beta=beta)


def key_of(settings: Distillation, bundle: Bundle, *, composite: bool = False, candidates: int = 1) -> str:
    """What names a set: a hash of everything that decides its images, but for the number of threads."""
    beyond = {"composite": composite, "candidates": candidates} if composite or candidates > 1 else {}
    deciding = {
        **beyond,
        **asdict(settings),
        "beta_from": None,
        "bundle_sha256": bundle.checksum(),
        "software": [igds.__version__, torch.__version__, platform.python_version(), bundle.device.type],
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(eq=False)
class Making(Job):
    """A set in its folder; `composite` and `candidates` are as in `distil`.

    `made` has the finished classes, each with the version in which it came; `at_work` the one that is being made.
    `born` tells this one from an earlier one of the same key, whose versions a page may still remember.
    """

    key: str
    folder: Path
    settings: Distillation
    studio: Studio
    composite: bool = False
    candidates: int = 1
    born: str = field(default_factory=lambda: secrets.token_hex(4), init=False)
    made: dict[int, tuple[int, dict]] = field(default_factory=dict, init=False)
    at_work: dict | None = field(default=None, init=False)
    left: float | None = field(default=None, init=False)

    @property
    def bundle(self) -> Bundle:
        return self.studio.bundle

    @property
    def is_finished(self) -> bool:
        return self.state == "finished"

    def restore(self) -> None:
        """Take in the classes that are in the folder already."""
        if (self.folder / INDEX).exists():
            for entry in self._index():
                if (self.folder / entry["folder"]).is_dir():
                    self._take_in(entry["label"])
        if (self.folder / CARD).exists():
            self.become("finished")

    def work(self, stopping: threading.Event) -> bool:
        began, computed = time.monotonic(), 0
        try:
            made = distil(self.bundle, self.folder, self.settings, composite=self.composite, candidates=self.candidates)
            with closing(self.studio.each(made)) as events:
                for event in events:
                    if event.step < event.steps:
                        computed += 1
                        self._note(event, (time.monotonic() - began) / computed)
                    elif self.bundle.label_of(event.label) not in self.made:
                        self._take_in(self.bundle.label_of(event.label))
                    if stopping.is_set() and event.classes_done < event.classes:
                        return False
        finally:
            self.at_work, self.left = None, None
        return True

    def tell(self, error: Exception) -> str:
        return str(error).replace(str(self.folder), "the folder of this set")

    def _note(self, event: Progress, pace: float) -> None:
        """One step of the class at work; `pace` is seconds a step."""
        self.left = pace * ((event.classes - event.classes_done) * event.steps - event.step)
        self.at_work = {
            "label": self.bundle.label_of(event.label),
            "step": event.step,
            "steps": event.steps,
            "sheet": strip(self._as_shown(event.x0)),
        }
        self.change()

    def _as_shown(self, x0: Tensor) -> Tensor:
        """As many images of a class at work as it will have: tiled, and of candidates the first."""
        images = to_bytes(x0[: self.settings.ipc * (TILES if self.composite else 1)]).cpu()
        return tiled(images) if self.composite else images

    def _take_in(self, label: int) -> None:
        """Read a finished class and ask the judges."""
        images = _read(self.folder, self._index()[label]["folder"])
        reference = reference_of(self.settings, self.bundle)
        with self.studio.turns:
            payload = {"label": label, "sheet": strip(images), **terms_of(self.bundle, images, label, reference)}
        self.at_work = None
        self.change(lambda version: self.made.update({label: (version, payload)}))

    def _index(self) -> list[dict]:
        return json.loads((self.folder / INDEX).read_text(encoding="utf-8"))

    def since(self, have: int) -> dict:
        """Everything that has changed since version `have`; all of it from 0."""
        version = self.version  # read first: what changes meanwhile is sent twice and never lost
        news = [payload for came, payload in list(self.made.values()) if came > have]
        busy = self.is_busy
        return {
            "kind": "set",
            "key": self.key,
            "born": self.born,
            "version": version,
            "state": self.state,
            "done": len(self.made),
            "left": self.left if busy else None,
            "made": news,
            "work": self.at_work if busy else None,
            **({"about": self._about()} if have == 0 else {}),
        }

    def _about(self) -> dict:
        return about(self.settings, self.bundle, composite=self.composite, candidates=self.candidates)

    def zip_of(self) -> tuple[str, bytes]:
        """Name and content of the archive: class folders, classes.json and card.json; ValueError before the end."""
        if not self.is_finished:
            raise ValueError("the set is not finished yet: let it, or resume it")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:  # pictures do not get smaller a second time
            for name in (CARD, INDEX):
                archive.write(self.folder / name, name)
            for entry in self._index():
                for picture in sorted((self.folder / entry["folder"]).glob("*.png")):
                    archive.write(picture, f"{entry['folder']}/{picture.name}")
        kind = ("-composite" if self.composite else "") + (f"-of{self.candidates}" if self.candidates > 1 else "")
        settings = self.settings
        return f"igds-{self.bundle.name}-ipc{settings.ipc}{kind}-seed{settings.seed}.zip", buffer.getvalue()


def reference_of(settings: Distillation, bundle: Bundle) -> str:
    """What Ĥ is held against, as in card.json: a single image against the class, since its own mean says nothing."""
    return "class" if settings.ipc == 1 else settings.run(bundle, 0).reference


def about(settings: Distillation, bundle: Bundle, *, composite: bool = False, candidates: int = 1) -> dict:
    """Title, classes and bounds of a set: what the page must know before its first image."""
    reference = reference_of(settings, bundle)
    images = f"{settings.ipc} {'composite' if composite else 'image'}{'' if settings.ipc == 1 else 's'}"
    chosen = f", chosen of {candidates * settings.ipc * (TILES if composite else 1)}" if candidates > 1 else ""
    return {
        "title": f"{images} of each class{chosen}, β = {settings.beta:.3g}, seed {settings.seed}",
        "classes": list(bundle.classes),
        "ipc": settings.ipc,
        "bounds": {
            "prototype": math.log(len(bundle.classes)),
            "contextual": math.log(settings.ipc) if reference == "batch" else None,
        },
    }


@torch.no_grad()
def terms_of(bundle: Bundle, images: Tensor, label: int, reference: str) -> dict:
    """Of uint8 images of one class: each one's terms in nats, the class it is taken for, and the class's figures."""
    log_probs, p = bundle.estimator(to_unit(images.to(bundle.device)))
    labels = torch.full((len(images),), label, device=bundle.device)
    q = bundle.estimator.class_means[label] if reference == "class" else batch_reference(p)
    figures = figures_of(judge(bundle, images, label, reference=reference))
    return {
        "prototype": _rounded(prototype_information(log_probs, labels, bundle.estimator.label_entropy)),
        "contextual": _rounded(contextual_kl(p, q)),
        "taken_for": features_and_logits(bundle.classifier, images)[1].argmax(1).tolist(),
        "figures": {name: value if value is None else round(value, 4) for name, value in figures.items()},
    }


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _read(folder: Path, name: str) -> Tensor:
    """The pictures of a class folder, (n, C, H, W) uint8."""
    pixels = []
    for path in sorted((folder / name).glob("*.png")):
        try:
            with Image.open(path) as picture:
                pixels.append(np.atleast_3d(np.array(picture)))
        except OSError:
            raise ValueError(f"the set on the server is damaged ({name}/{path.name}): choose another seed") from None
    if not pixels:
        raise ValueError(f"the set on the server is damaged ({name} is empty): choose another seed")
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


class Distillery:
    """All sets of one bundle, in the folders `folder`/bundle-key, and the workshop where they are made."""

    def __init__(self, studio: Studio, folder: Path):
        self.studio, self.folder = studio, folder
        self.workshop = Workshop()
        self._makings: dict[str, Making] = {}
        self._lock = threading.Lock()

    def start(self, settings: Distillation, *, composite: bool = False, candidates: int = 1) -> Making:
        """Begin the set of these settings, or go on with it; a finished one is there at once.

        ValueError where `composite` and `candidates` ask for what `distil` would not make.
        """
        bundle = self.studio.bundle
        check_batch(bundle, settings.ipc, composite=composite, candidates=candidates)
        key = key_of(settings, bundle, composite=composite, candidates=candidates)
        try:
            making = self.find(key)
        except FileNotFoundError:
            making = self._keep(Making(key, self._place(key), settings, self.studio, composite, candidates))
        if not making.is_finished:
            self.workshop.begin(making)
        return making

    def find(self, key: str) -> Making:
        """The set of this key: FileNotFoundError where there is none, ValueError where it cannot be used."""
        if not KEY.fullmatch(key):
            raise FileNotFoundError(GONE)
        folder, kept = self._place(key), self._makings.get(key)
        if kept and (kept.is_busy or folder.exists()):
            return kept
        if not (folder / CLAIM).exists():
            raise FileNotFoundError(GONE)
        settings, composite, candidates = _claimed(folder, self.studio.bundle)
        making = Making(key, folder, settings, self.studio, composite, candidates)
        making.restore()
        return self._keep(making)

    def _place(self, key: str) -> Path:
        return self.folder / f"{self.studio.bundle.name}-{key}"

    def _keep(self, making: Making) -> Making:
        """The one that all visitors share: two that came at once find the first."""
        with self._lock:
            kept = self._makings.get(making.key)
            if kept and (kept.is_busy or kept.folder.exists()):
                return kept
            self._makings[making.key] = making
            return making


def _claimed(folder: Path, bundle: Bundle) -> tuple[Distillation, bool, int]:
    """The settings of the set in `folder`, whether it is of composites, and its candidates for each image."""
    try:
        claim = json.loads((folder / CLAIM).read_text(encoding="utf-8"))
        names = {f.name for f in fields(Distillation)}
        settings = {name: value for name, value in claim["settings"].items() if name in names}
        found = Distillation(**{**settings, "interval": tuple(settings["interval"])}, beta_from=claim["beta_from"])
        beyond = bool(claim["settings"]["composite"]), int(claim["settings"]["candidates"])
        made_with = claim["bundle_sha256"]
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("the set on the server is damaged (distil.json): choose another seed") from None
    if made_with != bundle.checksum():
        raise ValueError("the set that this page made last was made with another bundle: Start makes a new one")
    return found, *beyond
