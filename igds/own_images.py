"""A user's own images, as what a bundle is trained and measured on: read whole, checked, and divided."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from igds.data import ImageSet
from igds.datasets import count_images, is_published, load_images, splits_of

MOST_CLASSES = 1000
ENOUGH_FOR_A_PRIOR = 200  # images a class, on average
TEST_SHARE = 10  # one image of so many of each class measures, where the data has no test split
LEAST_TO_MEASURE = 6  # of each class: the distance to the fifth nearest other one is a figure of the card
LEAST_OF_A_CLASS = 2 * LEAST_TO_MEASURE
SPLIT_SEED = 0


@dataclass(frozen=True)
class OwnImages:
    """`train` to learn from and `test` to measure on, `division` in words, and why each one left out is `unreadable`.

    Both have 1 channel where every pixel of every image is grey, however the files store it, and 3 otherwise.
    """

    train: ImageSet
    test: ImageSet
    division: str
    unreadable: tuple[str, ...] = ()

    def split(self, name: str) -> ImageSet:
        return {"train": self.train, "test": self.test}[name]

    def fingerprint(self) -> str:
        """sha256 over pixels, labels and names: what a training that goes on must find again."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            for content in (part.images.numpy(), part.labels.numpy(), "\0".join(part.classes).encode()):
                digest.update(content)
        return digest.hexdigest()

    def about(self) -> dict:
        """What the card says of them."""
        return {
            "images": len(self.train),
            "images_by_class": torch.bincount(self.train.labels, minlength=len(self.train.classes)).tolist(),
            "test_images": len(self.test),
            "division": self.division,
            "unreadable_files_left_out": len(self.unreadable),
        }


def own_class_counts(path: str | Path) -> dict[str, int]:
    """How many images each class at `path` has to learn from (in all, where there are no splits), without reading any.

    Empty for a published data set, whose classes are known to be fine. Raises FileNotFoundError where nothing is there
    and ValueError, in one sentence, for classes that no bundle can be made of: fewer than 2, more than 1,000, or two
    whose names differ in case only.
    """
    if is_published(path):
        return {}
    counts = count_images(path, "train" if "train" in splits_of(path) else None)
    check_classes(list(counts), path)
    return counts


def check_classes(names: Sequence[str], path: str | Path) -> None:
    """ValueError, in one sentence, for classes that no bundle can be made of."""
    if len(names) < 2:
        raise ValueError(
            f"{path} has one class ({names[0]}): an estimator tells classes apart, so give it a folder for each of two "
            "or more"
        )
    if len(names) > MOST_CLASSES:
        raise ValueError(
            f"{path} has {len(names):,} classes and {MOST_CLASSES:,} are the most: the card, the gallery and the page "
            "give every class a row; take a part of them"
        )
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise ValueError(
                f"the classes {other!r} and {name!r} of {path} differ in case only, and a class is asked for in any "
                "case: rename one, or put both into one folder"
            )


def too_small_for_a_prior(counts: Mapping[str, int], path: str | Path) -> str | None:
    """The sentence for a folder with fewer than 200 images a class on average, or None."""
    average = sum(counts.values()) / max(1, len(counts))
    if not counts or average >= ENOUGH_FOR_A_PRIOR:
        return None
    return (
        f"{path} has {average:.0f} images a class, and a prior trained from fewer than {ENOUGH_FOR_A_PRIOR} learns "
        "them by heart: take --training-free, whose prior is the images themselves and needs no training, or fine-tune "
        "another bundle's with --from"
    )


def read_own_images(path: str | Path, *, size: int, skip_unreadable: bool = False) -> OwnImages:
    """Everything at `path` that `load_images` reads, `size`×`size`: its test split, or a seeded tenth of each class.

    Raises as `own_class_counts` and `load_images` do, and ValueError for a class with fewer than 12 images, for splits
    of different classes, and for files that cannot be read, unless `skip_unreadable` leaves those out.
    """
    own_class_counts(path)
    splits = splits_of(path)
    notes: list[str] = []
    train = _read(path, "train" if "train" in splits else None, size, skip_unreadable, notes)
    if "train" in splits and "test" in splits:
        test = _read(path, "test", size, skip_unreadable, notes)
        if test.classes != train.classes:
            strange = sorted(set(test.classes) ^ set(train.classes)) or list(test.classes)
            raise ValueError(
                f"the training and the test images of {path} have different classes ({strange[0]}): "
                "give both the same, or take the test images away, and a tenth of the others measures"
            )
        _check_counts(test, LEAST_TO_MEASURE, f"{path} has too few test images")
        division = "its own test split"
    else:
        _check_counts(train, LEAST_OF_A_CLASS, f"{path} has too few images")
        train, test = stratified(train)
        division = f"a {TEST_SHARE}th of each class, at least {LEAST_TO_MEASURE}, drawn with seed {SPLIT_SEED}"
    if train.images.shape[1] == 3 and _is_grey(train) and _is_grey(test):
        train, test = (ImageSet(part.images[:, :1].contiguous(), part.labels, part.classes) for part in (train, test))
    return OwnImages(train, test, division, tuple(notes))


def stratified(data: ImageSet) -> tuple[ImageSet, ImageSet]:
    """(to learn from, to measure on): a tenth of each class, at least 6, drawn with seed 0, measures."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    measures = torch.zeros(len(data), dtype=torch.bool)
    for label in range(len(data.classes)):
        rows = (data.labels == label).nonzero()[:, 0]
        count = max(LEAST_TO_MEASURE, len(rows) // TEST_SHARE)
        measures[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return tuple(ImageSet(data.images[rows], data.labels[rows], data.classes) for rows in (~measures, measures))


def _read(path: str | Path, split: str | None, size: int, skip_unreadable: bool, notes: list[str]) -> ImageSet:
    unreadable: dict[int, str] = {}
    data = load_images(path, split, size=size, channels=3, unreadable=unreadable)
    if unreadable and not skip_unreadable:
        first, *others = unreadable.values()
        more = f", and {len(others):,} more like it" if others else ""
        raise ValueError(f"{first.rpartition(':')[0]}{more}: repair them, or leave them out with --skip-unreadable")
    notes += unreadable.values()
    kept = torch.ones(len(data), dtype=torch.bool)
    kept[list(unreadable)] = False
    return ImageSet(data.images[kept], data.labels[kept], data.classes)


def _check_counts(data: ImageSet, least: int, what: str) -> None:
    counts = torch.bincount(data.labels, minlength=len(data.classes))
    label = int(counts.argmin())
    if counts[label] < least:
        raise ValueError(
            f"{what}: of the class {data.classes[label]!r} there are {counts[label]}, and {least} are the least; "
            "add some, or take the class away"
        )


def _is_grey(data: ImageSet) -> bool:
    red, green, blue = data.images.unbind(1)
    return torch.equal(red, green) and torch.equal(green, blue)
