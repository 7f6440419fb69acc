"""Schedules against guided_diffusion's own, and against Bayes' rule."""

import math

import numpy as np
import pytest
import torch
from guided_diffusion.gaussian_diffusion import GaussianDiffusion, LossType, ModelMeanType, ModelVarType
from guided_diffusion.respace import SpacedDiffusion, space_timesteps

from igds.schedule import SNR_RANGE, Schedule


def reference(schedule: Schedule) -> GaussianDiffusion:
    return GaussianDiffusion(
        betas=schedule.betas,
        model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.FIXED_SMALL,
        loss_type=LossType.MSE,
    )


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_posterior_is_guided_diffusions_q_posterior(name):
    schedule = Schedule.named(name, 200)
    generator = torch.Generator().manual_seed(0)
    x_t, x0 = torch.randn(2, 200, 5, generator=generator)
    mean, variance, _ = reference(schedule).q_posterior_mean_variance(x0, x_t, torch.arange(200))
    for k in range(200):
        on_x_t, on_x0, sigma = schedule.posterior(k)
        torch.testing.assert_close(on_x_t * x_t[k] + on_x0 * x0[k], mean[k], rtol=1e-5, atol=1e-6)
        assert sigma**2 == pytest.approx(float(variance[k, 0]), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 50, 98, 99])
def test_posterior_is_bayes_rule(k):
    schedule = Schedule.named("linear", 100)
    beta, before = schedule.betas[k], schedule.alpha_bars[k - 1]
    precision = 1 / (1 - before) + (1 - beta) / beta
    on_x_t, on_x0, sigma = schedule.posterior(k)
    assert sigma**2 == pytest.approx(1 / precision, rel=1e-9)
    assert on_x0 == pytest.approx(math.sqrt(before) / (1 - before) / precision, rel=1e-9)
    assert on_x_t == pytest.approx(math.sqrt(1 - beta) / beta / precision, rel=1e-9)


@pytest.mark.parametrize("steps", [2, 10, 100])
def test_last_step_is_the_clean_image_without_noise(steps):
    assert Schedule.named("cosine", 100).respaced(steps).posterior(0) == pytest.approx((0, 1, 0), abs=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [2, 3, 7, 50, 250, 999, 1000])
def test_respacing_is_guided_diffusions_spaced_diffusion(name, steps):
    full = Schedule.named(name, 1000)
    expected = SpacedDiffusion(
        use_timesteps=space_timesteps(1000, str(steps)),
        betas=full.betas,
        model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.FIXED_SMALL,
        loss_type=LossType.MSE,
    )
    respaced = full.respaced(steps)
    assert respaced.timesteps == expected.timestep_map
    assert len(respaced) == steps
    np.testing.assert_allclose(respaced.betas, expected.betas, rtol=1e-12)


@pytest.mark.parametrize("steps", [2, 13, 50])
def test_respacing_keeps_both_ends_and_the_noise_levels_between(steps):
    full = Schedule.named("cosine", 1000)
    respaced = full.respaced(steps)
    assert (respaced.timesteps[0], respaced.timesteps[-1]) == (0, 999)
    np.testing.assert_allclose(respaced.alpha_bars, full.alpha_bars[respaced.timesteps], rtol=1e-6)


def test_respacing_twice_still_names_the_full_schedules_timesteps():
    full = Schedule.named("linear", 1000)
    twice = full.respaced(100).respaced(10)
    assert set(twice.timesteps) < set(full.respaced(100).timesteps)
    np.testing.assert_allclose(twice.alpha_bars, full.alpha_bars[twice.timesteps], rtol=1e-6)


@pytest.mark.parametrize("steps", [2, 20, 100])
def test_log_variance_range_is_guided_diffusions_clipped_logarithms(steps):
    schedule = Schedule.named("linear", 100).respaced(steps)
    expected = reference(schedule)
    low, high = zip(*(schedule.log_variance_range(k) for k in range(steps)))
    np.testing.assert_allclose(low, expected.posterior_log_variance_clipped, rtol=1e-9)
    np.testing.assert_allclose(high, np.log(expected.betas), rtol=1e-9)


def test_scalars_leave_as_python_floats():
    schedule = Schedule.named("cosine", 10)
    scalars = *schedule.posterior(3), *schedule.log_variance_range(3), schedule.alpha_bar_before(3)
    assert {type(value) for value in scalars} == {float}


@pytest.mark.parametrize("betas", [[0.0, 0.1], [0.1, 1.0], [-0.1], [0.1, float("nan")], [[0.1, 0.2]]])
def test_betas_must_lie_between_0_and_1(betas):
    with pytest.raises(ValueError, match="betas"):
        Schedule(betas)


def test_unknown_schedule_name_is_refused():
    with pytest.raises(ValueError, match="'linear' or 'cosine', got 'quadratic'"):
        Schedule.named("quadratic", 10)


@pytest.mark.parametrize("steps", [-1, 0, 1, 101])
def test_steps_outside_the_schedule_are_refused(steps):
    with pytest.raises(ValueError, match=f"between 2 and 100 .*got {steps}"):
        Schedule.named("cosine", 100).respaced(steps)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [2, 3, 5, 20, 250, 999, 1000])
def test_levels_even_in_snr_are_different_ones_and_start_at_the_noisiest(name, steps):
    schedule = Schedule.named(name, 1000)
    timesteps = schedule.respaced(steps, spacing="snr").timesteps
    assert len(timesteps) == steps == len(set(timesteps)) and timesteps == sorted(timesteps)
    assert timesteps[-1] == 999


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [5, 10, 20, 40])
def test_levels_even_in_snr_lie_evenly_over_their_range(name, steps):
    schedule = Schedule.named(name, 1000)
    respaced = schedule.respaced(steps, spacing="snr")
    snr = [respaced.log_snr(k) for k in range(steps - 1)]
    ends = max(SNR_RANGE[0], schedule.log_snr(999)), min(SNR_RANGE[1], schedule.log_snr(0))
    assert snr[0] == pytest.approx(ends[1], abs=0.05) and snr[-1] == pytest.approx(ends[0], abs=0.05)
    assert np.diff(snr) == pytest.approx(-(ends[1] - ends[0]) / (steps - 2), rel=0.3)


@pytest.mark.parametrize("alpha_bar", [0.001, 0.5, 0.9999])
def test_log_snr_is_the_logarithm_of_signal_over_noise(alpha_bar):
    assert Schedule([1 - alpha_bar]).log_snr(0) == pytest.approx(math.log(alpha_bar**0.5 / (1 - alpha_bar) ** 0.5))
