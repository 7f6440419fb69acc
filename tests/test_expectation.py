import math
from dataclasses import replace

import pytest

from igds.expectation import expectation
from igds.runs import Run
from igds.study import REAL, UNGUIDED

RUN = Run("tiny", "Circle", ipc=10, beta=2.0, eta=0.3, steps=20, solver="dpmpp_2m")
SETTINGS = {
    "eta": 0.3,
    "steps": 20,
    "solver": "dpmpp_2m",
    "reference": "batch",
    "at": "x_prev",
    "scaling": "constant",
    "interval": [0.0, 1.0],
}
ACCURACY = {UNGUIDED: (0.5, 0.6), "β = 0": (0.8, 1.0), "β = 2": (0.7, 1.0), "β = 4": (0.5, 0.6)}
CONTEXTUAL = {UNGUIDED: (1.0, 1.2), "β = 0": (0.5, 0.7), "β = 2": (0.8, 0.8), "β = 4": (1.2, 1.4), REAL: (1.5, 1.5)}


@pytest.fixture
def results():
    """Two seeds, IPC 10 and 50 (with another accuracy), four arms and real images; figures that are easy to add up."""
    records = []
    for ipc, more in ((10, 0.0), (50, -0.5)):
        for arm, values in CONTEXTUAL.items():
            for seed in (0, 1):
                accuracy = ACCURACY.get(arm, (1.0, 1.0))[seed] + more
                record = {"arm": arm, "label": "Circle", "ipc": ipc, "seed": seed, "accuracy": accuracy}
                record |= {"held_out_contextual": values[seed], "diversity": None}
                records.append(record | ({} if arm == REAL else SETTINGS))
    arms = {UNGUIDED: {"eta": 0.0}, "β = 0": {"beta": 0.0}, "β = 2": {"beta": 2.0}, "β = 4": {"beta": 4.0}}
    return {"records": records, "arms": arms}


def test_the_change_is_taken_within_each_seed(results):
    expected = expectation(results, RUN)
    change = expected.change["held_out_contextual"]
    assert change.mean == pytest.approx((0.3 + 0.1) / 2)
    assert change.deviation == pytest.approx(0.2 / math.sqrt(2))
    assert expected.change["accuracy"].mean == pytest.approx(-0.05)
    assert (expected.against, expected.near, expected.seeds, expected.ipc) == ("β = 0", (2.0,), 2, 10)


def test_between_two_studied_betas_it_is_interpolated(results):
    expected = expectation(results, replace(RUN, beta=3.0))
    assert expected.near == (2.0, 4.0)
    change = expected.change["held_out_contextual"]
    assert change.mean == pytest.approx(((1.0 - 0.5) + (1.1 - 0.7)) / 2)
    assert change.deviation == pytest.approx(0.1 / math.sqrt(2))


def test_a_run_with_beta_0_is_held_against_unguided(results):
    expected = expectation(results, replace(RUN, beta=0.0))
    assert expected.against == UNGUIDED
    assert expected.change["accuracy"].mean == pytest.approx((0.3 + 0.4) / 2)


def test_the_arms_stand_with_their_own_spread(results):
    arms = expectation(results, RUN).arms
    assert expectation(results, RUN).betas == (0.0, 2.0, 4.0)
    assert set(arms) == {UNGUIDED, "β = 0", "β = 2", "β = 4", REAL}
    assert arms[UNGUIDED]["held_out_contextual"].mean == pytest.approx(1.1)
    assert arms[UNGUIDED]["held_out_contextual"].deviation == pytest.approx(0.2 / math.sqrt(2))
    assert "diversity" not in arms[UNGUIDED], "null in the file is no figure"


@pytest.mark.parametrize(("ipc", "nearest"), [(1, 10), (9, 10), (22, 10), (23, 50), (50, 50)])
def test_the_nearest_studied_ipc_is_nearest_in_proportion(results, ipc, nearest):
    assert expectation(results, replace(RUN, ipc=ipc)).ipc == nearest


def test_a_studied_ipc_with_the_run_s_reference_comes_first(results):
    for record in results["records"]:
        if record["ipc"] == 10 and record["arm"] != REAL:
            record["reference"] = "class"
    assert expectation(results, replace(RUN, ipc=10)).ipc == 50
    assert expectation(results, replace(RUN, ipc=50, reference="class")).ipc == 10


def test_settings_that_are_not_the_study_s_are_told_with_its_values(results):
    assert expectation(results, RUN).other_settings == {}
    run = replace(RUN, eta=0.1, scaling="variance", interval=(0.0, 0.5))
    assert expectation(results, run).other_settings == {"eta": 0.3, "scaling": "constant", "interval": (0.0, 1.0)}


def test_one_seed_has_no_spread(results):
    results["records"] = [record for record in results["records"] if record["seed"] == 0]
    expected = expectation(results, RUN)
    assert expected.seeds == 1 and math.isnan(expected.change["accuracy"].deviation)


def test_a_class_that_was_not_studied_is_told(results):
    with pytest.raises(ValueError, match="no images of the class Square"):
        expectation(results, replace(RUN, label="Square"))


def test_a_beta_beyond_the_studied_ones_is_told(results):
    with pytest.raises(ValueError, match="β from 0 to 4, and this run has β = 5"):
        expectation(results, replace(RUN, beta=5.0))


@pytest.mark.parametrize(
    "damage",
    [
        lambda results: results.update(records=None),
        lambda results: results.update(arms=[]),
        lambda results: results.update(arms={}),
        lambda results: results["records"][0].pop("label"),
        lambda results: [record.update(ipc="ten") for record in results["records"]],
        lambda results: [record.update(ipc=0) for record in results["records"]],
        lambda results: results.update(records=[r for r in results["records"] if r["arm"] != "β = 0"]),
        lambda results: [record.pop("interval", None) for record in results["records"]],
    ],
)
def test_a_damaged_study_is_one_sentence(results, damage):
    damage(results)
    with pytest.raises(ValueError, match="the study is damaged or holds no β = 0"):
        expectation(results, RUN)
