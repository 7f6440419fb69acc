"""Two networks that learn alike, one from a distilled set and one from as many random real images. Knows no page."""

import threading
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from app.distillery import Making
from app.workshop import Job
from igds.bundle import Bundle
from igds.data import ImageSet
from igds.datasets import IMAGENETTE, load_images
from igds.distilled import read_image_folder
from igds.evaluation import train_network
from igds.fetch import SOURCES, cache_folder
from igds.recipes import RECIPES
from igds.selection import random_subset

NETWORK, PROTOCOL = "convnet3", "paper"
TESTS = 10
TESTED_PER_CLASS = 50  # all test images would take longer than the training
PASSES = 4000  # of an image through a network: about a minute on two cores
MOST_EPOCHS, FEWEST_EPOCHS = 150, 10
SYSTEM = Path("/usr/share/datasets")  # where Debian's packages put theirs


def epochs_for(images: int) -> int:
    """As many epochs as a visitor will wait for."""
    return max(FEWEST_EPOCHS, min(MOST_EPOCHS, PASSES // images))


def _data_of(bundle: Bundle) -> tuple[str, ...]:
    """The published data sets, any of which has the real images of this bundle; a bundle's classes tell ImageNette."""
    if set(bundle.classes) == set(IMAGENETTE.values()):
        return "imagenette-160", "imagenette-320", "imagenette"
    return (bundle.name,) if bundle.name in RECIPES else ()


def real_folder(bundle: Bundle) -> Path:
    """Where the data is that the bundle was trained on. Downloads nothing: FileNotFoundError says how to get it."""
    names = _data_of(bundle)
    for name in names:
        for folder in (SYSTEM / name, cache_folder() / name):
            if folder.is_dir():
                return folder
    remedy = f": `python -m igds fetch {names[0]}` gets them" if names and names[0] in SOURCES else ""
    raise FileNotFoundError(f"the real images of {bundle.card['title']} are not on this machine{remedy}")


def real_images(bundle: Bundle, split: str) -> ImageSet:
    """A split of the real images, at the size of the bundle's; ValueError where its classes are others."""
    folder = real_folder(bundle)
    if bundle.name in RECIPES:
        images = RECIPES[bundle.name].load(split, folder=folder)
    else:
        channels, _, size = bundle.prior.shape
        images = load_images(folder, split, size=size, channels=channels)
    if images.classes != bundle.classes:
        raise ValueError(f"the images in {folder} have other classes than {bundle.card['title']}: get them again")
    return images


def _some(images: ImageSet, per_class: int) -> ImageSet:
    rows = random_subset(images.labels, per_class, seed=0, classes=images.classes)
    return ImageSet(images.images[rows], images.labels[rows], images.classes)


@dataclass(eq=False)
class Lesson(Job):
    """`curves` are the points (epoch, accuracy) of the network that learns from each set, "distilled" and "real"."""

    making: Making
    epochs: int = field(default=0, init=False)
    epoch: int = field(default=0, init=False)
    tested: int = field(default=0, init=False)
    left: float | None = field(default=None, init=False)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: {"distilled": [], "real": []})

    def work(self, stopping: threading.Event) -> bool:
        bundle, ipc = self.making.bundle, self.making.settings.ipc
        test = real_images(bundle, "test")
        test = _some(test, min(TESTED_PER_CLASS, int(test.labels.bincount().min())))
        sets = {
            "distilled": read_image_folder(self.making.folder, channels=bundle.prior.shape[0]),
            "real": _some(real_images(bundle, "train"), ipc),
        }
        self.epochs, self.tested = epochs_for(len(sets["distilled"])), len(test)
        began = time.monotonic()
        with ExitStack() as open_courses:
            courses = [open_courses.enter_context(closing(self._course(images, test))) for images in sets.values()]
            for events in zip(*courses):
                for name, event in zip(sets, events):
                    if event.accuracy is not None:
                        self.curves[name].append((event.index + 1, event.accuracy))
                self.epoch = events[0].index + 1
                self.left = (time.monotonic() - began) / self.epoch * (self.epochs - self.epoch)
                self.change()
                if stopping.is_set():
                    return False
        return True

    def tell(self, error: Exception) -> str:
        return self.making.tell(error)

    def _course(self, images: ImageSet, test: ImageSet):
        settings = {"protocol": PROTOCOL, "seed": 0, "epochs": self.epochs, "tests": TESTS}
        return self.making.studio.each(train_network(NETWORK, images, test, **settings))
