"""Means, errors and paired tests against numpy's and scipy's, and what too few values say."""

import statistics

import numpy as np
import pytest
from scipy import stats

from igds.statistics import difference, mean_and_error, paired_difference

ONE, OTHER = [0.31, 0.52, 0.47, 0.60], [0.30, 0.40, 0.50, 0.41]


def by_seed(values: list[float], first: int = 0) -> dict[int, float]:
    return dict(enumerate(values, first))


@pytest.mark.parametrize("values", [[1.0, 3.0], ONE, [5, 5, 5]])
def test_mean_and_error_are_those_of_scipy(values):
    found = mean_and_error(values)
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["standard_error"] == pytest.approx(stats.sem(values))


def test_a_single_value_has_no_error():
    assert mean_and_error([0.25]) == {"mean": 0.25, "standard_error": None}


def test_no_values_have_no_mean():
    with pytest.raises(statistics.StatisticsError):
        mean_and_error([])


def test_a_difference_of_independent_values_is_welchs():
    found = difference(ONE, OTHER[:3])
    assert found["mean"] == pytest.approx(np.mean(ONE) - np.mean(OTHER[:3]))
    assert found["standard_error"] == pytest.approx(np.hypot(stats.sem(ONE), stats.sem(OTHER[:3])))
    assert found["p"] == pytest.approx(stats.ttest_ind(ONE, OTHER[:3], equal_var=False).pvalue)


@pytest.mark.filterwarnings("error")
def test_values_that_are_nearly_equal_give_no_warning():
    assert 0 < difference([0.194, 0.194 + 1e-16], [0.23, 0.24])["p"] < 1
    assert difference([0.5, 0.5], [0.5, 0.5])["p"] is None and difference([0.5], [0.4, 0.5])["p"] is None


def test_a_paired_difference_is_that_of_scipy():
    found = paired_difference(by_seed(ONE), by_seed(OTHER))
    assert found["mean"] == pytest.approx(np.mean(ONE) - np.mean(OTHER))
    assert found["standard_error"] == pytest.approx(stats.sem(np.subtract(ONE, OTHER)))
    assert found["p"] == pytest.approx(stats.ttest_rel(ONE, OTHER).pvalue)


def test_the_other_way_round_only_the_sign_changes():
    there, back = paired_difference(by_seed(ONE), by_seed(OTHER)), paired_difference(by_seed(OTHER), by_seed(ONE))
    assert back == pytest.approx({**there, "mean": -there["mean"]})


def test_seeds_are_paired_by_number_and_lonely_ones_left_out():
    found = paired_difference(by_seed(ONE), by_seed(OTHER, first=2))
    assert found["mean"] == pytest.approx(np.mean(np.subtract(ONE[2:], OTHER[:2])))
    assert found["p"] == pytest.approx(stats.ttest_rel(ONE[2:], OTHER[:2]).pvalue)
    assert paired_difference(by_seed(ONE), dict(reversed(by_seed(OTHER).items())))["p"] is not None


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_differences_that_are_equal_but_for_rounding_prove_nothing(shift):
    found = paired_difference({seed: value + shift for seed, value in enumerate(ONE)}, by_seed(ONE))
    assert found["mean"] == pytest.approx(shift) and found["p"] is None
    assert found["standard_error"] == pytest.approx(0, abs=1e-12)


def test_one_pair_has_a_difference_and_nothing_more():
    assert paired_difference({3: 0.5}, {3: 0.25}) == {"mean": 0.25, "standard_error": None, "p": None}
