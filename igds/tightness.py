"""Are the bounds tight? The paper's section 5.7 and figure 6: Gaussians whose I(X;Y) and H(X|Y) are known.

Three classes of unit Gaussians in five dimensions, their centres an equilateral triangle of side δ. What an estimator
says of them is held against the truth and against estimators that the field trusts, on the same held-out points.
"""

import json
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln
from torch import Tensor, nn

import igds
from igds.data import ImageSet
from igds.encoders import PointEncoder, PointEncoderConfig
from igds.estimator import VariationalEstimator, estimate
from igds.files import write_json
from igds.information import entropy
from igds.priors.mixture import MixturePrior
from igds.statistics import mean_and_error
from igds.training import ContrastiveObjective, fit_linear

CLASSES, DIMENSION = 3, 5
PAPER_DELTAS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
VE, CROSS_ENTROPY = "VE", "cross-entropy"
VE_FREE, CROSS_ENTROPY_FREE = "VE, free length", "cross-entropy, free length"
CELLS = "nearest of d points, untrained"
INFO_NCE, MINE, NEIGHBOURS = "InfoNCE", "MINE", "nearest neighbours"
FIELD = (INFO_NCE, MINE, NEIGHBOURS)
CELLS_TAU = 0.001
TAUS = (1.0, 0.07, 0.01, 0.001)
CRITIC_FEATURES = 32
TRUTH_SAMPLES = 1_000_000
FIT_ITERATIONS = 100
STEPS_PER_EVENT = 50


@dataclass(frozen=True)
class Tightness:
    """What is measured: each δ with d = `features`, and each d of `widths` at the side `width_delta`, with `seeds`.

    `samples` points train, `held_out` others are measured. The encoder is a perceptron of three layers, two of them
    hidden with `hidden` units, trained for `epochs` of plain SGD; g is fitted on the first `fitted` points of training.
    The critics of InfoNCE and MINE learn by Adam at `critic_rate`, for as many steps. The paper gives `deltas`,
    `samples` (10⁶), `epochs` (100), `learning_rate` and, for its images, `tau`; it does not give the rest. Raises
    ValueError for sizes that are out of range.
    """

    deltas: tuple[float, ...] = PAPER_DELTAS
    widths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    width_delta: float = 1.0
    features: int = 128
    samples: int = 20_000
    held_out: int = 20_000
    epochs: int = 2
    batch_size: int = 128
    hidden: int = 64
    learning_rate: float = 0.01
    tau: float = 0.07
    lambda_: float = 1.0
    momentum: float = 0.99
    queue: int = 512
    fitted: int = 50_000
    critic_rate: float = 1e-3
    neighbours: int = 3

    def __post_init__(self):
        for name in ("deltas", "widths", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} must name at least one, got none")
        for delta in (*self.deltas, self.width_delta):
            if not (math.isfinite(delta) and delta > 0):
                raise ValueError(f"deltas must be finite numbers above 0, got {delta}")
        for width in (*self.widths, self.features):
            if width < CLASSES:
                raise ValueError(f"widths must be at least {CLASSES}, got {width}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, got {self.batch_size}")
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")
        for name in ("samples", "held_out"):
            if getattr(self, name) < self.batch_size:
                raise ValueError(f"{name} must be at least the batch size {self.batch_size}, got {getattr(self, name)}")

    def cells(self) -> list[tuple[float, int, int]]:
        """(δ, d, seed) of every cell, no cell twice; whole seeds first, so that a study cut short has some."""
        pairs = [(float(delta), self.features) for delta in self.deltas]
        pairs += [(float(self.width_delta), width) for width in self.widths]
        return [(*pair, seed) for seed in self.seeds for pair in dict.fromkeys(pairs)]

    @property
    def steps(self) -> int:
        """Steps of SGD of one training."""
        return self.epochs * (self.samples // self.batch_size)

    def identity(self) -> dict:
        """What two cells must share to belong to one study: all but which δ, d and seeds there are."""
        grown = ("deltas", "widths", "seeds", "width_delta")
        return {name: value for name, value in asdict(self).items() if name not in grown}


@dataclass(frozen=True)
class Progress:
    """Steps of training, done so far and in all."""

    done: int
    total: int


@dataclass(frozen=True)
class Moment:
    """Steps of training done for one cell, and in all; `figures` are those of the arms that have been measured.

    `true_prototype` is the mean of log p(y|x)/π_y over the held-out points, which every Î of the cell is held against.
    """

    done: int
    total: int
    true_prototype: float
    figures: dict[str, dict]


def triangle(delta: float) -> MixturePrior:
    """Three unit Gaussians in five dimensions, uniform, their means at distance `delta` of each other (eq. 32)."""
    angle = 2 * math.pi * torch.arange(CLASSES) / CLASSES
    means = torch.zeros(CLASSES, 1, DIMENSION)
    means[:, 0, 0], means[:, 0, 1] = angle.cos(), angle.sin()
    return MixturePrior(delta / math.sqrt(3) * means, torch.ones(CLASSES, 1))


def differential_entropy() -> float:
    """h(X|Y) = (D/2)·log(2πe) of unit Gaussians (eq. 34): 7.094 nats in five dimensions, in the units of the points."""
    return DIMENSION / 2 * math.log(2 * math.pi * math.e)


def info_nce(scores: Tensor) -> Tensor:
    """log n + mean_i log softmax_j(T(x_i, y_j))_i of all pairs' scores (n, n): a lower bound of I(X;Y), at most log n.

    van den Oord et al. 2018; row i holds x_i against every y_j of the batch.
    """
    n = len(scores)
    return math.log(n) + F.log_softmax(scores, dim=1).diagonal().mean()


def donsker_varadhan(scores: Tensor) -> Tensor:
    """mean_i T(x_i, y_i) − log mean_{i≠j} exp T(x_i, y_j) of all pairs' scores (n, n): the bound of MINE.

    Belghazi et al. 2018. Of finitely many pairs it is biased upwards, and can pass I(X;Y).
    """
    n = len(scores)
    others = scores.masked_fill(torch.eye(n, dtype=torch.bool, device=scores.device), -math.inf)
    return scores.diagonal().mean() - (others.flatten().logsumexp(0) - math.log(n * (n - 1)))


def knn_entropy(x: np.ndarray, *, k: int = 3) -> float:
    """h(X) in nats of points (n, D): ψ(n) − ψ(k) + log V_D + D·mean log r_k (Kozachenko & Leonenko 1987).

    r_k is the distance to the k-th neighbour. Raises ValueError for fewer than k + 1 points.
    """
    n, dimension = x.shape
    if n <= k:
        raise ValueError(f"{k} neighbours want at least {k + 1} points, got {n}")
    radius = cKDTree(x).query(x, k + 1)[0][:, k]
    ball = dimension / 2 * math.log(math.pi) - gammaln(dimension / 2 + 1)
    return float(digamma(n) - digamma(k) + ball + dimension * np.log(radius).mean())


def knn_information(x: np.ndarray, y: np.ndarray, *, k: int = 3) -> float:
    """I(X;Y) in nats of points (n, D) and labels (n,): ψ(n) + ψ(k) − mean ψ(n_y) − mean ψ(m) (Ross 2014).

    m counts the points of any class nearer than the k-th neighbour of the same class, with the point itself. Raises
    ValueError where a class has fewer than k + 1 points.
    """
    radius, count = np.empty(len(x)), np.empty(len(x))
    for label in np.unique(y):
        own = y == label
        if own.sum() <= k:
            raise ValueError(f"{k} neighbours want at least {k + 1} points of each class, got {own.sum()}")
        radius[own] = np.nextafter(cKDTree(x[own]).query(x[own], k + 1)[0][:, k], 0)
        count[own] = own.sum()
    within = cKDTree(x).query_ball_point(x, radius, return_length=True)
    return float(digamma(len(x)) + digamma(k) - digamma(count).mean() - digamma(within).mean())


class PairCritic(nn.Module):
    """T(x, y) = u(x)·v(y) of every pair, (n, n) with x in rows; u and v are perceptrons of three layers."""

    def __init__(self, dimension: int, other: int, *, hidden: int = 128):
        super().__init__()
        self.u, self.v = _perceptron(dimension, hidden), _perceptron(other, hidden)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.u(x) @ self.v(y).T


def _perceptron(dimension: int, hidden: int) -> nn.Sequential:
    sizes = (dimension, hidden, hidden)
    layers = [layer for pair in zip(sizes, sizes[1:]) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(hidden, CRITIC_FEATURES))


class NearestOf(nn.Module):
    """f(x) = 2·⟨x, c_j⟩ − ‖c_j‖², made zero-mean over j: softmax(f/τ) points at the nearest of d centres as τ → 0.

    Linear in x and trained on nothing: −‖x − c_j‖² but for ‖x‖², which a softmax does not see.
    """

    def __init__(self, centres: Tensor):
        super().__init__()
        self.project = nn.Linear(centres.shape[1], len(centres)).requires_grad_(False)
        self.project.weight.copy_(2 * centres)
        self.project.bias.copy_(-centres.square().sum(1))

    def forward(self, x: Tensor) -> Tensor:
        f = self.project(x)
        return f - f.mean(dim=1, keepdim=True)


def train_bound(
    bound: Callable[[Tensor], Tensor], critic: PairCritic, x: Tensor, y: Tensor, study: Tightness, seed: int
) -> Iterator[int]:
    """Raise `bound` of the critic's scores on pairs x (n, D), y (n, E) by Adam; the steps done, now and then."""
    optimizer = torch.optim.Adam(critic.parameters(), study.critic_rate)
    return _steps(lambda index: -bound(critic(x[index], y[index])), optimizer, study, seed, x.device)


@torch.no_grad()
def measure_bound(
    bound: Callable[[Tensor], Tensor], critic: PairCritic, x: Tensor, y: Tensor, *, batch_size: int
) -> float:
    """The mean of the bound over whole batches of held-out pairs."""
    batches = [(a, b) for a, b in zip(x.split(batch_size), y.split(batch_size)) if len(a) == batch_size]
    return float(torch.stack([bound(critic(a, b)) for a, b in batches]).mean())


def _steps(loss_of, optimizer, study: Tightness, seed: int, device, after_step=lambda: None) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    done = 0
    for _ in range(study.epochs):
        order = torch.randperm(study.samples, generator=generator).to(device)
        for index in order.split(study.batch_size):
            if len(index) < study.batch_size:
                continue
            with torch.enable_grad():
                loss_of(index).backward()
            optimizer.step()
            optimizer.zero_grad()
            after_step()
            done += 1
            if done % STEPS_PER_EVENT == 0:
                yield STEPS_PER_EVENT
    yield done % STEPS_PER_EVENT


@dataclass(frozen=True)
class _Points:
    train: ImageSet
    held_out: ImageSet


def _points(study: Tightness, delta: float, seed: int, device) -> tuple[MixturePrior, _Points]:
    mixture = triangle(delta)
    generator = torch.Generator().manual_seed(seed)
    names = tuple("ABC")

    def draw(n):
        y = mixture.sample_labels(n, generator)
        return ImageSet(mixture.sample(y, generator).to(device), y.to(device), names)

    return mixture, _Points(draw(study.samples), draw(study.held_out))


def _train_encoder(arm: str, study: Tightness, features: int, points: _Points, seed: int, device):
    """The encoder of an arm, and the steps of its training: an iterator to be exhausted before it is used."""
    x, y = points.train.images, points.train.labels
    unit = arm in (VE, CROSS_ENTROPY)
    tau = study.tau if unit else 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = PointEncoderConfig(DIMENSION, (study.hidden, study.hidden), features, unit_length=unit)
        encoder = PointEncoder(config)
        objective = ContrastiveObjective(
            encoder,
            lambda view, _: view,
            schedule=triangle(1.0).schedule,
            num_classes=CLASSES,
            tau=tau,
            lambda_=study.lambda_,
            momentum=study.momentum,
            queue=study.queue,
        ).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    if arm in (VE, VE_FREE):
        optimizer = torch.optim.SGD(encoder.parameters(), study.learning_rate)

        def loss_of(index):
            return objective(x[index], y[index], generator)

        return encoder, _steps(loss_of, optimizer, study, seed, device, objective.after_step)
    trained = [*encoder.parameters(), *objective.head.parameters()]
    optimizer = torch.optim.SGD(trained, study.learning_rate)

    def cross_entropy(index):
        return F.cross_entropy(objective.head(encoder(x[index]) / tau), y[index])

    return encoder, _steps(cross_entropy, optimizer, study, seed, device)


@torch.no_grad()
def _measure_encoder(encoder: nn.Module, points: _Points, *, fitted: int, tau: float) -> dict:
    """Freeze f, fit g by cross-entropy, and take both bounds on the held-out points.

    Q^y is the mean of p over the same held-out points (eq. 12), so that Ĥ ≤ log d whatever f is; against another
    sample's Q^y it is not bounded.
    """
    encoder = encoder.eval().requires_grad_(False)
    device, last = points.train.images.device, encoder.project
    estimator = VariationalEstimator(encoder, CLASSES, features=last.out_features, tau=tau).to(device)
    # f(x) lies in the span of the last layer's centred columns: g is fitted there, exactly and, for wide f, quickly.
    columns = torch.cat([last.weight, last.bias[:, None]], dim=1)
    basis = torch.linalg.qr(columns - columns.mean(0)).Q
    seen = torch.cat([encoder(part) @ basis for part in points.train.images[:fitted].split(5000)])
    scale = seen.std()
    reduced = nn.Linear(basis.shape[1], CLASSES).to(device)
    fit_linear(reduced, seen / scale, points.train.labels[:fitted], iterations=FIT_ITERATIONS)
    estimator.classifier.weight.copy_(reduced.weight / scale @ basis.T)
    estimator.classifier.bias.copy_(reduced.bias)
    held_out = torch.cat([encoder(part) for part in points.held_out.images.split(5000)])
    labels = points.held_out.labels
    estimator.class_means.copy_(_class_means(held_out, labels, tau))
    found = estimate(estimator, points.held_out)
    return {
        "prototype": found.prototype,
        "contextual": found.contextual,
        "accuracy": found.accuracy,
        "tau": tau,
        "contextual_by_tau": {f"{other:g}": _contextual(held_out, labels, other) for other in TAUS},
    }


def _class_means(features: Tensor, labels: Tensor, tau: float) -> Tensor:
    return torch.stack([F.softmax(features[labels == label] / tau, dim=1).mean(0) for label in range(CLASSES)])


def _contextual(features: Tensor, labels: Tensor, tau: float) -> float:
    """Mean KL(p_i ‖ Q^y), as H(Q^y) − mean H(p_i): the same where Q^y is the mean of these p."""
    total = 0.0
    for label in range(CLASSES):
        p = F.softmax(features[labels == label] / tau, dim=1)
        total += len(p) * float(entropy(p.mean(0)) - entropy(p).mean())
    return total / len(features)


def measure_tightness(study: Tightness, folder: Path, *, device: str | torch.device = "cpu") -> Iterator[Progress]:
    """Measure every cell, a JSON file each in `folder`; those that are there already are kept.

    Raises ValueError at the call where `folder` holds a damaged cell, a cell of other settings, or something else.
    """
    found = {
        cell: read_cell(study, cell_path(folder, cell)) for cell in study.cells() if cell_path(folder, cell).exists()
    }
    if folder.is_dir() and any(not _is_ours(path.name) for path in folder.iterdir()):
        raise ValueError(f"{folder} holds something that is not this study: choose another --work")
    folder.mkdir(parents=True, exist_ok=True)
    return _measure_tightness(study, folder, found, torch.device(device))


def _is_ours(name: str) -> bool:
    return name.removeprefix(".").startswith("delta") and name.removesuffix(".partial").endswith(".json")


def _measure_tightness(study: Tightness, folder: Path, found: dict, device: torch.device) -> Iterator[Progress]:
    total = sum(study.steps * len(_trained(study, features)) for _, features, _ in study.cells())
    done = 0
    for cell in study.cells():
        _, features, _ = cell
        steps = study.steps * len(_trained(study, features))
        if cell not in found:
            rest = (CELLS, NEIGHBOURS) if features == study.features else (CELLS,)
            for moment in measure_cell(study, cell, (*_trained(study, features), *rest), device=device):
                yield Progress(done + moment.done, total)
            write_json(cell_path(folder, cell), _cell(study, cell, moment))
        done += steps
        yield Progress(done, total)


def measure_cell(
    study: Tightness, cell: tuple[float, int, int], arms: Sequence[str], *, device: str | torch.device = "cpu"
) -> Iterator[Moment]:
    """Train and measure `arms` at (δ, d, seed), one after the other on the same points: a moment every few steps."""
    delta, features, seed = cell
    device = torch.device(device)
    mixture, points = _points(study, delta, seed, device)
    x, y = points.held_out.images.cpu(), points.held_out.labels.cpu()
    truth = float((mixture.class_posterior(x).gather(1, y[:, None])[:, 0] + math.log(CLASSES)).mean())
    done, total = 0, study.steps * len([arm for arm in arms if arm not in (CELLS, NEIGHBOURS)])
    figures: dict[str, dict] = {}
    for arm in arms:
        if arm == CELLS:
            figures = figures | {arm: _measure_cells(study, mixture, points, features, seed)}
        elif arm == NEIGHBOURS:
            figures = figures | {arm: _measure_neighbours(study, points)}
        else:
            measure, steps = _training(arm, study, features, points, seed, device)
            for count in steps:
                done += count
                yield Moment(done, total, truth, figures)
            figures = figures | {arm: measure()}
        yield Moment(done, total, truth, figures)


def _trained(study: Tightness, features: int) -> tuple[str, ...]:
    """The arms that are trained in a cell of this d; estimators that know no d are in the cells of the sweep of δ."""
    arms = (VE, CROSS_ENTROPY, VE_FREE, CROSS_ENTROPY_FREE)
    return (*arms, INFO_NCE, MINE) if features == study.features else arms


def _training(way: str, study: Tightness, features: int, points: _Points, seed: int, device):
    """How an arm is measured, and the steps of training that come first."""
    if way not in (INFO_NCE, MINE):
        encoder, steps = _train_encoder(way, study, features, points, seed, device)
        tau = study.tau if way in (VE, CROSS_ENTROPY) else 1.0
        return lambda: _measure_encoder(encoder, points, fitted=study.fitted, tau=tau), steps
    bound = {INFO_NCE: info_nce, MINE: donsker_varadhan}[way]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = PairCritic(DIMENSION, CLASSES, hidden=study.hidden).to(device)
    train, held_out = (
        (part.images, F.one_hot(part.labels, CLASSES).float()) for part in (points.train, points.held_out)
    )
    steps = train_bound(bound, critic, *train, study, seed)
    return lambda: {"prototype": measure_bound(bound, critic, *held_out, batch_size=study.batch_size)}, steps


def _measure_cells(study: Tightness, mixture: MixturePrior, points: _Points, features: int, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed + 1_000_000)
    centres = mixture.sample(mixture.sample_labels(features, generator), generator)
    encoder = NearestOf(centres).to(points.train.images.device)
    return _measure_encoder(encoder, points, fitted=study.fitted, tau=CELLS_TAU)


def _measure_neighbours(study: Tightness, points: _Points) -> dict:
    x, y = points.held_out.images.double().cpu().numpy(), points.held_out.labels.cpu().numpy()
    entropies = [(y == label).mean() * knn_entropy(x[y == label], k=study.neighbours) for label in range(CLASSES)]
    return {"prototype": knn_information(x, y, k=study.neighbours), "contextual": float(sum(entropies))}


def _cell(study: Tightness, cell: tuple, moment: Moment) -> dict:
    delta, features, seed = cell
    return {
        "settings": study.identity(),
        "delta": delta,
        "features": features,
        "seed": seed,
        "true_prototype_of_held_out": moment.true_prototype,
        "records": [{"arm": arm, **_rounded(figures)} for arm, figures in moment.figures.items()],
    }


def _rounded(figures: dict) -> dict:
    return {name: _rounded(value) if isinstance(value, dict) else round(value, 6) for name, value in figures.items()}


def cell_path(folder: Path, cell: tuple[float, int, int]) -> Path:
    """Where a cell's figures are kept."""
    delta, features, seed = cell
    return folder / f"delta{delta:g}-d{features:04d}-seed{seed}.json"


def read_cell(study: Tightness, path: Path) -> dict:
    """A cell's figures; ValueError where the file is missing, damaged, or of other settings."""
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
        settings = cell["settings"]
        _ = [(record["arm"], record["prototype"]) for record in cell["records"]]
        _ = [cell[name] for name in ("delta", "features", "seed", "true_prototype_of_held_out")]
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the study was stopped half-way, the same command goes on") from None
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: delete it, the same command makes it again") from None
    if settings != json.loads(json.dumps(study.identity())):
        raise ValueError(
            f"{path.parent} holds cells of other settings: choose another --work, or delete the folder to start afresh"
        )
    return cell


def summarise_tightness(study: Tightness, folder: Path) -> dict:
    """The study's JSON: the truth at each δ, a record a cell and arm, and mean and standard error over seeds.

    `gap` of an arm is its Î minus the mean of log p(y|x)/π_y over the very points that it was measured on. Raises
    ValueError where a cell is missing or damaged.
    """
    cells = [read_cell(study, cell_path(folder, cell)) for cell in study.cells()]
    truth = []
    for delta in dict.fromkeys(cell["delta"] for cell in cells):
        known = triangle(delta).information(samples=TRUTH_SAMPLES)
        entry = {"delta": delta, "prototype": known.prototype, "standard_error": known.prototype_error}
        truth.append(entry | {"contextual": differential_entropy()})
    records = []
    for cell in cells:
        place = {name: cell[name] for name in ("delta", "features", "seed")}
        for record in cell["records"]:
            gap = round(record["prototype"] - cell["true_prototype_of_held_out"], 6)
            records.append({**place, **record, "gap": gap})
    groups: dict = {}
    for record in records:
        groups.setdefault((record["delta"], record["features"], record["arm"]), []).append(record)
    summary = [
        {"delta": delta, "features": features, "arm": arm, "measures": _means(group)}
        for (delta, features, arm), group in groups.items()
    ]
    return {
        "study": "tightness",
        "settings": asdict(study),
        "steps": study.steps,
        "software": {
            "igds": igds.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "truth": truth,
        "summary": summary,
        "records": records,
    }


def _means(records: list[dict]) -> dict:
    names = [name for name in ("prototype", "gap", "contextual", "accuracy") if name in records[0]]
    measures = {name: mean_and_error([record[name] for record in records]) for name in names}
    if "contextual_by_tau" in records[0]:
        measures["contextual_by_tau"] = {
            tau: mean_and_error([record["contextual_by_tau"][tau] for record in records])
            for tau in records[0]["contextual_by_tau"]
        }
    return measures


def quick() -> Tightness:
    """The study in miniature: a trial of the command, whose figures mean nothing."""
    small = {"samples": 2000, "held_out": 1000, "epochs": 2, "batch_size": 100, "hidden": 32, "queue": 128}
    return Tightness(deltas=(1.0, 4.0), widths=(32, 64), seeds=(0, 1), features=32, **small)
