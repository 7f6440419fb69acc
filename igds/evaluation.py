"""What a network learns from a distilled set: the field's protocols, transfer, and tables of the results.

Sets stay in memory, and a batch is augmented as a whole, so that no process but this one is needed.
"""

import difflib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igds.augmentation import random_flip
from igds.data import ImageSet
from igds.networks import build_network
from igds.views import colour_jitter, cutmix, lighting, random_resized_crop, siamese_view

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_SMALL = 32  # pixels a side, up to which the peers treat images as they do CIFAR's
_TEST_PIXELS = 500 * 32 * 32  # that go through a network together


@dataclass(frozen=True)
class Protocol:
    """How a network is trained. `epochs` and `batch_sizes` are pairs (largest IPC, value), the last for all above it.

    `crop` is the range of the random resized crop's area, None for no crop; `colours` adds jitter and lighting;
    `siamese` puts IDC's augmentation in the place of all three. `cutmix` is its probability for a batch. With
    `soft_labels` the loss is KL(teacher ‖ network) at `temperature`, not multiplied by its square.
    """

    optimiser: Literal["adam", "adamw", "sgd"]
    learning_rate: float
    weight_decay: float
    schedule: Literal["fixed", "milestones", "half cosine", "cosine"]
    epochs: tuple[tuple[int, int], ...]
    batch_sizes: tuple[tuple[int, int], ...] = ((1, 64),)
    crop: tuple[float, float] | None = (0.5, 1.0)
    colours: bool = False
    siamese: bool = False
    cutmix: float = 1.0
    soft_labels: bool = False
    temperature: float = 20.0


_PEERS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500), (501, 300))
PROTOCOLS = {
    # Appendix F. It does not say how small a crop may be: we take that of the protocols it follows.
    "paper": Protocol("adam", 0.01, 0.0, "fixed", ((10, 2000), (50, 1500), (51, 1000))),
    "minimax": Protocol("sgd", 0.01, 5e-4, "milestones", _PEERS, colours=True),
    "igd": Protocol("adamw", 1e-3, 0.01, "milestones", _PEERS, colours=True),
    "rded": Protocol(
        "adamw", 1e-3, 0.01, "half cosine", ((1, 300),), ((1, 10), (10, 50), (11, 100)), crop=None, soft_labels=True
    ),
}
# Appendix G: how it pretrains, and how it fine-tunes, where it names no augmentation.
PRETRAINING = Protocol("sgd", 0.1, 1e-3, "fixed", ((1, 1000),), ((1, 256),))
FINE_TUNING = Protocol("sgd", 0.01, 5e-4, "cosine", ((1, 1),), ((1, 256),), cutmix=0.0)


def protocol_for(name: str, *, classes: int, size: int, tiles: int = 1) -> Protocol:
    """A protocol as it is for so many classes, images of so many pixels a side, and composites of tiles × tiles images.

    `minimax` takes other steps above 100 classes; it and `igd` augment images of 32 pixels or fewer as IDC does CIFAR
    and Fashion-MNIST; the crops of `rded` are down to one row of tiles' area. Raises ValueError for an unknown name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {name!r}")
    protocol = PROTOCOLS[name]
    if name == "minimax" and classes > 100:
        protocol = replace(protocol, learning_rate=0.1, weight_decay=1e-4, batch_sizes=((1, 128),))
    if protocol.colours and size <= _SMALL:
        protocol = replace(protocol, crop=None, colours=False, siamese=True, cutmix=0.5)
    if name == "rded" and tiles > 1:
        protocol = replace(protocol, crop=(1 / tiles, 1.0))
    return protocol


def epochs_of(protocol: str, ipc: int) -> int:
    """The epochs for `ipc` images a class; an IPC between those of the table has the epochs of the next larger one."""
    return _by_ipc(PROTOCOLS[protocol].epochs, ipc)


def _by_ipc(table: tuple[tuple[int, int], ...], ipc: int) -> int:
    return next((value for limit, value in table if ipc <= limit), table[-1][1])


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images, the `index`-th (from 0) of `epochs`.

    `loss` is the mean over its images, `accuracy` that on the test set after it, None where it was not tested, and
    `seconds` the time since the first one began, without what the consumer took.
    """

    index: int
    epochs: int
    loss: float
    accuracy: float | None
    seconds: float


def align(test: ImageSet, classes: Sequence[str]) -> ImageSet:
    """`test` with its labels in the order of `classes`, matched by name in any case.

    Raises ValueError where a name stands twice, and where a class of one has no partner in the other.
    """
    folded = {tuple(names): [name.casefold() for name in names] for names in (classes, test.classes)}
    for names, keys in folded.items():
        twice = next((name for name, key in zip(names, keys) if keys.count(key) > 1), None)
        if twice is not None:
            raise ValueError(f"two classes are named {twice!r}: rename one, since classes are matched by name")
    for ours, theirs, where in ((classes, test.classes, "test"), (test.classes, classes, "training")):
        known = folded[tuple(theirs)]
        for name in ours:
            if name.casefold() not in known:
                close = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0)
                remedy = f": rename it, if it is {theirs[known.index(close[0])]!r}" if close else ""
                raise ValueError(f"no class of the {where} set is named {name!r}{remedy}")
    own = folded[tuple(classes)]
    order = torch.tensor([own.index(name.casefold()) for name in test.classes])
    return ImageSet(test.images, order[test.labels], tuple(classes))


def seeded_network(name: str, images: ImageSet, *, seed: int) -> nn.Module:
    """A fresh network for these images and classes, its weights a function of `seed`."""
    channels, size = images.images.shape[1], images.images.shape[-1]
    with _own_stream(seed, torch.device("cpu")):
        return build_network(name, channels=channels, size=size, classes=len(images.classes))


def train_network(
    network: str | nn.Module,
    train: ImageSet,
    test: ImageSet,
    *,
    protocol: str | Protocol,
    seed: int,
    epochs: int | None = None,
    tests: int = 10,
    tiles: int = 1,
    teacher: Callable[[Tensor], Tensor] | None = None,
    device: str | torch.device = "cpu",
    bfloat16: bool = False,
    compile: bool = False,
) -> Iterator[Epoch]:
    """Train a network of that name, or the one given, on `train` as `protocol` says, an event an epoch.

    `epochs` is the protocol's by default, IPC being the largest class of `train`. Accuracy on `test`, whose classes are
    matched by name, is measured after `tests` evenly spaced epochs, the last among them. `tiles` is a side of a
    composite image in images. `teacher` gives logits of images in [-1, 1] on `device`. Equal seeds give equal curves on
    one machine with as many threads. `compile` pays from about 20,000 image passes on.

    Raises ValueError for settings or sets that do not fit, and where the protocol's soft labels have no teacher.
    """
    test = _fitted(train, test)
    ipc = int(torch.bincount(train.labels).max())
    size = train.images.shape[-1]
    if isinstance(protocol, str):
        settings = protocol_for(protocol, classes=len(train.classes), size=size, tiles=tiles)
    else:
        settings = protocol
    if settings.soft_labels and teacher is None:
        raise ValueError("the protocol has soft labels, which need a teacher: give one, or choose another protocol")
    if teacher is not None and not settings.soft_labels:
        raise ValueError("the protocol has hard labels and no use for a teacher: leave it out, or choose rded")
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    epochs = epochs or _by_ipc(settings.epochs, ipc)
    batch_size = _by_ipc(settings.batch_sizes, ipc)
    iterations = epochs * math.ceil(len(train) / batch_size)
    if isinstance(network, str):
        network = seeded_network(network, train, seed=seed)
    return _train(
        network, train, test, settings, batch_size, iterations, _tested(tests), seed, teacher, device, bfloat16, compile
    )


def transfer(
    network: nn.Module,
    train: ImageSet,
    test: ImageSet,
    *,
    iterations: int,
    seed: int,
    tests: int = 10,
    device: str | torch.device = "cpu",
    bfloat16: bool = False,
    compile: bool = False,
) -> Iterator[Epoch]:
    """Fine-tune all of a trained network, in place, under a new head for the classes of `train`: appendix G.

    SGD with a cosine to zero over `iterations` batches of 256; crops and flips, since the paper names none. The last
    epoch may be a part of one. Raises ValueError for a network without a linear `head`, and for sets that do not fit.
    """
    test = _fitted(train, test)
    head = getattr(network, "head", None)
    if not isinstance(head, nn.Linear):
        raise ValueError(f"transfer needs a network with a linear head, which {type(network).__name__} does not have")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    tests = _tested(tests)
    with _own_stream(seed, torch.device("cpu")):
        network.head = nn.Linear(head.in_features, len(train.classes))
    batch_size = _by_ipc(FINE_TUNING.batch_sizes, 1)
    return _train(
        network, train, test, FINE_TUNING, batch_size, iterations, tests, seed, None, device, bfloat16, compile
    )


def _tested(tests: int) -> int:
    if tests < 1:
        raise ValueError(f"tests must be at least 1, got {tests}")
    return tests


def _fitted(train: ImageSet, test: ImageSet) -> ImageSet:
    """`test` in the label order of `train`; ValueError where the two do not fit or have nothing to learn from."""
    test = align(test, train.classes)
    shape, other = (tuple(images.images.shape[1:]) for images in (train, test))
    if shape != other:
        raise ValueError(f"training images are {_size(shape)} and test images {_size(other)}: load both at one size")
    if shape[1] != shape[2]:
        raise ValueError(f"images must be square, got {_size(shape)}: crop them")
    counts = torch.bincount(train.labels, minlength=len(train.classes))
    if not counts.all():
        raise ValueError(f"the training set has no image of class {train.classes[int(counts.argmin())]!r}: add some")
    if not len(test):
        raise ValueError("the test set has no images: give another")
    return test


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _train(
    network: nn.Module,
    train: ImageSet,
    test: ImageSet,
    protocol: Protocol,
    batch_size: int,
    iterations: int,
    tests: int,
    seed: int,
    teacher: Callable[[Tensor], Tensor] | None,
    device: str | torch.device,
    bfloat16: bool,
    compile: bool,
) -> Iterator[Epoch]:
    device = torch.device(device)
    # Compiled kernels are fastest with the channels last; eager group normalisation is at its slowest then.
    layout = torch.channels_last if compile else torch.contiguous_format
    network = network.to(device=device, memory_format=layout)
    if compile:
        network.compile()
    optimizer = _optimizer(network, protocol)
    generator = torch.Generator(device).manual_seed(seed)
    mean, std = normalisation(train, device)
    images, labels = train.images.to(device), train.labels.to(device)
    arithmetic = torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)

    def logits(x: Tensor) -> Tensor:
        with arithmetic:
            return network(x.to(memory_format=layout)).float()

    def step(rows: Tensor, rate: float) -> Tensor:
        mixed = cutmix(_view(images[rows], protocol, mean, std, generator), generator, probability=protocol.cutmix)
        y, other = labels[rows], labels[rows[mixed.partner]]
        predicted = logits(mixed.images)
        if protocol.soft_labels:
            with torch.no_grad():
                taught = teacher((mixed.images * std + mean) * 2 - 1).float()
            soft, temperature = (taught / protocol.temperature).softmax(1), protocol.temperature
            loss = F.kl_div(F.log_softmax(predicted / temperature, 1), soft, reduction="batchmean")
        else:
            share = mixed.share
            loss = share * F.cross_entropy(predicted, y) + (1 - share) * F.cross_entropy(predicted, other)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = protocol.learning_rate * rate
        optimizer.step()
        return loss.detach() * len(rows)

    @torch.no_grad()
    def accuracy() -> float:
        right = torch.zeros((), device=device)
        together = max(1, _TEST_PIXELS // test.images.shape[-1] ** 2)
        for part, own in zip(test.images.split(together), test.labels.split(together)):
            right += (logits((part.to(device) / 255 - mean) / std).argmax(1) == own.to(device)).sum()
        return float(right) / len(test)

    steps = math.ceil(len(train) / batch_size)
    epochs = math.ceil(iterations / steps)
    tested = {epochs * (i + 1) // tests for i in range(tests)}
    seconds = 0.0
    for index in range(epochs):
        started = time.monotonic()
        network.train()
        batches = torch.randperm(len(train), generator=generator, device=device).split(batch_size)
        batches = batches[: iterations - index * steps]
        # Networks with dropout draw from torch's own stream.
        own = int(torch.randint(2**31, (), generator=generator, device=device))
        with _own_stream(own, device):
            losses = [
                step(rows, _rate(protocol.schedule, index + i / steps, iterations / steps))
                for i, rows in enumerate(batches)
            ]
        loss = float(torch.stack(losses).sum()) / sum(map(len, batches))
        network.eval()
        measured = accuracy() if index + 1 in tested else None
        seconds += time.monotonic() - started
        yield Epoch(index, epochs, loss, measured, seconds)


@contextmanager
def _own_stream(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global random stream begins at `seed` in here, and is as it was afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def normalisation(train: ImageSet, device: torch.device) -> tuple[Tensor, Tensor]:
    """(mean, std), each (C, 1, 1), of pixels in [0, 1]: ImageNet's, CIFAR's up to 32 pixels a side.

    Those of the training images themselves where they are not RGB.
    """
    if train.images.shape[1] == 3:
        pair = _CIFAR if train.images.shape[-1] <= _SMALL else _IMAGENET
        mean, std = (torch.tensor(values) for values in pair)
    else:
        std, mean = torch.std_mean(train.images.float() / 255, dim=(0, 2, 3))
        std = std.clamp(min=1 / 255)  # images that are all one grey level have no deviation
    return mean[:, None, None].to(device), std[:, None, None].to(device)


def _view(images: Tensor, protocol: Protocol, mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """What the network sees of uint8 images, normalised, before CutMix."""
    x = images / 255
    if protocol.siamese:
        return siamese_view((x - mean) / std, generator)
    if protocol.crop is not None:
        x = random_resized_crop(x, generator, area=protocol.crop)
    x = random_flip(x, generator)
    if protocol.colours:
        x = lighting(colour_jitter(x, generator, strength=0.4), generator, deviation=0.1)
    return (x - mean) / std


def _optimizer(network: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    parameters = list(network.parameters())
    if protocol.optimiser == "adam":
        return torch.optim.Adam(parameters, protocol.learning_rate, fused=True)
    if protocol.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, protocol.learning_rate, momentum=0.9, weight_decay=protocol.weight_decay, fused=True
        )
    # RDED spares biases and normalisations; the protocols with hard labels do not.
    spared = [parameter for parameter in parameters if protocol.soft_labels and parameter.ndim == 1]
    decayed = [parameter for parameter in parameters if not (protocol.soft_labels and parameter.ndim == 1)]
    groups = [{"params": decayed, "weight_decay": protocol.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], protocol.learning_rate, fused=True)


def _rate(schedule: str, epoch: float, epochs: float) -> float:
    """What the learning rate is multiplied by at a fractional `epoch`; only the cosine changes within one."""
    if schedule == "milestones":
        return 0.2 ** sum(int(epoch) >= milestone for milestone in (2 * epochs // 3, 5 * epochs // 6))
    if schedule == "half cosine":
        return 0.5 * (1 + math.cos(math.pi * int(epoch) / epochs / 2))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    return 1.0


def summarise(curves: Sequence[Sequence[Epoch]]) -> dict:
    """Best and final accuracy and seconds over the repeats of one training, each {"mean", "std"}, and the curves.

    `best` is the best *tested* accuracy of each repeat, chosen on the test set, as the field reports it: it flatters.
    The deviation has n − 1 below it, and is None for one repeat. Raises ValueError where a curve was stopped early.
    """
    tested = [[epoch for epoch in curve if epoch.accuracy is not None] for curve in curves]
    if not curves or any(not curve or curve[-1].index + 1 < curve[-1].epochs for curve in curves):
        raise ValueError("a result needs at least one curve, and each to its last epoch: train on")
    return {
        "repeats": len(curves),
        "epochs": curves[0][-1].epochs,
        "tests": len(tested[0]),
        "best": mean_and_deviation([max(epoch.accuracy for epoch in curve) for curve in tested]),
        "final": mean_and_deviation([curve[-1].accuracy for curve in tested]),
        "seconds": mean_and_deviation([curve[-1].seconds for curve in curves]),
        "curves": [
            [{"epoch": epoch.index + 1, "accuracy": round(epoch.accuracy, 5)} for epoch in curve] for curve in tested
        ],
    }


def mean_and_deviation(values: Sequence[float]) -> dict[str, float | None]:
    """The mean and the sample deviation, both to five places; no deviation of a single value."""
    deviation = round(statistics.stdev(values), 5) if len(values) > 1 else None
    return {"mean": round(statistics.fmean(values), 5), "std": deviation}


def result_of(
    curves: Sequence[Sequence[Epoch]],
    *,
    images: str,
    protocol: str,
    network: str,
    train: ImageSet,
    split: str,
    seeds: Sequence[int],
) -> dict:
    """A result for JSON: which `images` trained what and how, on which `split` it was tested, and how well."""
    return _named(
        curves,
        images=images,
        protocol=protocol,
        network=network,
        train=train,
        labels="soft" if PROTOCOLS[protocol].soft_labels else "hard",
        split=split,
        seeds=seeds,
    )


def transfer_result_of(
    curves: Sequence[Sequence[Epoch]], *, images: str, network: str, train: ImageSet, split: str, seeds: Sequence[int]
) -> dict:
    """The same of `transfer`'s curves: `train` is what the network was pretrained on, `split` where it was tested."""
    return _named(
        curves,
        images=images,
        protocol="appendix G",
        network=network,
        train=train,
        labels="hard",
        split=split,
        seeds=seeds,
    )


def _named(curves, *, images, protocol, network, train, labels, split, seeds) -> dict:
    return {
        "images": images,
        "protocol": protocol,
        "network": network,
        "resolution": train.images.shape[-1],
        "labels": labels,
        "ipc": int(torch.bincount(train.labels).max()),
        "split": split,
        "training_seeds": list(seeds),
        **summarise(curves),
    }


_COLUMNS = ("Images", "IPC", "Network", "Protocol", "Labels", "px", "Epochs", "Split", "Repeats", "Best", "Final")


def results_markdown(results: Sequence[dict]) -> str:
    """A table of results in Markdown, accuracies in per cent, a row each."""
    rows = [_COLUMNS, ["---"] * len(_COLUMNS), *(_cells(result, "±") for result in results)]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |\n" for row in rows)


_LATEX = str.maketrans(
    {letter: "\\" + letter for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def results_latex(results: Sequence[dict]) -> str:
    """The same table in LaTeX, for the package booktabs."""
    rows = [" & ".join(_cells(_escaped(result), r"\pm")) + r" \\" for result in results]
    head = " & ".join(_COLUMNS) + r" \\"
    lines = [rf"\begin{{tabular}}{{{'l' * len(_COLUMNS)}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", ""])


def _cells(result: dict, plus_minus: str) -> list[str]:
    names = ("images", "ipc", "network", "protocol", "labels", "resolution", "epochs", "split", "repeats")
    return [str(result[name]) for name in names] + [_accuracy(result[name], plus_minus) for name in ("best", "final")]


def _accuracy(value: dict[str, float | None], plus_minus: str) -> str:
    text = f"{100 * value['mean']:.1f}"
    if value["std"] is not None:
        text += f" {plus_minus} {100 * value['std']:.1f}"
    return f"${text}$" if plus_minus.startswith("\\") else text


def _escaped(result: dict) -> dict:
    return {name: value.translate(_LATEX) if isinstance(value, str) else value for name, value in result.items()}
