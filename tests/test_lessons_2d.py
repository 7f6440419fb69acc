"""What each lesson of the laboratory claims, at the lesson's own settings, over several seeds."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from app.laboratory import LESSON_TITLES, LESSON_WORDS, LESSONS, Experiment
from igds.laboratory import REAL_DISTANCE, beta_curve, learn, modes_by_chance, play, truth

SEEDS = range(16)


@cache
def learnt(scene, encoder):
    return list(learn(scene, encoder))[-1]


@cache
def curve(experiment: Experiment, betas: tuple[float, ...]):
    """By β (None: unguided): mean and standard error over SEEDS."""
    scene = experiment.mixture()
    estimator = learnt(scene, experiment.encoder).estimator
    points = beta_curve(scene, scene.prior(), estimator, n=experiment.n, eta=experiment.eta, betas=betas, seeds=SEEDS)
    return {point.beta: point for point in points}


def arms(lesson: int, *betas: float):
    experiment = LESSONS[lesson - 1]
    found = curve(experiment, tuple(dict.fromkeys((0.0, *betas, experiment.beta))))
    return experiment, [found[beta] for beta in (None, 0.0, experiment.beta, *betas)]


def test_every_lesson_has_a_title_words_and_its_own_number():
    assert len(LESSONS) == len(LESSON_TITLES) == len(LESSON_WORDS) == 7
    assert [experiment.lesson for experiment in LESSONS] == list(range(1, 8))


def test_1_unguided_particles_reach_as_many_modes_as_chance_and_about_half_of_them():
    experiment, (unguided, _, contextual) = arms(1)
    scene = experiment.mixture()
    chance = modes_by_chance(scene, experiment.n)
    assert abs(unguided.mean.modes - chance) < 3 * unguided.error.modes
    assert 0.4 < chance / len(scene.modes) < 0.6
    assert contextual.mean.modes > chance + 2 * contextual.error.modes


def test_2_beta_0_makes_the_class_surer_than_the_data_is_and_gives_modes_up():
    experiment, (unguided, prototype, _) = arms(2)
    known = truth(experiment.mixture())
    assert prototype.mean.accuracy > 0.95 > known.accuracy + 0.2
    assert abs(unguided.mean.accuracy - known.accuracy) < 3 * unguided.error.accuracy
    assert prototype.mean.prototype > known.information.prototype + 0.3
    assert prototype.mean.modes < unguided.mean.modes - 2


def test_3_beta_above_0_reaches_more_modes_the_rare_ones_among_them_and_stays_on_the_data():
    experiment, (unguided, prototype, contextual) = arms(3)
    assert contextual.mean.modes > prototype.mean.modes + 3 * (contextual.error.modes + prototype.error.modes) / 2
    assert contextual.mean.modes > unguided.mean.modes + (contextual.error.modes + unguided.error.modes)
    assert contextual.mean.contextual > prototype.mean.contextual + 0.1
    assert contextual.mean.distance < REAL_DISTANCE + 0.5


def test_4_too_much_beta_leaves_the_data_while_the_estimate_rises():
    _, (unguided, _, contextual, moderate) = arms(4, 2.0)
    assert contextual.mean.distance > 2 * moderate.mean.distance
    assert contextual.mean.modes < moderate.mean.modes - 1.5
    assert contextual.mean.accuracy < 0.9 < moderate.mean.accuracy
    assert contextual.mean.contextual > moderate.mean.contextual > unguided.mean.contextual


def test_5_one_particle_feels_no_beta():
    experiment = LESSONS[4]
    scene = experiment.mixture()
    estimator = learnt(scene, experiment.encoder).estimator
    alone, pair = (
        play(scene.prior(), estimator, n=n, beta=experiment.beta, eta=experiment.eta, seed=0) for n in (1, 2)
    )
    assert (alone.x[:, 2] - alone.x[:, 1]).abs().max() < 1e-4
    assert alone.contextual.abs().max() < 1e-5
    assert alone.contextual_force.abs().max() < 1e-4
    assert (pair.x[-1, 2] - pair.x[-1, 1]).abs().max() > 0.1


def test_6_too_large_an_eta_drives_both_ways_off_the_data():
    experiment, (unguided, prototype, contextual) = arms(6)
    calm = curve(replace(experiment, eta=1.0), (0.0, experiment.beta))
    for harsh, gentle in ((prototype, calm[0.0]), (contextual, calm[experiment.beta])):
        assert harsh.mean.distance > 1.5 * gentle.mean.distance
        assert harsh.mean.modes < gentle.mean.modes - 3
        assert harsh.mean.modes < unguided.mean.modes - 3


def test_7_cross_entropy_alone_sees_less_context_and_as_much_of_the_class():
    experiment, (_, _, contextual) = arms(7)
    scene = experiment.mixture()
    alone, both = learnt(scene, "cross-entropy"), learnt(scene, "contrastive")
    assert alone.contextual < both.contextual / 2
    assert alone.prototype == pytest.approx(both.prototype, abs=0.02)
    _, (_, _, with_context) = arms(1)
    assert with_context.mean.modes > contextual.mean.modes + (with_context.error.modes + contextual.error.modes)


def test_the_teachers_page_links_every_lesson_at_its_settings():
    page = (Path(__file__).resolve().parents[1] / "docs" / "laboratory.md").read_text(encoding="utf-8")
    for title, experiment in zip(LESSON_TITLES, LESSONS):
        parts = set(experiment.query().split(","))
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {experiment.lesson} |")]
        assert title in row
        assert set(row.partition("?lab=")[2].partition("#")[0].split(",")) == parts
