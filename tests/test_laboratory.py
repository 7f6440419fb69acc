"""The laboratory against what is known exactly: scores, forces, counts, bounds, and the true information."""

import math
from functools import cache

import pytest
import torch

from igds.information import batch_reference, contextual_kl, prototype_information
from igds.laboratory import (
    ENCODERS,
    MOST_MODES,
    NEAR,
    PRESETS,
    REAL_DISTANCE,
    STEPS,
    Mode,
    Scene,
    beta_curve,
    drawn,
    learn,
    modes_by_chance,
    outcome,
    outcomes,
    play,
    truth,
)
from igds.rng import NoiseStreams, image_seeds
from igds.sampling import COLUMNS, Guidance, paired, sample

N, BETA, ETA, SEED = 5, 4.0, 1.5, 3


@cache
def learnt(scene: str, points: int = 24_000):
    return list(learn(PRESETS[scene], points=points))


@pytest.fixture(scope="module")
def rings():
    scene = PRESETS["rings"]
    return scene, scene.prior(), learnt("rings")[-1].estimator


@pytest.fixture(scope="module")
def played(rings):
    return play(*rings[1:], n=N, beta=BETA, eta=ETA, seed=SEED)


def test_a_run_is_that_of_the_sampler_image_by_image(rings, played):
    _, prior, estimator = rings
    for label in range(3):
        guidance = Guidance(beta=BETA, eta=ETA, scaling="variance")
        batches = paired(label, image_seeds(SEED, label, N), guidance)
        for way, x in enumerate(sample(prior, estimator, batches, steps=STEPS)):
            torch.testing.assert_close(played.x[-1, way, label], x, rtol=1e-3, atol=1e-3)


def test_a_run_begins_with_the_same_noise_in_every_way(played):
    for label in range(3):
        noise = NoiseStreams(image_seeds(SEED, label, N)).draw((2,))
        for way in range(3):
            assert torch.equal(played.x[0, way, label], noise)


def test_the_score_is_the_mixtures(rings, played):
    _, prior, _ = rings
    for step in (0, 10, 25, 40, STEPS - 1):
        for way in range(3):
            for label in range(3):
                expected = prior.score(played.x[step, way, label], played.t[step], torch.full((N,), label))
                torch.testing.assert_close(played.score[step, way, label], expected, rtol=1e-3, atol=1e-3)
    away = played.variance.view(-1, 1, 1, 1, 1) * played.score
    assert (played.x[-2] + away[-1] - played.x[-1]).abs().max() < 0.2, "the last step ends near where it points"


def test_the_forces_are_the_gradients_of_the_stated_terms(rings, played):
    _, prior, estimator = rings
    schedule = prior.schedule.respaced(STEPS)
    way, moved = COLUMNS.index("contextual"), 0.0
    for step in (0, 20, 35):
        eta = ETA * schedule.posterior(STEPS - 1 - step)[2] ** 2
        for label in range(3):
            forces = played.prototype_force[step, way, label], played.contextual_force[step, way, label]
            x = (played.x[step + 1, way, label] - sum(forces)).requires_grad_()  # x', before the forces acted
            log_probs, p = estimator(x)
            terms = (
                prototype_information(log_probs, torch.full((N,), label), estimator.label_entropy),
                contextual_kl(p, batch_reference(p)),
            )
            torch.testing.assert_close(played.prototype[step, way, label], terms[0].detach(), rtol=1e-3, atol=2e-3)
            torch.testing.assert_close(played.contextual[step, way, label], terms[1].detach(), rtol=1e-3, atol=2e-3)
            for force, term, weight in zip(forces, terms, (1.0, BETA)):
                (gradient,) = torch.autograd.grad(term.sum(), x, retain_graph=True)
                torch.testing.assert_close(force, eta * weight * gradient, rtol=2e-2, atol=2e-3)
                moved += float(force.abs().sum())
    assert moved > 1


def test_the_forces_of_each_way_are_those_that_moved_it(rings, played):
    assert not played.prototype_force[:, 0].any() and not played.contextual_force[:, :2].any()
    schedule = rings[1].schedule.respaced(STEPS)
    for step in (5, 30, 45):
        on_x, _, sigma = schedule.posterior(STEPS - 1 - step)
        k = STEPS - 1 - step
        x0 = played.variance[step] * played.score[step] + played.x[step]  # √ᾱ·x̃0
        mean = on_x * played.x[step] + schedule.posterior(k)[1] * x0 / float(schedule.alpha_bars[k]) ** 0.5
        rest = played.x[step + 1] - mean - played.prototype_force[step] - played.contextual_force[step]
        for way in (1, 2):
            torch.testing.assert_close(rest[way], rest[0], rtol=0, atol=2e-3)
        assert rest[0].std() == pytest.approx(sigma, rel=0.5), "what is left is the sampler's noise, the same for all"


def test_the_terms_of_a_run_keep_their_bounds(played):
    assert float(played.contextual.min()) > -1e-5
    assert float(played.contextual.mean(dim=3).max()) <= math.log(N) + 1e-5
    assert float(played.prototype.max()) <= math.log(3) + 0.01


def test_modes_distance_and_accuracy_of_a_known_case():
    scene = Scene((Mode(0, -3, 0, 0.5), Mode(0, -3, 3, 0.5), Mode(1, 3, 0, 0.5), Mode(1, 3, 3, 0.25)))
    x = torch.tensor([[[-3.0, 0.0], [-3.0, 1.0]], [[3.0, 3.0 + 0.25 * (NEAR + 0.1)], [-3.0, 0.0]]])
    prototype, contextual = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.zeros(2, 2)
    found = outcome(scene, scene.prior(), x, prototype, contextual)
    assert found.modes == 1, "one mode of the first class twice; of the second class none"
    assert found.distance == pytest.approx((0 + 2 + NEAR + 0.1 + 12) / 4)
    assert found.accuracy == 0.75
    assert (found.prototype, found.contextual) == (0.5, 0.0)


@pytest.mark.parametrize("name", PRESETS)
def test_samples_of_a_preset_count_as_the_truth_says(name):
    scene, n = PRESETS[name], 6
    prior, generator = scene.prior(), torch.Generator().manual_seed(0)
    zeros = torch.zeros(scene.classes, n)
    found = []
    for _ in range(60):
        x = torch.stack([prior.sample(torch.full((n,), label), generator) for label in range(scene.classes)])
        found.append(outcome(scene, prior, x, zeros, zeros))
    modes = torch.tensor([one.modes for one in found])
    assert float(modes.mean()) == pytest.approx(modes_by_chance(scene, n), abs=4 * float(modes.std()) / 60**0.5)
    distance = sum(one.distance for one in found) / 60
    assert distance <= REAL_DISTANCE + 0.1
    if name != "overlap":  # where modes overlap, another one can be nearer than a point's own
        assert distance == pytest.approx(REAL_DISTANCE, abs=0.1)


@pytest.mark.parametrize("name", PRESETS)
def test_the_truth_keeps_its_bounds(name):
    known = truth(PRESETS[name], samples=5000)
    information = known.information
    assert 0 < information.prototype <= known.label_entropy + 3 * information.prototype_error
    assert 1 / PRESETS[name].classes < known.accuracy <= 1
    assert 0 < known.mode_entropy <= math.log(MOST_MODES)


def test_far_apart_the_information_is_that_of_the_labels_and_of_the_modes():
    scene = Scene((Mode(0, -5, 5, 0.1, 3), Mode(0, -5, -5, 0.1, 1), Mode(1, 5, 0, 0.1, 4)))
    known = truth(scene, samples=20_000)
    assert known.label_entropy == pytest.approx(math.log(2))
    assert known.information.prototype == pytest.approx(math.log(2), abs=0.01)
    gaussian = math.log(2 * math.pi * math.e * 0.1**2)
    assert known.mode_entropy == pytest.approx(0.5 * (0.75 * math.log(4 / 3) + 0.25 * math.log(4)))
    assert known.information.contextual == pytest.approx(gaussian + known.mode_entropy, abs=0.03)


@pytest.mark.parametrize("name", ["moons", "overlap"])
def test_training_raises_the_estimate_towards_the_true_information_and_not_beyond(name):
    events = learnt(name)
    true, error = truth(PRESETS[name]).information.prototype, 0.03
    assert events[0].prototype + 0.005 < events[-1].prototype > 0.8 * true
    assert all(event.prototype < true + error for event in events)
    assert [event.seen for event in events] == sorted({event.seen for event in events})
    assert events[-1].seen >= events[-1].total


def test_training_is_the_same_again():
    first, second = (list(learn(PRESETS["moons"], points=2000))[-1] for _ in range(2))
    assert (first.loss, first.prototype, first.contextual) == (second.loss, second.prototype, second.contextual)


def test_cross_entropy_is_trained_by_the_labels_and_reaches_the_information():
    event = list(learn(PRESETS["imbalance"], "cross-entropy", points=12_000))[-1]
    assert event.loss < 0.1
    assert event.prototype == pytest.approx(truth(PRESETS["imbalance"]).information.prototype, abs=0.05)


def test_the_curve_over_beta_starts_unguided_and_agrees_with_a_run(rings):
    scene, prior, estimator = rings
    curve = beta_curve(scene, prior, estimator, n=4, eta=1.0, betas=(0.0, 4.0), seeds=(1, 2))
    assert [point.beta for point in curve] == [None, 0.0, 4.0]
    runs = [outcomes(scene, prior, play(prior, estimator, n=4, beta=4.0, eta=1.0, seed=seed)) for seed in (1, 2)]
    for point, way in zip(curve, COLUMNS):
        assert point.mean.modes == pytest.approx((runs[0][way].modes + runs[1][way].modes) / 2)
        assert point.error.modes == pytest.approx(abs(runs[0][way].modes - runs[1][way].modes) / 2)
        assert point.mean.distance == pytest.approx((runs[0][way].distance + runs[1][way].distance) / 2, abs=1e-2)


def test_drawn_points_become_modes_of_equal_weight():
    scene = drawn([(0, 1, 0), (2, 3, 1), (-1, 0, 1)])
    assert [(mode.label, mode.x, mode.y, mode.weight) for mode in scene.modes] == [
        (0, 0, 1, 1),
        (1, 2, 3, 1),
        (1, -1, 0, 1),
    ]
    assert truth(scene).label_entropy == pytest.approx(math.log(3) - 2 / 3 * math.log(2))


@pytest.mark.parametrize(
    "modes, words",
    [
        ([], "two or three classes"),
        ([Mode(0, 0, 0)], "two or three classes"),
        ([Mode(0, 0, 0), Mode(2, 0, 0)], "two or three classes"),
        ([Mode(label, 0, 0) for label in range(4)], "two or three classes"),
        ([Mode(m % 2, 0, 0) for m in range(MOST_MODES + 1)], "at most 24 modes, got 25"),
        ([Mode(0, 0, 0), Mode(1, 7, 0)], "within ±6, got .7, 0."),
        ([Mode(0, 0, 0), Mode(1, math.nan, 0)], "within ±6"),
        ([Mode(0, 0, 0), Mode(1, 0, 0, std=0)], "std must be between 0.05 and 2"),
        ([Mode(0, 0, 0), Mode(1, 0, 0, weight=0)], "weight above 0"),
    ],
)
def test_a_scene_that_cannot_be_is_named_in_a_sentence(modes, words):
    with pytest.raises(ValueError, match=words):
        Scene(tuple(modes))


def test_wrong_settings_are_refused_at_the_call(rings):
    scene, prior, estimator = rings
    with pytest.raises(ValueError, match="encoder must be one of contrastive, cross-entropy, got 'mine'"):
        learn(scene, "mine")
    with pytest.raises(ValueError, match="n must be between 1 and 60, got 61"):
        play(prior, estimator, n=61, beta=1, eta=1)
    with pytest.raises(ValueError, match="beta must be a finite number of at least 0, got -1"):
        play(prior, estimator, n=2, beta=-1, eta=1)
    with pytest.raises(ValueError, match="at least two seeds"):
        beta_curve(scene, prior, estimator, n=2, eta=1, seeds=(1,))
    assert ENCODERS == ("contrastive", "cross-entropy")


def test_the_forces_on_a_few_particles_are_those_among_all(rings, played):
    few = play(*rings[1:], n=N, beta=BETA, eta=ETA, seed=SEED, arrows=2)
    for name in ("prototype_force", "contextual_force"):
        whole, part = getattr(played, name), getattr(few, name)
        assert part.shape[3] == 2 and whole.shape[3] == N
        assert torch.allclose(part, whole[:, :, :, :2], rtol=1e-3, atol=1e-6)
    assert few.x.equal(played.x)
