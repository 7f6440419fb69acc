"""The unguided sampler against guided_diffusion's own loops, and what holds for every run."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from guided_diffusion import gaussian_diffusion
from guided_diffusion.gaussian_diffusion import LossType, ModelMeanType, ModelVarType
from guided_diffusion.respace import SpacedDiffusion, space_timesteps

from igds.encoders import Encoder, smooth
from igds.estimator import VariationalEstimator
from igds.priors.unet import UNetPrior
from igds.rng import NoiseStreams, image_seeds
from igds.sampling import COLUMNS, SOLVERS, ClassBatch, Guidance, paired, sample, sample_progressive

SEEDS = image_seeds(0, 1, 3)
GUIDED = Guidance(beta=2.0, eta=0.1)


@pytest.fixture
def prior(tiny_bundle):
    return tiny_bundle.prior


@pytest.fixture(scope="module")
def estimator(tiny_bundle):
    """Fresh weights, since f must tell noise apart for a guidance that can be seen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        estimator = VariationalEstimator(Encoder(tiny_bundle.estimator.encoder.config), 3, features=16, tau=0.07)
    smooth(estimator)
    generator = torch.Generator().manual_seed(0)
    estimator.class_means.copy_(torch.randn(3, 16, generator=generator).softmax(1))
    estimator.class_frequencies.copy_(torch.tensor([0.2, 0.3, 0.5]))
    return estimator.requires_grad_(False)


class AsEpsilon(torch.nn.Module):
    """A v-predicting network asked for ε = √ᾱ·v + √(1−ᾱ)·x_t, which is what guided_diffusion wants."""

    def __init__(self, prior: UNetPrior):
        super().__init__()
        self.prior = prior

    def forward(self, x, t, y):
        alpha_bar = torch.tensor(self.prior.schedule.alpha_bars)[t][:, None, None, None]
        return (alpha_bar.sqrt() * self.prior(x, t, y) + (1 - alpha_bar).sqrt() * x).float()


def their_steps(prior, solver, y, seeds, steps, monkeypatch) -> list[dict]:
    """guided_diffusion's sampling loop with our noise streams in place of its randn_like."""
    learned = prior.config.learn_sigma
    diffusion = SpacedDiffusion(
        use_timesteps=space_timesteps(len(prior.schedule), str(steps)),
        betas=prior.schedule.betas,
        model_mean_type=ModelMeanType.EPSILON,
        model_var_type=ModelVarType.LEARNED_RANGE if learned else ModelVarType.FIXED_SMALL,
        loss_type=LossType.MSE,
    )
    noise = NoiseStreams(seeds)
    initial = noise.draw(prior.shape)
    monkeypatch.setattr(gaussian_diffusion.th, "randn_like", lambda x: noise.draw(x.shape[1:]))
    loop = diffusion.p_sample_loop_progressive if solver == "ddpm" else diffusion.ddim_sample_loop_progressive
    model = AsEpsilon(prior) if prior.config.prediction == "v" else prior
    return list(loop(model, tuple(initial.shape), noise=initial, model_kwargs={"y": y}, device="cpu"))


@pytest.mark.parametrize("steps", [2, 12])
@pytest.mark.parametrize(
    "solver, change",
    [
        ("ddpm", {"prediction": "epsilon", "noise_schedule": "linear"}),
        ("ddpm", {"prediction": "epsilon", "noise_schedule": "cosine"}),
        ("ddpm", {"prediction": "epsilon", "noise_schedule": "linear", "learn_sigma": True}),
        ("ddpm", {"prediction": "v", "noise_schedule": "linear"}),
        ("ddim", {"prediction": "epsilon", "noise_schedule": "linear"}),
        ("ddim", {"prediction": "v", "noise_schedule": "linear"}),
    ],
)
def test_unguided_agrees_with_guided_diffusions_own_loop(
    tiny_bundle, estimator, randomise, monkeypatch, steps, solver, change
):
    prior = randomise(UNetPrior(dataclasses.replace(tiny_bundle.prior.config, **change)), seed=5)
    theirs = their_steps(prior, solver, torch.full((3,), 1), SEEDS, steps, monkeypatch)
    ours = list(
        sample_progressive(
            prior,
            estimator,
            [ClassBatch(1, SEEDS, Guidance())],
            steps=steps,
            solver=solver,
            variance="learned" if prior.config.learn_sigma else "posterior",
        )
    )
    assert len(ours) == len(theirs) == steps
    for step, expected in zip(ours, theirs):
        torch.testing.assert_close(step.batches[0].x, expected["sample"], rtol=1e-4, atol=1e-4)
        rounding = 1e-6 / prior.schedule.alpha_bars[step.t] ** 0.5  # of ε, which guided_diffusion divides by √ᾱ
        torch.testing.assert_close(step.batches[0].x0, expected["pred_xstart"], rtol=0, atol=1e-4 + rounding)


def test_a_learned_variance_is_ignored_unless_it_is_asked_for(tiny_bundle, estimator, randomise):
    config = dataclasses.replace(tiny_bundle.prior.config, learn_sigma=True)
    prior = randomise(UNetPrior(config), seed=5)
    batch = [ClassBatch(0, SEEDS, Guidance())]
    posterior, learned = (sample(prior, estimator, batch, steps=5, variance=v)[0] for v in ("posterior", "learned"))
    assert not torch.allclose(posterior, learned, atol=1e-3)
    first = next(sample_progressive(prior, estimator, batch, steps=5)).batches[0]
    schedule = prior.schedule.respaced(5)
    on_x, on_x0, sigma = schedule.posterior(4)
    noise = NoiseStreams(SEEDS)
    x, z = noise.draw(prior.shape), noise.draw(prior.shape)
    torch.testing.assert_close(first.x, on_x * x + on_x0 * first.x0 + sigma * z)


def test_last_images_are_the_last_x0_of_an_unguided_run(prior, estimator):
    *_, last = sample_progressive(prior, estimator, [ClassBatch(0, SEEDS, Guidance())], steps=4)
    torch.testing.assert_close(last.batches[0].x, last.batches[0].x0)
    assert last.t == 0 and (last.index, last.steps) == (3, 4)


def test_steps_count_up_while_t_counts_down_the_respaced_timesteps(prior, estimator):
    steps = list(sample_progressive(prior, estimator, [ClassBatch(0, SEEDS, Guidance())], steps=7))
    assert [step.index for step in steps] == list(range(7))
    assert [step.t for step in steps] == prior.schedule.respaced(7).timesteps[::-1]


@pytest.mark.parametrize("at", ["x_prev", "x0"])
@pytest.mark.parametrize("reference", ["batch", "class"])
def test_microbatches_of_any_size_give_what_the_uncut_batch_gives(prior, estimator, at, reference):
    guidance = Guidance(beta=5.0, eta=0.3, reference=reference, at=at)
    batches = [
        ClassBatch(0, image_seeds(0, 0, 5), guidance),
        ClassBatch(2, image_seeds(0, 2, 3), guidance),
        ClassBatch(2, image_seeds(0, 2, 3), Guidance()),
    ]
    whole, *cuts = (
        list(sample_progressive(prior, estimator, batches, steps=3, microbatch=size)) for size in (10_000, 1, 2, 3, 8)
    )
    for cut in cuts:
        for one, other in zip(whole, cut, strict=True):
            for a, b in zip(one.batches, other.batches, strict=True):
                for field in (field for field in dataclasses.fields(a) if field.compare):
                    torch.testing.assert_close(getattr(a, field.name), getattr(b, field.name), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("at", ["x_prev", "x0"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_estimates_stay_within_their_bounds_at_every_step(prior, estimator, at, n):
    guidance = Guidance(beta=10.0, eta=0.5, at=at)
    d = estimator.class_means.shape[1]
    for step in sample_progressive(prior, estimator, paired(1, image_seeds(0, 1, n), guidance), steps=5):
        for batch in step.batches:
            assert (batch.contextual >= -1e-5).all()
            assert float(batch.contextual.mean()) <= min(math.log(n), math.log(d)) + 1e-5
            assert (batch.prototype <= estimator.label_entropy + 1e-5).all()
            assert estimator.label_entropy <= math.log(3) + 1e-6
            assert (batch.gradient_norm >= 0).all()


def test_the_estimates_are_those_of_the_estimator_where_the_guidance_looks(prior, estimator):
    for at, place in (("x_prev", "x"), ("x0", "x0")):
        batches = [ClassBatch(1, SEEDS, Guidance(at=at))]
        for step in sample_progressive(prior, estimator, batches, steps=3):
            (batch,) = step.batches
            with torch.no_grad():
                log_probs, p = estimator(getattr(batch, place))
            torch.testing.assert_close(batch.prototype, estimator.label_entropy + log_probs[:, 1])
            q = p.mean(0)
            torch.testing.assert_close(batch.contextual, (p * (p / q).log()).sum(1), rtol=1e-4, atol=1e-6)


def test_paired_columns_are_equal_where_nothing_guides(prior, estimator):
    for step in sample_progressive(prior, estimator, paired(1, SEEDS, Guidance(beta=0, eta=0)), steps=4):
        first, *others = step.batches
        for other in others:
            torch.testing.assert_close(other.x, first.x, rtol=0, atol=1e-5)
            torch.testing.assert_close(other.contextual, first.contextual, rtol=0, atol=1e-5)


def test_paired_columns_differ_by_their_guidance_only():
    way = {"reference": "class", "at": "x0", "scaling": "deviation", "interval": (0.1, 0.9)}
    batches = paired(2, [4, 5], Guidance(beta=3, eta=0.2, **way))
    assert [batch.label for batch in batches] == [2, 2, 2]
    assert {batch.seeds for batch in batches} == {(4, 5)}
    assert [(batch.guidance.beta, batch.guidance.eta) for batch in batches] == [(3, 0), (0, 0.2), (3, 0.2)]
    assert all(getattr(batch.guidance, name) == value for batch in batches for name, value in way.items())
    assert paired(2, [4, 5], GUIDED, ["contextual"]) == [ClassBatch(2, (4, 5), GUIDED)]
    assert len(COLUMNS) == len(batches)


def test_a_column_is_the_same_alone_as_among_its_pairs(prior, estimator):
    together = sample(prior, estimator, paired(1, SEEDS, GUIDED), steps=4)
    for column, expected in zip(COLUMNS, together, strict=True):
        alone = sample(prior, estimator, paired(1, SEEDS, GUIDED, [column]), steps=4)[0]
        torch.testing.assert_close(alone, expected, rtol=0, atol=1e-4)


def test_another_class_batch_changes_nothing(prior, estimator):
    alone = sample(prior, estimator, [ClassBatch(1, SEEDS, GUIDED)], steps=4)[0]
    other = ClassBatch(0, image_seeds(0, 0, 4), Guidance(beta=1.0, eta=0.5, at="x0"))
    for batches in ([ClassBatch(1, SEEDS, GUIDED), other], [other, ClassBatch(1, SEEDS, GUIDED)]):
        together = dict(zip((batch.label for batch in batches), sample(prior, estimator, batches, steps=4)))[1]
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(eta=0.3), Guidance(beta=5, eta=0.3, reference="class")])
def test_an_image_does_not_depend_on_n_where_the_batch_is_no_reference(prior, estimator, guidance):
    few, many = (sample(prior, estimator, [ClassBatch(1, image_seeds(0, 1, n), guidance)], steps=4)[0] for n in (2, 6))
    torch.testing.assert_close(few, many[:2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("at", ["x_prev", "x0"])
def test_images_that_overflow_are_told_at_their_step_and_not_passed_on(prior, estimator, at):
    guidance = Guidance(beta=1.0, eta=1e38, at=at)
    seen = []
    with pytest.raises(ValueError, match=r"overflowed at step \d of 6: lower η, now 1e\+38, or β"):
        seen.extend(sample_progressive(prior, estimator, [ClassBatch(1, SEEDS, guidance)], steps=6))
    assert all(step.batches[0].x.isfinite().all() for step in seen)


def test_with_beta_an_image_depends_on_its_batch(prior, estimator):
    guidance = Guidance(beta=50, eta=1.0)
    few, many = (sample(prior, estimator, [ClassBatch(1, image_seeds(0, 1, n), guidance)], steps=4)[0] for n in (2, 6))
    assert not torch.allclose(few, many[:2], atol=1e-3)


def test_doubling_every_image_changes_nothing(prior, estimator):
    once = sample(prior, estimator, [ClassBatch(1, SEEDS, GUIDED)], steps=4)[0]
    twice = sample(prior, estimator, [ClassBatch(1, SEEDS + SEEDS, GUIDED)], steps=4)[0]
    torch.testing.assert_close(twice, torch.cat([once, once]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_same_call_twice_is_bit_identical(prior, estimator, solver):
    first, second = (sample(prior, estimator, paired(1, SEEDS, GUIDED), steps=5, solver=solver) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_ddim_keeps_the_noise_that_x0_implies(prior, estimator):
    schedule = prior.schedule.respaced(4)
    x = NoiseStreams(SEEDS).draw(prior.shape)
    batches = [ClassBatch(0, SEEDS, Guidance())]
    for step in sample_progressive(prior, estimator, batches, steps=4, solver="ddim"):
        (batch,) = step.batches
        k = 3 - step.index
        alpha_bar, before = schedule.alpha_bars[k], schedule.alpha_bar_before(k)
        noise = (x - alpha_bar**0.5 * batch.x0) / (1 - alpha_bar) ** 0.5
        expected = before**0.5 * batch.x0 + (1 - before) ** 0.5 * noise
        torch.testing.assert_close(batch.x, expected.float(), rtol=1e-4, atol=1e-5)
        x = batch.x


def test_sampling_leaves_the_global_generator_alone(prior, estimator):
    before = torch.get_rng_state()
    sample(prior, estimator, paired(1, SEEDS, GUIDED), steps=3)
    assert torch.equal(before, torch.get_rng_state())


def test_events_carry_no_graph_and_are_not_overwritten_later(prior, estimator):
    events, copies = [], []
    for step in sample_progressive(prior, estimator, paired(1, SEEDS, GUIDED), steps=4):
        assert not any(batch.x.requires_grad or batch.prototype.requires_grad for batch in step.batches)
        events.append(step.batches[2].x)
        copies.append(step.batches[2].x.clone())
    assert all(torch.equal(event, copy) for event, copy in zip(events, copies))


@pytest.mark.parametrize("enabled", [True, False])
def test_the_consumers_grad_mode_is_left_alone_between_events_and_after_closing(prior, estimator, enabled):
    with torch.set_grad_enabled(enabled):
        steps = sample_progressive(prior, estimator, paired(1, SEEDS, GUIDED), steps=4)
        assert torch.is_grad_enabled() is enabled
        for _ in range(3):
            next(steps)
            assert torch.is_grad_enabled() is enabled
        steps.close()
        assert torch.is_grad_enabled() is enabled


def test_guidance_works_inside_a_consumers_no_grad(prior, estimator):
    outside = sample(prior, estimator, [ClassBatch(1, SEEDS, GUIDED)], steps=3)[0]
    with torch.no_grad():
        inside = sample(prior, estimator, [ClassBatch(1, SEEDS, GUIDED)], steps=3)[0]
    assert torch.equal(inside, outside)


@pytest.mark.parametrize(
    "batches, settings, message",
    [
        ([], {}, "at least one class batch"),
        ([ClassBatch(3, (0,), Guidance())], {}, "label must be between 0 and 2, got 3"),
        ([ClassBatch(-1, (0,), Guidance())], {}, "label must be between 0 and 2, got -1"),
        ([ClassBatch(0, (), Guidance())], {}, "at least one seed"),
        ([ClassBatch(0, (0,), Guidance())], {"steps": 1}, "steps must be between 2 and 100"),
        ([ClassBatch(0, (0,), Guidance())], {"steps": 101}, "steps must be between 2 and 100"),
        ([ClassBatch(0, (0,), Guidance())], {"solver": "heun"}, "solver must be one of"),
        ([ClassBatch(0, (0,), Guidance())], {"variance": "fixed"}, "variance must be one of"),
        ([ClassBatch(0, (0,), Guidance())], {"variance": "learned"}, "predicts no variance"),
        ([ClassBatch(0, (0,), Guidance())], {"microbatch": 0}, "microbatch must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(prior, estimator, batches, settings, message):
    with pytest.raises(ValueError, match=message) as raised:
        sample_progressive(prior, estimator, batches, **{"steps": 10, **settings})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"beta": -0.1},
        {"beta": math.nan},
        {"beta": math.inf},
        {"eta": -1.0},
        {"eta": math.nan},
        {"eta": np.inf},
        {"reference": "mean"},
        {"at": "x_t"},
        {"scaling": "sigma"},
        {"scaling": ""},
        {"interval": (0.5, 0.5)},
        {"interval": (0.8, 0.2)},
        {"interval": (-0.1, 1.0)},
        {"interval": (0.0, 1.1)},
        {"interval": (math.nan, 1.0)},
    ],
)
def test_impossible_guidance_is_refused_by_name(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"^{name} must be") as raised:
        Guidance(**settings)
    assert "\n" not in str(raised.value)
