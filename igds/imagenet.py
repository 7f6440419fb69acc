"""The 1,000 classes of ImageNet-1k in the order of their labels: WordNet ids and names."""

import difflib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

CLASSES = Path(__file__).resolve().parents[1] / "assets" / "imagenet-classes.txt"


@cache
def imagenet_classes() -> dict[str, str]:
    """The name of each class by its WordNet id, in label order; the file says where both come from."""
    lines = CLASSES.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines if not line.startswith("#"))


def check_distinct(names: Sequence[str], source: str | Path) -> None:
    """ValueError where two class names of `source` differ in nothing but case."""
    folded = [name.casefold() for name in names]
    if twice := [name for name in names if folded.count(name.casefold()) > 1]:
        raise ValueError(f"{source} names {twice[0]!r} twice (in any case): every class needs a name of its own")


def labels_of(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """The label of each class in `wanted`, given by name in any case, by WordNet id, or by its number in `names`.

    Ids are those of ImageNet and need `names` to be its 1,000. ValueError for one that is not there, or twice.
    """
    folded = [name.casefold() for name in names]
    known = {str(label): label for label in range(len(names))}
    if tuple(names) == tuple(imagenet_classes().values()):
        known |= {wnid: label for label, wnid in enumerate(imagenet_classes())}
    known |= {name: label for label, name in enumerate(folded)}
    labels = []
    for name in wanted:
        if name.casefold() not in known:
            close = difflib.get_close_matches(name.casefold(), folded, n=1)
            hint = f": did you mean {names[folded.index(close[0])]!r}?" if close else f" among its {len(names):,}"
            raise ValueError(f"the checkpoint has no class {name!r}{hint}")
        labels.append(known[name.casefold()])
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"the class {names[label]!r} is given twice: give each class once")
    return labels
