"""The exact mixture against autograd, quadrature, closed forms, and as a prior of the sampler."""

import math

import pytest
import torch
from torch import nn

from igds.estimator import VariationalEstimator
from igds.priors.mixture import MixturePrior
from igds.rng import NoiseStreams, image_seeds
from igds.sampling import SOLVERS, ClassBatch, Guidance, sample
from igds.schedule import Schedule


def random_mixture(shape=(2,), classes=3, modes=4, seed=0, dtype=torch.float64) -> MixturePrior:
    generator = torch.Generator().manual_seed(seed)
    return MixturePrior(
        2 * torch.randn(classes, modes, *shape, generator=generator, dtype=dtype),
        0.2 + torch.rand(classes, modes, generator=generator, dtype=dtype),
        weights=torch.rand(classes, modes, generator=generator, dtype=dtype),
    )


def any_estimator(dimension: int, classes: int) -> VariationalEstimator:
    torch.manual_seed(0)
    return VariationalEstimator(nn.Linear(dimension, 4), classes, features=4, tau=1.0)


@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (1, 3, 3)])
@pytest.mark.parametrize("t", [0, 10, 500, 900, 999])
def test_score_is_the_gradient_of_the_log_density(shape, t):
    prior = random_mixture(shape)
    y = torch.tensor([0, 1, 2, 0, 1])
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_density(x, y, t).sum(), x)
    torch.testing.assert_close(prior.score(x.detach(), t, y), gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [(1,), (4,), (2, 2, 2)])
@pytest.mark.parametrize("t", [5, 400, 990])
def test_denoise_is_tweedies_formula(shape, t):
    prior = random_mixture(shape, seed=3)
    y = torch.tensor([2, 0, 1])
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_density(x, y, t).sum(), x)
    alpha_bar = prior.schedule.alpha_bars[t]
    expected = (x.detach() + (1 - alpha_bar) * gradient) / alpha_bar**0.5
    torch.testing.assert_close(prior.denoise(x.detach(), t, y).x0, expected, rtol=1e-6, atol=1e-8)


def test_denoise_is_the_posterior_mean_by_quadrature():
    prior = random_mixture((1,))
    t, x_t = 600, 0.7
    alpha_bar = prior.schedule.alpha_bars[t]
    x0 = torch.linspace(-15, 15, 30_001, dtype=torch.float64)[:, None]
    label = torch.tensor([1])
    log_joint = prior.log_density(x0, label.expand(len(x0))) - (x_t - alpha_bar**0.5 * x0[:, 0]) ** 2 / (
        2 * (1 - alpha_bar)
    )
    expected = float((torch.softmax(log_joint, 0) * x0[:, 0]).sum())
    assert float(prior.denoise(torch.tensor([[x_t]], dtype=torch.float64), t, label).x0) == pytest.approx(expected)


@pytest.mark.parametrize("t", [None, 0, 300, 999])
def test_density_integrates_to_one(t):
    prior = random_mixture((1,))
    x = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    density = prior.log_density(x[:, None], torch.zeros(len(x), dtype=torch.long), t).exp()
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=1e-6)


def test_a_mode_of_weight_zero_is_as_if_absent():
    means, stds = torch.tensor([[[0.0], [5.0]]]), torch.ones(1, 2)
    with_it = MixturePrior(means, stds, weights=torch.tensor([[1.0, 0.0]]))
    without = MixturePrior(means[:, :1], stds[:, :1])
    x, y = torch.linspace(-8, 8, 9)[:, None], torch.zeros(9, dtype=torch.long)
    torch.testing.assert_close(with_it.denoise(x, 500, y).x0, without.denoise(x, 500, y).x0)
    torch.testing.assert_close(with_it.log_density(x, y), without.log_density(x, y))


@pytest.mark.parametrize("dimension", [1, 2, 5, 20])
@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
def test_entropy_of_one_gaussian_is_the_closed_form(dimension, std):
    prior = MixturePrior(torch.zeros(2, 1, dimension), torch.full((2, 1), std))
    information = prior.information(samples=20_000)
    expected = dimension / 2 * math.log(2 * math.pi * math.e * std**2)
    assert abs(information.contextual - expected) < 4 * information.contextual_error
    assert information.contextual_error == pytest.approx((dimension / 2 / 20_000) ** 0.5, rel=0.1)


def test_information_of_two_overlapping_gaussians_is_the_integral():
    prior = MixturePrior(torch.tensor([[[-1.0]], [[1.0]]]), torch.ones(2, 1))
    x = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    density = torch.exp(-((x - 1) ** 2) / 2) / math.sqrt(2 * math.pi)
    log_posterior = -torch.log1p(torch.exp(-2 * x))
    expected = math.log(2) + float(torch.trapezoid(density * log_posterior, x))
    information = prior.information(samples=50_000)
    assert abs(information.prototype - expected) < 4 * information.prototype_error
    assert information.prototype_error < 0.01


def test_information_of_far_classes_is_log_k():
    prior = MixturePrior(100 * torch.eye(3)[:, None], torch.ones(3, 1))
    assert prior.information(samples=2000).prototype == pytest.approx(math.log(3), abs=1e-4)


def test_information_of_identical_classes_is_zero():
    prior = MixturePrior(torch.zeros(3, 1, 2), torch.ones(3, 1))
    assert prior.information(samples=2000).prototype == pytest.approx(0, abs=1e-5)


def test_information_of_far_unequal_classes_is_the_label_entropy():
    prior = MixturePrior(100 * torch.eye(2)[:, None], torch.ones(2, 1), class_weights=torch.tensor([1.0, 3.0]))
    expected = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    information = prior.information(samples=20_000)
    assert abs(information.prototype - expected) < 4 * information.prototype_error


@pytest.mark.parametrize("seed", range(3))
def test_information_lies_between_0_and_log_k(seed):
    information = random_mixture(seed=seed, dtype=torch.float32).information(samples=20_000)
    assert -4 * information.prototype_error <= information.prototype <= math.log(3)


def test_class_posterior_is_bayes_rule():
    prior = random_mixture((2,))
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joint = torch.stack([prior.log_density(x, torch.full((6,), y)).exp() / 3 for y in range(3)], 1)
    torch.testing.assert_close(prior.class_posterior(x).exp(), joint / joint.sum(1, keepdim=True))


def test_clean_samples_have_the_mixtures_moments():
    prior = random_mixture((2,), dtype=torch.float32)
    n = 40_000
    y = torch.ones(n, dtype=torch.long)
    x = prior.sample(y, torch.Generator().manual_seed(0)).double()
    weights = prior._log_weights[1].exp().double()
    means, stds = prior._means[1].double(), prior._stds[1].double()
    mean = (weights[:, None] * means).sum(0)
    variance = (weights[:, None] * (stds[:, None] ** 2 + means**2)).sum(0) - mean**2
    assert ((x.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all()
    fourth = (x - mean).pow(4).mean(0)
    assert ((x.var(0) - variance).abs() < 4 * ((fourth - variance**2) / n).sqrt()).all()


def test_labels_have_the_classes_probabilities():
    prior = MixturePrior(torch.zeros(3, 1, 1), torch.ones(3, 1), class_weights=torch.tensor([1.0, 1.0, 2.0]))
    shares = torch.bincount(prior.sample_labels(20_000, torch.Generator().manual_seed(0)), minlength=3) / 20_000
    assert shares.tolist() == pytest.approx([0.25, 0.25, 0.5], abs=4 * 0.5 / 20_000**0.5)


def unguided(prior: MixturePrior, label: int, n: int, **settings) -> torch.Tensor:
    estimator = any_estimator(prior._means.shape[2], prior.num_classes)
    batch = ClassBatch(label, image_seeds(0, label, n), Guidance())
    return sample(prior, estimator, [batch], microbatch=n, **settings)[0]


def law_of_ddpm(prior: MixturePrior, mean: float, std: float, steps: int) -> tuple[float, float]:
    """Mean and standard deviation after all steps on one Gaussian: each step is affine in x plus Gaussian noise."""
    schedule = prior.schedule.respaced(steps)
    expected, variance = 0.0, 1.0
    for k in reversed(range(steps)):
        on_x, on_x0, sigma = schedule.posterior(k)
        alpha_bar = schedule.alpha_bars[k]
        gain = alpha_bar**0.5 * std**2 / (alpha_bar * std**2 + 1 - alpha_bar)
        slope = on_x + on_x0 * gain
        expected = slope * expected + on_x0 * (1 - gain * alpha_bar**0.5) * mean
        variance = slope**2 * variance + sigma**2
    return expected, variance**0.5


@pytest.mark.parametrize("mean, std, steps", [(0.0, 1.0, 50), (0.8, 0.3, 20), (-3.0, 2.0, 50)])
def test_ddpm_on_a_gaussian_has_the_law_that_its_steps_compose_to(mean, std, steps):
    prior, n = MixturePrior(torch.tensor([[[mean]]]), torch.tensor([[std]])), 1000
    expected_mean, expected_std = law_of_ddpm(prior, mean, std, steps)
    x = unguided(prior, 0, n, steps=steps)[:, 0].double()
    assert abs(float(x.mean()) - expected_mean) < 4 * expected_std / n**0.5
    assert abs(float(x.std()) / expected_std - 1) < 4 / (2 * n) ** 0.5


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.8, 0.3), (-3.0, 2.0)])
def test_ddpm_on_a_gaussian_has_its_mean_and_std_in_the_limit_of_many_steps(mean, std):
    prior = MixturePrior(torch.tensor([[[mean]]]), torch.tensor([[std]]))
    assert law_of_ddpm(prior, mean, std, 1000) == pytest.approx((mean, std), rel=0.01, abs=1e-3)
    errors = [abs(law_of_ddpm(prior, mean, std, steps)[1] - std) for steps in (20, 50, 250, 1000)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("solver, steps", [("ddim", 250), ("dpmpp_2m", 40)])
def test_a_solver_without_noise_carries_the_initial_noise_of_a_gaussian_to_its_quantile(solver, steps):
    mean, std, n = 0.5, 0.4, 50
    prior = MixturePrior(torch.tensor([[[mean]]]), torch.tensor([[std]]))
    x = unguided(prior, 0, n, steps=steps, solver=solver)
    initial = NoiseStreams(image_seeds(0, 0, n)).draw((1,))
    torch.testing.assert_close(x, mean + std * initial, rtol=0, atol=0.02)


@pytest.mark.parametrize("solver", SOLVERS)
def test_sampling_reaches_the_modes_in_their_shares(solver):
    means = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[-2.0, 0.0], [2.0, 1.0]]])
    prior = MixturePrior(means, torch.full((2, 2), 0.2), weights=torch.tensor([[1.0, 1.0], [1.0, 3.0]]))
    n = 800
    x = unguided(prior, 1, n, steps=60, solver=solver)
    right = x[:, 0] > 0
    assert abs(float(right.float().mean()) - 0.75) < 4 * (0.75 * 0.25 / n) ** 0.5
    for rows, mean in ((~right, means[1, 0]), (right, means[1, 1])):
        standard_error = 0.2 / int(rows.sum()) ** 0.5
        assert ((x[rows].mean(0) - mean).abs() < 4 * standard_error + 0.01).all()
        assert x[rows].std(0).tolist() == pytest.approx([0.2, 0.2], rel=0.3)  # few DDPM steps lose variance


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 4, 4)])
def test_sampling_works_in_any_dimension(shape):
    means = torch.full((1, 1, *shape), 0.5)
    prior = MixturePrior(means, torch.full((1, 1), 0.01), schedule=Schedule.named("linear", 1000))
    estimator = VariationalEstimator(
        nn.Sequential(nn.Flatten(), nn.Linear(means[0, 0].numel(), 4)), 1, features=4, tau=1.0
    )
    (x,) = sample(prior, estimator, [ClassBatch(0, (1, 2), Guidance())], steps=20)
    assert x.shape == (2, *shape)
    torch.testing.assert_close(x, means[0].expand(2, *shape), rtol=0, atol=0.1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"stds": torch.ones(3, 2)}, "must be"),
        ({"weights": torch.ones(2)}, "must be"),
        ({"class_weights": torch.ones(3)}, "must be"),
        ({"stds": torch.zeros(2, 3)}, "positive"),
        ({"stds": torch.full((2, 3), float("nan"))}, "positive"),
        ({"weights": torch.tensor([[1.0, 1, -1], [1, 1, 1]])}, "negative"),
        ({"weights": torch.tensor([[0.0, 0, 0], [1, 1, 1]])}, "positive"),
        ({"class_weights": torch.tensor([1.0, -1])}, "negative"),
        ({"class_weights": torch.zeros(2)}, "positive"),
    ],
)
def test_impossible_mixtures_are_refused(change, message):
    parts = {"stds": torch.ones(2, 3), **change}
    with pytest.raises(ValueError, match=message):
        MixturePrior(torch.zeros(2, 3, 2), parts.pop("stds"), **parts)
