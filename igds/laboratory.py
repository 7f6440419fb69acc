"""The laboratory: the whole method in the plane, where the truth is known and everything can be seen.

A scene is a class-conditional mixture with an exact score; an encoder of points is trained on its samples in seconds;
a run moves particles from noise to data three ways, with every force on them; and the truth stands beside the bounds.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from igds.data import ImageSet
from igds.encoders import PointEncoder, PointEncoderConfig
from igds.estimator import VariationalEstimator, estimate
from igds.information import contextual_kl
from igds.priors.mixture import Information, MixturePrior
from igds.processes import ALONE, Processes
from igds.rng import NoiseStreams, image_seeds
from igds.sampling import COLUMNS, BatchState, ClassBatch, Guidance, paired, sample_progressive
from igds.training import ContrastiveObjective, Training, train_linear_classifier

STEPS = 50
REACH = 6.0  # of the plane's coordinates, from -REACH to REACH
NEAR = 3.0  # standard deviations around a mode within which a particle has reached it
REAL_DISTANCE = math.sqrt(math.pi / 2)  # E‖x − μ‖/σ of a Gaussian in the plane
CLASSES, MOST_MODES, MOST_PARTICLES = 3, 24, 60

TAU = 0.07
TRAINING_POINTS, TEST_POINTS = 4000, 2000
POINTS_SEEN = 96_000
EVENTS = 16
ENCODERS = ("contrastive", "cross-entropy")


@dataclass(frozen=True)
class Mode:
    """A round Gaussian of class `label` at (x, y); it carries a share of all the data in proportion to `weight`."""

    label: int
    x: float
    y: float
    std: float = 0.25
    weight: float = 1.0


@dataclass(frozen=True)
class Scene:
    """A mixture in the plane: P(class, mode) is the mode's share of all weights.

    Raises ValueError unless there are two or three classes, numbered from 0, each with a mode, and all modes lie within
    REACH.
    """

    modes: tuple[Mode, ...]

    def __post_init__(self):
        labels = {mode.label for mode in self.modes}
        if labels not in ({0, 1}, {0, 1, 2}):
            raise ValueError(f"a scene needs two or three classes, each with a mode: got modes of {len(labels)}")
        if len(self.modes) > MOST_MODES:
            raise ValueError(f"a scene has at most {MOST_MODES} modes, got {len(self.modes)}")
        for mode in self.modes:
            if not (abs(mode.x) <= REACH and abs(mode.y) <= REACH):
                raise ValueError(f"a mode must lie within ±{REACH:g}, got ({mode.x:g}, {mode.y:g})")
            if not (0.05 <= mode.std <= 2 and 0 < mode.weight < math.inf):
                raise ValueError(
                    f"a mode's std must be between 0.05 and 2 and its weight above 0, "
                    f"got {mode.std:g} and {mode.weight:g}"
                )

    @property
    def classes(self) -> int:
        return 1 + max(mode.label for mode in self.modes)

    def of_class(self, label: int) -> tuple[Mode, ...]:
        return tuple(mode for mode in self.modes if mode.label == label)

    @lru_cache(maxsize=64)  # noqa: B019 - a scene is as small as its prior
    def prior(self) -> MixturePrior:
        """The exact prior. Classes with fewer modes than another are filled up with modes of weight 0."""
        most = max(len(self.of_class(label)) for label in range(self.classes))
        means, stds = torch.zeros(self.classes, most, 2), torch.ones(self.classes, most)
        weights = torch.zeros(self.classes, most)
        for label in range(self.classes):
            for m, mode in enumerate(self.of_class(label)):
                means[label, m] = torch.tensor([mode.x, mode.y])
                stds[label, m], weights[label, m] = mode.std, mode.weight
        return MixturePrior(means, stds, weights=weights, class_weights=weights.sum(1))


def _ring(label: int, x: float, y: float, *, radius: float, modes: int, **mode) -> list[Mode]:
    angles = (2 * math.pi * m / modes + math.pi / 2 for m in range(modes))
    return [Mode(label, x + radius * math.cos(a), y + radius * math.sin(a), **mode) for a in angles]


def _centres(radius: float) -> list[tuple[float, float]]:
    """A triangle's corners, the first at the top."""
    return [(mode.x, mode.y) for mode in _ring(0, 0.0, 0.0, radius=radius, modes=3)]


def _moon(label: int, x: float, y: float, *, up: bool) -> list[Mode]:
    angles = (math.pi * m / 7 for m in range(8))
    return [Mode(label, x + 2.6 * math.cos(a), y + (2.6 if up else -2.6) * math.sin(a)) for a in angles]


def _rings() -> list[Mode]:
    return [mode for label, (x, y) in enumerate(_centres(2.9)) for mode in _ring(label, x, y, radius=1.7, modes=6)]


def _overlapping() -> list[Mode]:
    return [
        mode for label, (x, y) in enumerate(_centres(1.0)) for mode in _ring(label, x, y, radius=1.6, modes=4, std=0.6)
    ]


def _rare() -> list[Mode]:
    left = _ring(0, -2.4, 0.0, radius=1.7, modes=4)
    right = _ring(1, 2.4, 0.0, radius=1.7, modes=4)
    return [replace(mode, weight=0.12) if m == 0 else mode for ring in (left, right) for m, mode in enumerate(ring)]


def _imbalanced() -> list[Mode]:
    shares = (0.8, 0.15, 0.05)
    return [
        mode
        for label, (x, y) in enumerate(_centres(2.9))
        for mode in _ring(label, x, y, radius=1.4, modes=4, weight=shares[label] / 4)
    ]


PRESETS: dict[str, Scene] = {
    "rings": Scene(tuple(_rings())),
    "moons": Scene((*_moon(0, -1.3, -0.6, up=True), *_moon(1, 1.3, 0.6, up=False))),
    "overlap": Scene(tuple(_overlapping())),
    "rare": Scene(tuple(_rare())),
    "imbalance": Scene(tuple(_imbalanced())),
}


def drawn(points: Sequence[tuple[float, float, int]], *, std: float = 0.3) -> Scene:
    """A scene with a mode of equal weight at each (x, y, class)."""
    return Scene(tuple(Mode(int(label), float(x), float(y), std) for x, y, label in points))


@dataclass(frozen=True)
class Truth:
    """What is exactly known of a scene: I(X;Y) and the differential entropy H(X|Y) by Monte Carlo, in nats.

    `label_entropy` is H(Y), which I(X;Y) cannot exceed, and `mode_entropy` H(M|Y) of the mode M: what a point tells
    beyond its class where the modes lie apart. `accuracy` is that of the best possible classifier.
    """

    information: Information
    label_entropy: float
    mode_entropy: float
    accuracy: float


@lru_cache(maxsize=32)
def truth(scene: Scene, *, samples: int = 50_000, seed: int = 0) -> Truth:
    prior = scene.prior()
    generator = torch.Generator().manual_seed(seed)
    y = prior.sample_labels(samples, generator)
    best = prior.class_posterior(prior.sample(y, generator)).argmax(1)
    weights = torch.tensor([mode.weight for mode in scene.modes], dtype=torch.float64)
    share = weights / weights.sum()
    of_class = torch.zeros(scene.classes, dtype=torch.float64).index_add_(
        0, torch.tensor([mode.label for mode in scene.modes]), share
    )
    label_entropy, both = (float(torch.special.entr(p).sum()) for p in (of_class, share))
    return Truth(
        prior.information(samples=samples, seed=seed),
        label_entropy,
        both - label_entropy,
        float((best == y).float().mean()),
    )


def modes_by_chance(scene: Scene, n: int) -> float:
    """How many modes n independent draws from each class reach on average: Σ 1 − (1 − P(near the mode))ⁿ."""
    near = 1 - math.exp(-(NEAR**2) / 2)
    total = 0.0
    for label in range(scene.classes):
        modes = scene.of_class(label)
        whole = sum(mode.weight for mode in modes)
        total += sum(1 - (1 - near * mode.weight / whole) ** n for mode in modes)
    return total


class CrossEntropyObjective(nn.Module):
    """f trained by cross-entropy alone: a linear classifier of the labels on f(x)/τ, and nothing that asks for more."""

    def __init__(self, encoder: PointEncoder, augment, *, num_classes: int, tau: float):
        super().__init__()
        self.network = encoder
        self.head = nn.Linear(encoder.config.features, num_classes)
        self.augment, self.tau = augment, tau

    def forward(
        self, points: Tensor, labels: Tensor, generator: torch.Generator, processes: Processes = ALONE
    ) -> Tensor:
        rows = processes.rows(len(points))
        return F.cross_entropy(self.head(self.network(self.augment(points, generator)[rows]) / self.tau), labels[rows])

    def after_step(self) -> None:
        pass

    @property
    def result(self) -> PointEncoder:
        return self.network


@dataclass(frozen=True)
class Learnt:
    """The estimator after `seen` of `total` points, its loss since the last event, and Î and Ĥ on held-out points."""

    seen: int
    total: int
    loss: float
    prototype: float
    contextual: float
    estimator: VariationalEstimator


def learn(scene: Scene, kind: str = "contrastive", *, seed: int = 0, points: int = POINTS_SEEN) -> Iterator[Learnt]:
    """Train an encoder on samples of the scene, then g on it: EVENTS times on the way.

    "contrastive" is algorithm 1 (λ = 1, no labels), whose two views of a point differ by a small Gaussian jitter;
    "cross-entropy" trains f by the labels alone. Raises ValueError at the call.
    """
    if kind not in ENCODERS:
        raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, got {kind!r}")
    return _learn(scene, kind, seed, points)


def _learn(scene: Scene, kind: str, seed: int, points: int) -> Iterator[Learnt]:
    prior, generator = scene.prior(), torch.Generator().manual_seed(seed)
    train, test = (_samples(prior, size, generator) for size in (TRAINING_POINTS, TEST_POINTS))
    jitter = min(mode.std for mode in scene.modes)

    def view(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + jitter * torch.randn(x.shape, generator=generator)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = PointEncoder(PointEncoderConfig(2, widths=(64, 64), features=32))
        if kind == "contrastive":
            objective = ContrastiveObjective(
                encoder,
                view,
                schedule=prior.schedule,
                num_classes=scene.classes,
                tau=TAU,
                momentum=0.95,
                queue=1024,
            )
        else:
            objective = CrossEntropyObjective(encoder, view, num_classes=scene.classes, tau=TAU)
    training = Training(objective, train, images=points, batch_size=128, learning_rate=5e-3, seed=seed)
    losses = []
    for event in training.run(every=0.0):
        losses.append(event.loss)
        if event.images < event.total and len(losses) < math.ceil(points / training.batch_size / EVENTS):
            continue
        iterations = 200 if event.images >= event.total else 20  # what is shown on the way may be rough
        estimator = train_linear_classifier(objective.result, train, tau=TAU, iterations=iterations)
        found = estimate(estimator, test)
        yield Learnt(event.images, points, statistics.fmean(losses), found.prototype, found.contextual, estimator)
        losses = []


def _samples(prior: MixturePrior, n: int, generator: torch.Generator) -> ImageSet:
    """Balanced or not as the scene is; at least one point of each class."""
    y = torch.cat([torch.arange(prior.num_classes), prior.sample_labels(n - prior.num_classes, generator)])
    return ImageSet(prior.sample(y, generator), y, tuple(str(label) for label in range(prior.num_classes)))


def guidance_of(beta: float, eta: float) -> Guidance:
    """The laboratory's guidance: η is multiplied by σ̃_t², so that η = 1 weighs log P(y|x) as the score itself.

    A constant η pushes hardest when the particles have arrived already, and drives them off the data.
    """
    return Guidance(beta=beta, eta=eta, scaling="variance")


@dataclass(frozen=True)
class Play:
    """A run three ways from the same noise; W ways in the order of COLUMNS, K classes, n particles each, S steps.

    `x` (S + 1, W, K, n, 2) are the positions, from noise to data. What acts in each step, (S, W, K, n, 2), forces on
    the first few of the n where no more were asked for: `score`,
    ∇ log p(x_t|y) at x_t; `prototype_force` η_t∇log P(y|g(f(x'))) and `contextual_force` η_tβ∇KL(p‖Q̂) at x'_{t−1},
    which together lead from x'_{t−1} to x_{t−1}. `variance` (S,) is that of the noise in x_t, 1 − ᾱ_t: times the score,
    it leads from x_t to √ᾱ_t·x̃0. `prototype` and `contextual` (S, W, K, n) are the two terms in nats, `t` (S,) the
    timesteps.
    """

    t: tuple[int, ...]
    x: Tensor
    score: Tensor
    variance: Tensor
    prototype_force: Tensor
    contextual_force: Tensor
    prototype: Tensor
    contextual: Tensor


def play(
    prior: MixturePrior,
    estimator: VariationalEstimator,
    *,
    n: int,
    beta: float,
    eta: float,
    seed: int = 0,
    arrows: int = MOST_PARTICLES,
) -> Play:
    """Run `sample_progressive` on every class three ways, and work out the forces from its steps.

    They are those on the first `arrows` particles of each class, or on all where there are fewer. Raises
    ValueError for an n outside 1 to MOST_PARTICLES, and for a β or η that is not a finite number from 0 on.
    """
    if not 1 <= n <= MOST_PARTICLES:
        raise ValueError(f"n must be between 1 and {MOST_PARTICLES}, got {n}")
    guidance = guidance_of(beta, eta)
    classes, ways = range(prior.num_classes), len(COLUMNS)
    seeds = {label: image_seeds(seed, label, n) for label in classes}
    by_class = [paired(label, seeds[label], guidance) for label in classes]
    batches = [by_class[label][way] for way in range(ways) for label in classes]
    steps = list(sample_progressive(prior, estimator, batches, steps=STEPS, microbatch=ways * len(classes) * n))

    def stacked(name: str) -> Tensor:
        values = torch.stack([torch.cat([getattr(batch, name) for batch in step.batches]) for step in steps])
        return values.view(len(steps), ways, len(classes), n, *values.shape[2:])

    noise = NoiseStreams([seed for label in classes for seed in seeds[label]]).draw(prior.shape)
    start = noise.view(1, 1, len(classes), n, 2).expand(1, ways, len(classes), n, 2)
    x, x0 = torch.cat([start, stacked("x")]), stacked("x0")
    schedule = prior.schedule.respaced(STEPS)
    levels = list(reversed(range(STEPS)))
    alpha_bar = _column([schedule.alpha_bars[k] for k in levels])
    score = (alpha_bar.sqrt() * x0 - x[:-1]) / (1 - alpha_bar)

    on_x, on_x0, sigma = (_column(part) for part in zip(*(schedule.posterior(k) for k in levels)))
    before_noise = on_x * x[:-1] + on_x0 * x0
    drawn_noise = x[1:, :1] - before_noise[:, :1]  # nothing guides the first way: what it moved by besides is noise
    x_prev = before_noise + drawn_noise
    prototype_force, contextual_force = _forces(estimator, x_prev, eta * sigma**2, beta, min(arrows, n))
    return Play(
        tuple(step.t for step in steps),
        x,
        score,
        1 - alpha_bar.flatten(),
        prototype_force,
        contextual_force,
        stacked("prototype"),
        stacked("contextual"),
    )


def _column(values: Sequence[float]) -> Tensor:
    return torch.tensor([float(value) for value in values]).view(-1, 1, 1, 1, 1)


def _forces(
    estimator: VariationalEstimator, x_prev: Tensor, eta: Tensor, beta: float, arrows: int
) -> tuple[Tensor, Tensor]:
    """η_t∇log P and η_tβ∇KL on the first `arrows` of the n at x' (S, W, K, n, 2), of all steps at once.

    The first way has neither, the second no β.
    """
    prototype, contextual = torch.zeros_like(x_prev[:, :, :, :arrows]), torch.zeros_like(x_prev[:, :, :, :arrows])
    guided, together = x_prev[:, 1:, :, :arrows], x_prev[:, 2:]
    with torch.no_grad():  # eq. 30: of the particles of a class made together
        q = estimator(together.reshape(-1, 2))[1].view(*together.shape[:-1], -1).mean(dim=3, keepdim=True)
    labels = torch.arange(x_prev.shape[2]).view(1, 1, -1, 1, 1).expand(*guided.shape[:-1], 1)
    with torch.enable_grad():
        x = guided.clone().requires_grad_()
        log_probs = estimator(x.view(-1, 2))[0].view(*guided.shape[:-1], -1)
        (prototype[:, 1:],) = torch.autograd.grad(log_probs.gather(4, labels).sum(), x)
        x = guided[:, 1:].clone().requires_grad_()
        p = estimator(x.view(-1, 2))[1].view(*x.shape[:-1], -1)
        (contextual[:, 2:],) = torch.autograd.grad(contextual_kl(p, q.expand_as(p)).sum(), x)
    return eta * prototype, eta * beta * contextual


@dataclass(frozen=True)
class Outcome:
    """Where particles ended, over all classes.

    `modes` is how many modes have a particle of their class within NEAR standard deviations; `distance` the mean
    distance to the nearest mode of the class in its standard deviations (REAL_DISTANCE for the data); `accuracy` the
    share that the true posterior gives their class. `prototype` and `contextual` are the estimator's Î and Ĥ.
    """

    modes: float
    distance: float
    accuracy: float
    prototype: float
    contextual: float


def outcome(scene: Scene, prior: MixturePrior, x: Tensor, prototype: Tensor, contextual: Tensor) -> Outcome:
    """Judge the final positions x (K, n, 2) and their terms (K, n)."""
    reached, distances, right = 0, [], []
    for label in range(scene.classes):
        modes = scene.of_class(label)
        means = torch.tensor([[mode.x, mode.y] for mode in modes], dtype=x.dtype)
        stds = torch.tensor([mode.std for mode in modes], dtype=x.dtype)
        nearest = (torch.cdist(x[label], means) / stds).min(1)
        reached += len(set(nearest.indices[nearest.values <= NEAR].tolist()))
        distances.append(nearest.values)
        right.append(prior.class_posterior(x[label]).argmax(1) == label)
    return Outcome(
        float(reached),
        float(torch.cat(distances).mean()),
        float(torch.cat(right).float().mean()),
        float(prototype.mean()),
        float(contextual.mean()),
    )


def outcomes(scene: Scene, prior: MixturePrior, played: Play) -> dict[str, Outcome]:
    """The outcome of each way, by its name."""
    last = zip(COLUMNS, played.x[-1], played.prototype[-1], played.contextual[-1])
    return {way: outcome(scene, prior, x, prototype, contextual) for way, x, prototype, contextual in last}


CURVE_BETAS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


@dataclass(frozen=True)
class CurvePoint:
    """Over the seeds, at one β (None: unguided): the mean of every measure and the standard error of that mean."""

    beta: float | None
    mean: Outcome
    error: Outcome


def beta_curve(
    scene: Scene,
    prior: MixturePrior,
    estimator: VariationalEstimator,
    *,
    n: int,
    eta: float,
    betas: Sequence[float] = CURVE_BETAS,
    seeds: Sequence[int] = range(4),
) -> list[CurvePoint]:
    """What β costs and buys: unguided first, then each β, all from the same noise."""
    if len(seeds) < 2:
        raise ValueError(f"a curve needs at least two seeds for its errors, got {len(seeds)}")
    arms = [(None, guidance_of(0.0, 0.0)), *((beta, guidance_of(beta, eta)) for beta in betas)]
    classes = range(scene.classes)
    batches = [
        ClassBatch(label, image_seeds(seed, label, n), guidance)
        for _, guidance in arms
        for seed in seeds
        for label in classes
    ]
    total = len(batches) * n
    *_, last = sample_progressive(prior, estimator, batches, steps=STEPS, microbatch=total)
    states = iter(last.batches)
    points = []
    for beta, _ in arms:
        runs = [_judged(scene, prior, [next(states) for _ in classes]) for _ in seeds]
        by_measure = {name: [getattr(run, name) for run in runs] for name in Outcome.__dataclass_fields__}
        error = {name: statistics.stdev(values) / len(runs) ** 0.5 for name, values in by_measure.items()}
        mean = {name: statistics.fmean(values) for name, values in by_measure.items()}
        points.append(CurvePoint(beta, Outcome(**mean), Outcome(**error)))
    return points


def _judged(scene: Scene, prior: MixturePrior, states: list[BatchState]) -> Outcome:
    parts = (torch.stack([getattr(state, name) for state in states]) for name in ("x", "prototype", "contextual"))
    return outcome(scene, prior, *parts)
