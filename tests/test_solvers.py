"""The multistep solvers against closed forms, a fine reference and diffusers, on the exact mixture."""

import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from igds.estimator import VariationalEstimator
from igds.priors.mixture import MixturePrior
from igds.rng import NoiseStreams, image_seeds
from igds.sampling import SOLVERS, ClassBatch, Guidance, sample_progressive
from igds.schedule import Schedule

MULTISTEP = {"dpmpp_2m": "ddim", "dpmpp_2m_sde": "ddpm"}  # and the first-order solver that each refines
SEEDS = image_seeds(0, 1, 5)


def evenly_in_snr(steps: int, low: float = -2.0, high: float = 2.0) -> Schedule:
    """`steps` + 1 levels, evenly spaced in λ = log(√ᾱ / √(1−ᾱ))."""
    alpha_bars = 1 / (1 + np.exp(-2 * np.linspace(high, low, steps + 1)))
    return Schedule(1 - alpha_bars / np.append(1.0, alpha_bars[:-1]))


def gaussian(schedule: Schedule) -> MixturePrior:
    mean, std = torch.tensor([[[0.7, -0.4]]]), torch.tensor([[0.5]])
    return MixturePrior(mean.double(), std.double(), schedule=schedule)


def modes(schedule: Schedule, dtype=torch.float64) -> MixturePrior:
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(2, 4, 2, generator=generator).to(dtype)
    return MixturePrior(means, torch.full((2, 4), 0.3, dtype=dtype), schedule=schedule)


def start(n: int = 40) -> torch.Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def solve(solver: str, prior: MixturePrior, x: torch.Tensor, label: int = 0) -> torch.Tensor:
    """x at the noisiest level led to level 0, which is still noisy."""
    y, before = torch.full((len(x),), label), None
    for k in reversed(range(1, len(prior.schedule))):
        x0 = prior.denoise(x, k, y).x0
        x, before = SOLVERS[solver].step(prior.schedule, k, x, x0, before, torch.zeros_like(x), None), x0
    return x


def slopes(errors: list[float]) -> list[float]:
    return [math.log2(one / half) for one, half in zip(errors, errors[1:])]


def exact(prior: MixturePrior, x: torch.Tensor) -> torch.Tensor:
    """The flow keeps (x_t − √ᾱ·m)/√(ᾱs² + 1 − ᾱ) of one Gaussian."""
    mean, std = torch.tensor([0.7, -0.4], dtype=torch.float64), 0.5
    (noisy, clean) = ((a**0.5 * mean, (a * std**2 + 1 - a) ** 0.5) for a in prior.schedule.alpha_bars[[-1, 0]])
    return clean[0] + clean[1] * (x - noisy[0]) / noisy[1]


@pytest.mark.parametrize("solver, order", [("ddim", 1), ("dpmpp_2m", 2)])
def test_the_error_on_a_gaussian_falls_with_the_solvers_order(solver, order):
    errors = []
    for steps in (20, 40, 80, 160):
        prior = gaussian(evenly_in_snr(steps))
        errors.append(float((solve(solver, prior, start()) - exact(prior, start())).abs().max()))
    assert slopes(errors) == pytest.approx([order] * 3, abs=0.3)


def runge_kutta(prior: MixturePrior, x: torch.Tensor, label: int) -> torch.Tensor:
    """The flow d(x/σ)/dλ = e^λ·x̃0(x) to fourth order, a step over two levels of a schedule even in λ."""
    y, schedule = torch.full((len(x),), label), prior.schedule
    h = schedule.log_snr(0) - schedule.log_snr(2)

    def slope(z, k):
        sigma = (1 - schedule.alpha_bars[k]) ** 0.5
        return math.exp(schedule.log_snr(k)) * prior.denoise(sigma * z, k, y).x0

    z = x / (1 - schedule.alpha_bars[-1]) ** 0.5
    for k in range(len(schedule) - 1, 0, -2):
        one = slope(z, k)
        two = slope(z + h / 2 * one, k - 1)
        three = slope(z + h / 2 * two, k - 1)
        z = z + h / 6 * (one + 2 * two + 2 * three + slope(z + h * three, k - 2))
    return z * (1 - schedule.alpha_bars[0]) ** 0.5


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("solver, order", [("ddim", 1), ("dpmpp_2m", 2)])
def test_the_error_on_a_mixture_falls_with_the_solvers_order(solver, order, label):
    reference = runge_kutta(modes(evenly_in_snr(800)), start(), label)
    errors = [
        float((solve(solver, modes(evenly_in_snr(steps)), start(), label) - reference).norm())
        for steps in (80, 160, 320)
    ]
    assert slopes(errors) == pytest.approx([order] * 2, abs=0.3)


def test_few_steps_of_second_order_are_better_than_as_many_of_first():
    reference = runge_kutta(modes(evenly_in_snr(800)), start(), 0)
    first, second = (
        float((solve(solver, modes(evenly_in_snr(15)), start(), 0) - reference).norm())
        for solver in ("ddim", "dpmpp_2m")
    )
    assert second < first / 2


@pytest.mark.parametrize("spread", [(0.5, 2.0), (1.0, 1.0)])
@pytest.mark.parametrize("solver", MULTISTEP)
def test_x0_that_is_linear_in_snr_is_extrapolated_to_the_middle_of_the_step(solver, spread):
    snr = np.array([1.0, 1.0 - spread[0], 1.0 - spread[0] - spread[1]])
    alpha_bars = 1 / (1 + np.exp(-2 * snr))
    schedule = Schedule(1 - alpha_bars / np.append(1.0, alpha_bars[:-1]))
    x, z = start(4), start(4).flip(0)
    slope, at_0 = start(4).sin(), start(4).cos()
    x0, before, middle = (at_0 + slope * level for level in (snr[1], snr[2], (snr[0] + snr[1]) / 2))
    stepped = SOLVERS[solver].step(schedule, 1, x, x0, before, z, None)
    torch.testing.assert_close(stepped, SOLVERS[MULTISTEP[solver]].step(schedule, 1, x, middle, None, z, None))


@pytest.mark.parametrize("solver", MULTISTEP)
def test_first_and_last_step_are_of_first_order(solver):
    schedule = Schedule.named("cosine", 1000).respaced(10, spacing="snr")
    x, x0, before, z = (start(4) * factor for factor in (1.0, 0.3, -0.7, 2.0))
    for k, previous in ((9, None), (0, before)):
        refined = SOLVERS[solver].step(schedule, k, x, x0, previous, z, None)
        assert torch.equal(refined, SOLVERS[MULTISTEP[solver]].step(schedule, k, x, x0, None, z, None))


@pytest.mark.parametrize("k", range(6))
def test_what_is_known_exactly_keeps_its_noise_on_the_way_to_the_clean_image(k):
    schedule = Schedule.named("cosine", 1000).respaced(6, spacing="snr")
    clean, noise = start(4), start(4).flip(0)
    alpha_bar, before = schedule.alpha_bars[k], schedule.alpha_bar_before(k)
    x = alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise
    stepped = SOLVERS["dpmpp_2m"].step(schedule, k, x, clean, clean if k < 5 else None, noise, None)
    torch.testing.assert_close(stepped, before**0.5 * clean + (1 - before) ** 0.5 * noise)


@pytest.mark.parametrize("solver", MULTISTEP)
def test_the_last_step_ends_at_x0(solver):
    schedule = Schedule.named("linear", 100)
    x, x0 = start(4), start(4).flip(0)
    torch.testing.assert_close(SOLVERS[solver].step(schedule, 0, x, x0, x, torch.zeros_like(x), None), x0)


def any_estimator() -> VariationalEstimator:
    torch.manual_seed(0)
    return VariationalEstimator(torch.nn.Linear(2, 4), 2, features=4, tau=1.0)


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("solver, algorithm", [("dpmpp_2m", "dpmsolver++"), ("dpmpp_2m_sde", "sde-dpmsolver++")])
def test_every_step_is_that_of_diffusers(solver, algorithm, name, steps):
    prior = modes(Schedule.named(name, 1000), dtype=torch.float32)
    schedule = prior.schedule.respaced(steps, spacing=SOLVERS[solver].spacing)
    scheduler = DPMSolverMultistepScheduler(
        trained_betas=prior.schedule.betas.tolist(),
        algorithm_type=algorithm,
        solver_order=2,
        solver_type="midpoint",
        prediction_type="sample",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    scheduler.timesteps = torch.tensor(schedule.timesteps[::-1])
    noise_to_signal = np.sqrt((1 - schedule.alpha_bars[::-1]) / schedule.alpha_bars[::-1])
    scheduler.sigmas = torch.tensor([*noise_to_signal, 0.0], dtype=torch.float32)
    noise = NoiseStreams(SEEDS)
    theirs, y = noise.draw((2,)), torch.full((5,), 1)
    ours = sample_progressive(prior, any_estimator(), [ClassBatch(1, SEEDS, Guidance())], steps=steps, solver=solver)
    for step, t in zip(ours, scheduler.timesteps, strict=True):
        assert step.t == int(t)
        z = noise.draw((2,)) if step.index < steps - 1 else torch.zeros(5, 2)
        x0 = prior.denoise(theirs, int(t), y).x0
        theirs = scheduler.step(x0, t, theirs, variance_noise=z).prev_sample
        torch.testing.assert_close(step.batches[0].x, theirs, rtol=0, atol=1e-4)


def test_the_ode_solver_draws_on_no_noise_and_the_sde_solver_does():
    prior = modes(Schedule.named("cosine", 1000))
    schedule = prior.schedule.respaced(8, spacing="snr")
    x, x0, before = start(4), start(4) / 2, start(4) / 3
    for solver, moves in (("dpmpp_2m", False), ("dpmpp_2m_sde", True)):
        one, other = (SOLVERS[solver].step(schedule, 4, x, x0, before, z, None) for z in (x, -x))
        assert torch.equal(one, other) != moves


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_spaces_its_levels_as_it_says(solver):
    prior = modes(Schedule.named("cosine", 1000), dtype=torch.float32)
    batches = [ClassBatch(0, SEEDS[:1], Guidance())]
    visited = [step.t for step in sample_progressive(prior, any_estimator(), batches, steps=12, solver=solver)]
    assert visited == prior.schedule.respaced(12, spacing=SOLVERS[solver].spacing).timesteps[::-1]
