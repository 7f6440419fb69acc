"""Information-guided diffusion sampling: algorithm 2, as a generator of its steps."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from igds.device import device_of
from igds.estimator import VariationalEstimator
from igds.information import batch_reference, contextual_kl, prototype_information
from igds.priors.base import Denoised, Prior
from igds.rng import NoiseStreams
from igds.schedule import Schedule

REFERENCES = ("batch", "class")
PLACES = ("x_prev", "x0")
VARIANCES = ("posterior", "learned")


@dataclass(frozen=True)
class Scaling:
    """What η is multiplied by at each step: σ̃_t to the power `power`, divided by rms(∇) if `is_normalised`."""

    power: int
    is_normalised: bool = False


SCALINGS = {
    "constant": Scaling(0),
    "deviation": Scaling(1),
    "variance": Scaling(2),
    "normalised": Scaling(2, is_normalised=True),
}


@dataclass(frozen=True)
class Guidance:
    """How the sampler is pulled: x ← x + η·∇[log P(y | g(f(x))) + β·KL(p ‖ Q)], eq. 29 and 31.

    `reference` is Q: the mean over the images made together ("batch", the paper's, eq. 30) or the data set's own class
    mean ("class"), with which β acts on a single image too. `at` says what is asked and moved: x'_{t-1} (the paper's)
    or x̃0. `scaling` multiplies η by 1 ("constant", the paper's), by σ̃_t ("deviation") or by σ̃_t² ("variance"), eq. 27,
    or by σ̃_t² along the gradient's direction alone ("normalised"): each image moves by η·σ̃_t² in root mean square,
    however steep the objective is where it stands and however many pixels it has.
    Guidance acts while t/T lies in `interval`. With η = 0 the information is measured and nothing is moved.
    """

    beta: float = 0.0
    eta: float = 0.0
    reference: str = "batch"
    at: str = "x_prev"
    scaling: str = "constant"
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        for name in ("beta", "eta"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0, got {value}")
        if self.reference not in REFERENCES:
            raise ValueError(f"reference must be one of {', '.join(REFERENCES)}, got {self.reference!r}")
        if self.at not in PLACES:
            raise ValueError(f"at must be one of {', '.join(PLACES)}, got {self.at!r}")
        if self.scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, got {self.scaling!r}")
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise ValueError(f"interval must be two numbers with 0 <= low < high <= 1, got {low} and {high}")


@dataclass(frozen=True)
class ClassBatch:
    """The images of one class that are made together (B_y of eq. 29): Q̂ is their mean. One seed an image."""

    label: int
    seeds: tuple[int, ...]
    guidance: Guidance


@dataclass(frozen=True)
class BatchState:
    """One class batch after a step.

    `state` is x_{t-1} and `state0` is x̃0, both (n, *state_shape); `x` and `x0` are these as images (n, *shape), which a
    latent prior decodes when they are first asked for. Per image (n,): `prototype` H(Y) + log P(y|x) and `contextual`
    KL(p ‖ Q) in nats, taken where the guidance looks and before it moves anything; `gradient_norm` of their weighted
    sum, 0 where nothing was moved.
    """

    state: Tensor
    state0: Tensor
    prototype: Tensor
    contextual: Tensor
    gradient_norm: Tensor
    decode: Callable[[Tensor], Tensor] = field(repr=False, compare=False)

    @cached_property
    def x(self) -> Tensor:
        return self.decode(self.state)

    @cached_property
    def x0(self) -> Tensor:
        return self.decode(self.state0)


@dataclass(frozen=True)
class Step:
    """Step `index` of `steps` (from 0) at timestep `t` of the full schedule; `batches` in the order they were given."""

    index: int
    steps: int
    t: int
    batches: tuple[BatchState, ...]


COLUMNS = ("unguided", "prototype", "contextual")


def paired(label: int, seeds: Sequence[int], guidance: Guidance, columns: Sequence[str] = COLUMNS) -> list[ClassBatch]:
    """The same noise three ways: unguided (η = 0), prototype (β = 0) and contextual (`guidance` as it is)."""
    ways = {"unguided": replace(guidance, eta=0.0), "prototype": replace(guidance, beta=0.0), "contextual": guidance}
    return [ClassBatch(label, tuple(seeds), ways[column]) for column in columns]


def sample_progressive(
    prior: Prior,
    estimator: VariationalEstimator | None,
    batches: Sequence[ClassBatch],
    *,
    steps: int = 250,
    solver: str = "ddpm",
    variance: str = "posterior",
    microbatch: int | None = None,
) -> Iterator[Step]:
    """Algorithm 2 on several class batches at once, an event a step; the last event's `x` are the images.

    Images with the same seed get the same initial and per-step noise, so batches with equal seeds differ by their
    guidance only. At most `microbatch` images, or else `default_microbatch`, go through a network together; Q̂ is of the
    whole class batch all the same. `variance` "learned" takes what a `learn_sigma` prior predicts for σ̃² (eq. 27). A
    latent prior's states are decoded for the estimator, so that guidance is the gradient through the decoder. Without
    an estimator nothing may be guided, and the information is NaN.

    Raises ValueError at the call, not at the first step; but for images that overflow, which shows at its step.
    """
    batches = list(batches)
    if not batches:
        raise ValueError("there is nothing to sample: give at least one class batch")
    for batch in batches:
        if not 0 <= batch.label < prior.num_classes:
            raise ValueError(f"label must be between 0 and {prior.num_classes - 1}, got {batch.label}")
        if not batch.seeds:
            raise ValueError("a class batch needs at least one seed")
        if estimator is None and batch.guidance.eta > 0:
            raise ValueError(f"guidance needs an estimator: give one, or eta 0, got {batch.guidance.eta}")
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    if variance not in VARIANCES:
        raise ValueError(f"variance must be one of {', '.join(VARIANCES)}, got {variance!r}")
    if variance == "learned" and not prior.predicts_variance:
        raise ValueError("this prior predicts no variance: use variance='posterior'")
    if microbatch is None:
        microbatch = default_microbatch(prior, estimator)
    if microbatch < 1:
        raise ValueError(f"microbatch must be at least 1, got {microbatch}")
    schedule = prior.schedule.respaced(steps, spacing=SOLVERS[solver].spacing)
    return _sample(prior, estimator, batches, schedule, SOLVERS[solver].step, variance, microbatch)


def default_microbatch(prior: Prior, estimator: VariationalEstimator | None) -> int:
    """100 images of up to 64×64 pixels; fewer where the prior draws, or the encoder sees, larger ones: 6 of 256×256."""
    side = getattr(estimator.encoder, "side", 0) if estimator else 0
    return max(1, min(100, 100 * 64**2 // max(1, side**2, math.prod(prior.shape[1:]))))


def sample(prior: Prior, estimator: VariationalEstimator, batches: Sequence[ClassBatch], **settings) -> list[Tensor]:
    """The images of `sample_progressive`, (n, *shape) for each class batch."""
    last = deque(sample_progressive(prior, estimator, batches, **settings), maxlen=1).pop()
    return [batch.x for batch in last.batches]


@torch.no_grad()
def _sample(prior, estimator, batches, schedule, solver, variance, microbatch) -> Iterator[Step]:
    device = device_of(prior) if estimator is None else estimator.class_means.device
    noise = NoiseStreams([seed for batch in batches for seed in batch.seeds])
    every = _Images.of(batches, device)
    sizes = [len(batch.seeds) for batch in batches]
    decode = partial(_decode, prior, microbatch)
    x, x0_before = noise.draw(prior.state_shape).to(device), None
    for index, k in enumerate(reversed(range(len(schedule)))):
        t = schedule.timesteps[k]
        images = every.during((t + 1) / len(prior.schedule), sigma=schedule.posterior(k)[2])
        unknown = float("nan") if estimator is None else 0.0
        terms = _Terms(*(torch.full((len(x),), unknown, device=device) for _ in range(3)))
        x0, fraction = _denoise(prior, x, t, images.y, microbatch)
        z = noise.draw(prior.state_shape).to(device) if k else torch.zeros_like(x)
        x0 = _guide(estimator, prior.decode, x0, images, images.at_x0, microbatch, terms)
        x_prev = solver(schedule, k, x, x0, x0_before, z, fraction if variance == "learned" else None)
        x0_before = x0
        x = _guide(estimator, prior.decode, x_prev, images, ~images.at_x0, microbatch, terms)
        if not x.isfinite().all():
            strongest = every.eta.max()
            remedy = f"lower η, now {strongest:g}, or β" if strongest else "the prior gives no finite numbers"
            raise ValueError(f"the images overflowed at step {index + 1} of {len(schedule)}: {remedy}")
        parts = zip(
            *(tensor.split(sizes) for tensor in (x, x0, terms.prototype, terms.contextual, terms.gradient_norm))
        )
        yield Step(index, len(schedule), t, tuple(BatchState(*part, decode) for part in parts))


@dataclass(frozen=True)
class _Images:
    """What each image (n,) of all class batches needs to know; `batches` are the rows of each.

    `power` and `is_normalised` are those of `scaling`.
    """

    y: Tensor
    beta: Tensor
    eta: Tensor
    power: Tensor
    is_normalised: Tensor
    low: Tensor
    high: Tensor
    at_x0: Tensor
    batches: list[tuple[slice, ClassBatch]]

    @classmethod
    def of(cls, batches: Sequence[ClassBatch], device: torch.device) -> "_Images":
        def column(value):
            return torch.tensor([value(batch) for batch in batches for _ in batch.seeds], device=device)

        ends = [0]
        for batch in batches:
            ends.append(ends[-1] + len(batch.seeds))
        return cls(
            column(lambda batch: batch.label),
            column(lambda batch: float(batch.guidance.beta)),
            column(lambda batch: float(batch.guidance.eta)),
            column(lambda batch: float(SCALINGS[batch.guidance.scaling].power)),
            column(lambda batch: SCALINGS[batch.guidance.scaling].is_normalised),
            column(lambda batch: batch.guidance.interval[0]),
            column(lambda batch: batch.guidance.interval[1]),
            column(lambda batch: batch.guidance.at == "x0"),
            [(slice(start, end), batch) for start, end, batch in zip(ends, ends[1:], batches)],
        )

    def during(self, progress: float, *, sigma: float) -> "_Images":
        """The same with the η of a step at t/T = `progress`, where σ̃_t is `sigma`: 0 where guidance is at rest."""
        within = (self.low <= progress) & (progress <= self.high)
        return replace(self, eta=torch.where(within, self.eta * sigma**self.power, 0.0))


@dataclass(frozen=True)
class _Terms:
    prototype: Tensor
    contextual: Tensor
    gradient_norm: Tensor


def _denoise(prior: Prior, x: Tensor, t: int, y: Tensor, microbatch: int) -> Denoised:
    parts = [prior.denoise(x_part, t, y_part) for x_part, y_part in zip(x.split(microbatch), y.split(microbatch))]
    fraction = None if parts[0].variance_fraction is None else torch.cat([part.variance_fraction for part in parts])
    return Denoised(torch.cat([part.x0 for part in parts]), fraction)


@torch.no_grad()
def _decode(prior: Prior, microbatch: int, states: Tensor) -> Tensor:
    return torch.cat([prior.decode(part) for part in states.split(microbatch)])


def _guide(
    estimator: VariationalEstimator | None,
    decode: Callable[[Tensor], Tensor],
    x: Tensor,
    images: _Images,
    here: Tensor,
    microbatch: int,
    terms: _Terms,
) -> Tensor:
    """Lines 8-13 of algorithm 2 for the images marked in `here`: fills their rows of `terms`, returns x moved.

    Each image moves along the gradient of its own term (footnote 2), so that the step does not shrink with n.
    """
    if estimator is None or not here.any():
        return x
    acts = here & (images.eta > 0)
    still, moving = (here & ~acts).nonzero()[:, 0], acts.nonzero()[:, 0]
    whole = len(moving) <= microbatch
    moved = x.clone()
    p = torch.zeros(len(x), estimator.class_means.shape[1], device=x.device)

    # Q̂ needs the p of every image of a class before any gradient: with several micro-batches they are seen twice.
    for rows in _micro(still if whole else here.nonzero()[:, 0], microbatch):
        log_probs, p[rows] = estimator(decode(x[rows]))
        terms.prototype[rows] = prototype_information(log_probs, images.y[rows], estimator.label_entropy)
    if whole and len(moving):
        with torch.enable_grad():
            x_part = x[moving].requires_grad_()
            seen = x_part, *estimator(decode(x_part))
        p[moving] = seen[2].detach()

    q = torch.zeros_like(p)
    for rows, batch in images.batches:
        q[rows] = (
            estimator.class_means[batch.label] if batch.guidance.reference == "class" else batch_reference(p[rows])
        )
    terms.contextual[still] = contextual_kl(p[still], q[still])

    for rows in _micro(moving, microbatch):
        with torch.enable_grad():
            if not whole:
                x_part = x[rows].requires_grad_()
                seen = x_part, *estimator(decode(x_part))
            x_part, log_probs, p_part = seen
            prototype = prototype_information(log_probs, images.y[rows], estimator.label_entropy)
            contextual = contextual_kl(p_part, q[rows])
            (gradient,) = torch.autograd.grad((prototype + images.beta[rows] * contextual).sum(), x_part)
        terms.prototype[rows], terms.contextual[rows] = prototype.detach(), contextual.detach()
        norm = terms.gradient_norm[rows] = gradient.flatten(1).norm(dim=1)
        rms = (norm / x[0].numel() ** 0.5).clamp(min=torch.finfo(norm.dtype).tiny)
        eta = torch.where(images.is_normalised[rows], images.eta[rows] / rms, images.eta[rows])
        moved[rows] = x[rows] + _per_image(eta, x) * gradient
    return moved


def _micro(rows: Tensor, size: int) -> Sequence[Tensor]:
    return rows.split(size) if len(rows) else ()


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


# A solver leads from x_t at level k of the schedule to level k − 1, given x̃0 there and, but for the first step, x̃0 at
# level k + 1 (`before`); z is fresh standard normal noise.


def _ddpm(
    schedule: Schedule, k: int, x: Tensor, x0: Tensor, before: Tensor | None, z: Tensor, fraction: Tensor | None
) -> Tensor:
    """Line 7 of algorithm 2; where a network's variance `fraction` is given, it replaces σ̃² of eq. 27."""
    on_x_t, on_x0, sigma = schedule.posterior(k)
    if fraction is not None and k:
        low, high = schedule.log_variance_range(k)
        sigma = torch.exp(0.5 * (low + fraction * (high - low)))
    return on_x_t * x + on_x0 * x0 + sigma * z


def _ddim(schedule, k, x, x0, before, z, fraction) -> Tensor:
    """Deterministic DDIM (Song et al. 2021, eq. 12 with σ = 0): neither noise nor variance has a part in it."""
    alpha_bar, alpha_bar_before = float(schedule.alpha_bars[k]), schedule.alpha_bar_before(k)
    noise = (x - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
    return alpha_bar_before**0.5 * x0 + (1 - alpha_bar_before) ** 0.5 * noise


def _extrapolated(schedule: Schedule, k: int, x0: Tensor, before: Tensor | None) -> Tensor:
    """x̃0 in the middle of the step from k to k − 1, taken as linear in λ = log(α/σ) through its last two values.

    The first step has no value before it, and the last step's λ is infinite: they are of first order.
    """
    if before is None or k == 0:
        return x0
    earlier, now, later = (schedule.log_snr(level) for level in (k + 1, k, k - 1))
    return x0 + 0.5 * (later - now) / (now - earlier) * (x0 - before)


def _dpmpp_2m(schedule, k, x, x0, before, z, fraction) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): the probability-flow ODE to second order in the step of λ."""
    return _ddim(schedule, k, x, _extrapolated(schedule, k, x0, before), None, z, None)


def _dpmpp_2m_sde(schedule, k, x, x0, before, z, fraction) -> Tensor:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, section 5): DDPM's random step with x̃0 to second order."""
    return _ddpm(schedule, k, x, _extrapolated(schedule, k, x0, before), None, z, fraction)


@dataclass(frozen=True)
class Solver:
    """How one step is taken, and how the levels are spaced for it (`Schedule.respaced`)."""

    step: Callable[..., Tensor]
    spacing: str


SOLVERS = {
    "dpmpp_2m_sde": Solver(_dpmpp_2m_sde, "snr"),
    "dpmpp_2m": Solver(_dpmpp_2m, "snr"),
    "ddpm": Solver(_ddpm, "time"),
    "ddim": Solver(_ddim, "time"),
}
