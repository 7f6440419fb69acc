"""What the place Laboratory computes: experiments and their addresses, payloads, and the bench's memory."""

import base64
import io
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from app.laboratory import (
    ARROWS,
    FARTHEST,
    LESSONS,
    PIXELS,
    Bench,
    Experiment,
    experiment_of,
    opening,
    payload_of,
    restored,
    truth_of,
)
from app.laboratory_film import film
from igds.laboratory import PRESETS, STEPS, beta_curve, learn, play

DRAWN = Experiment(scene="drawn", points=(-2, 0, 0, 2, 0, 1, 2.25, -3, 2))


@pytest.fixture(scope="module")
def bench():
    """With an encoder of moons that has been trained for a moment."""
    bench, scene = Bench(), PRESETS["moons"]
    bench._trained[scene, "contrastive"] = [], list(learn(scene, points=2000))[-1].estimator
    return bench


@pytest.mark.parametrize("experiment", [Experiment(), DRAWN, Experiment(beta=1 / 3, seed=2**32 - 1), *LESSONS])
def test_an_experiments_address_restores_it(experiment):
    again, complaints = restored(experiment.query())
    assert complaints == []
    assert again.query() == experiment.query()
    assert (again.n, again.scene, again.points) == (experiment.n, experiment.scene, experiment.points)
    assert again.beta == pytest.approx(experiment.beta)


def test_the_controls_words_make_an_experiment():
    texts = {"scene": "drawn", "points": "-2_0_0_2_0_1_2.25_-3_2", "n": "3", "beta": "0.5", "eta": 2, "seed": 1.0}
    assert experiment_of(texts) == Experiment(scene="drawn", points=DRAWN.points, n=3, beta=0.5, eta=2.0, seed=1)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"scene": "mine"}, "scene must be one of rings, moons"),
        ({"encoder": "mine"}, "encoder must be one of contrastive, cross-entropy, got 'mine'"),
        ({"n": 0}, "n must be between 1 and 60, got 0"),
        ({"n": "2.5"}, "n: '2.5' is not a whole number"),
        ({"beta": "many"}, "β: 'many' is not a number"),
        ({"beta": "nan"}, "β: 'nan' is not a number"),
        ({"beta": None}, "β is empty: give it a value"),
        ({"eta": 41}, "η must be between 0 and 40, got 41"),
        ({"seed": -1}, "the seed must be between 0 and 4.29497e.09, got -1"),
        ({"lesson": 8}, "the lesson must be between 0 and 7, got 8"),
        ({"scene": "drawn"}, "two or three classes"),
        ({"scene": "drawn", "points": "1_2"}, r"threes of numbers \(x, y, class\), got 2 numbers"),
        ({"scene": "drawn", "points": "1_2_0_1_1_7"}, "a point's class must be between 0 and 2"),
        ({"scene": "drawn", "points": "1_2_0_9_9_1"}, "within ±6"),
    ],
)
def test_a_wrong_setting_is_named_in_a_sentence(settings, words):
    with pytest.raises(ValueError, match=words):
        experiment_of(settings)


def test_what_is_wrong_in_an_address_is_left_out_and_said():
    experiment, complaints = restored("n:99,beta:2,mode:fast,seed:x")
    assert experiment == Experiment(beta=2.0)
    for complaint, words in zip(
        complaints, ("no setting 'mode'", "n must be between 1 and 60, got 99", "'x' is not a")
    ):
        assert words in complaint and complaint.endswith(".")
    assert len(complaints) == 3


def test_a_payload_holds_the_run_as_it_was(bench):
    experiment = Experiment(scene="moons", n=10, beta=2.0)
    sent = bench.run(experiment)
    scene, played = bench.play(experiment)
    x = np.frombuffer(base64.b64decode(sent["x"]), "<i2").reshape(STEPS + 1, 3, 2, 10, 2) / PIXELS
    assert np.abs(x - played.x.numpy()).max() <= 0.5 / PIXELS + 1e-6
    forces = np.frombuffer(base64.b64decode(sent["forces"]), "<f4").reshape(3, STEPS, 3, 2, ARROWS, 2)
    np.testing.assert_array_equal(forces[1], played.prototype_force[:, :, :, :ARROWS].numpy())
    np.testing.assert_array_equal(forces[2], played.contextual_force[:, :, :, :ARROWS].numpy())
    assert sent["log_n"] == round(math.log(10), 4) and sent["total_modes"] == 16
    assert sent["prototype"][-1] == pytest.approx(played.prototype[-1].mean(dim=(1, 2)).tolist(), abs=1e-4)
    assert sent["query"] == "scene:moons,n:10,beta:2"


def test_particles_that_leave_the_plane_for_good_stay_within_what_can_be_sent(bench):
    experiment = Experiment(scene="moons", n=2)
    scene, played = bench.play(experiment)
    far = type(played)(**{**vars(played), "x": torch.full_like(played.x, -1e9)})
    x = np.frombuffer(base64.b64decode(payload_of(experiment, scene, far)["x"]), "<i2")
    assert (x == -FARTHEST * PIXELS).all()


def test_the_bench_says_what_must_be_trained_first_and_keeps_what_was():
    bench, experiment = Bench(), Experiment(scene="imbalance", encoder="cross-entropy")
    assert bench.run(experiment) == bench.curve(experiment) == bench.film(experiment, "gif") == {"kind": "untrained"}
    payloads = list(bench.train(experiment))
    assert [payload["kind"] for payload in payloads] == ["learning"] * 17 + ["learnt"]
    assert [len(payload["history"]) for payload in payloads] == [*range(17), 16]
    assert payloads[-1]["truth"] == truth_of(PRESETS["imbalance"])
    again = list(bench.train(experiment))
    assert [payload["kind"] for payload in again] == ["learnt"] and again[0]["history"] == payloads[-1]["history"]
    assert bench.run(experiment)["kind"] == "run"


def test_the_curve_is_the_librarys_and_is_computed_once_for_all_beta_and_seeds(bench):
    experiment = Experiment(scene="moons", n=30, beta=3.0, seed=5)
    sent = bench.curve(experiment)
    scene = PRESETS["moons"]
    estimator = bench._trained[scene, "contrastive"][1]
    curve = beta_curve(scene, scene.prior(), estimator, n=30, eta=1.0, seeds=range(2))
    assert [point["beta"] for point in sent["points"]] == [point.beta for point in curve]
    assert sent["points"][3]["mean"] == pytest.approx(asdict(curve[3].mean), abs=1e-3)
    assert bench.curve(Experiment(scene="moons", n=30, beta=1.0, seed=6)) is sent


def test_the_bench_computes_alone_and_leaves_other_threads_their_number():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        bench = Bench()
        assert torch.get_num_threads() == 2
        assert bench.do(torch.get_num_threads) == 1
    finally:
        torch.set_num_threads(before)


def test_the_film_shows_every_step_in_three_panels(bench):
    scene, played = bench.play(Experiment(scene="moons", n=6))
    picture = Image.open(io.BytesIO(film(scene, played, beta=4.0, kind="gif")))
    frames = []
    for index in range(picture.n_frames):
        picture.seek(index)
        frames.append(np.asarray(picture.convert("RGB")).astype(int))
    assert len(frames) == STEPS + 1
    width = frames[0].shape[1] // 3
    first, last = (
        [frame[40:, i * width + 15 : (i + 1) * width - 15] for i in range(3)] for frame in (frames[0], frames[-1])
    )
    assert all(np.abs(a - b).max() > 60 for a, b in zip(first, last))
    assert np.abs(first[0] - first[1])[:, : width - 40].mean() < np.abs(last[0] - last[2])[:, : width - 40].mean()


def test_what_the_page_starts_with_names_every_scene_and_lesson():
    start = opening()
    assert {scene["name"] for scene in start["scenes"]} == {*start["presets"], "drawn"}
    assert [lesson["settings"]["lesson"] for lesson in start["lessons"]] == list(range(1, 8))
    assert play(PRESETS["moons"].prior(), list(learn(PRESETS["moons"], points=256))[-1].estimator, n=1, beta=0, eta=0)
