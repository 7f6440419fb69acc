"""What a handful of seeds can say: means with their standard errors, and tests of their differences."""

import math
import statistics
import warnings

from scipy import stats


def mean_and_error(values: list[float]) -> dict[str, float | None]:
    """The mean and its standard error; no error for a single value."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "standard_error": error}


def difference(one: list[float], other: list[float]) -> dict[str, float | None]:
    """The difference of two means, its standard error, and the p of Welch's two-sided t-test.

    Of values that were drawn independently. A single value on either side gives no error, and equal values no p.
    """
    errors = [mean_and_error(values)["standard_error"] for values in (one, other)]
    error = None if None in errors else math.hypot(*errors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's of values that are nearly equal: the error tells
        p = float(stats.ttest_ind(one, other, equal_var=False).pvalue) if error else None
    return {"mean": statistics.fmean(one) - statistics.fmean(other), "standard_error": error, "p": p}


def paired_difference(one: dict[int, float], other: dict[int, float]) -> dict[str, float | None]:
    """The mean of one − other over the seeds of both, its standard error, and the p of a two-sided t-test."""
    differences = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    # Differences that are equal but for rounding have no variance, and the test would call any of them certain.
    spread = max(differences, default=0.0) - min(differences, default=0.0)
    p = float(stats.ttest_1samp(differences, 0.0).pvalue) if spread > 1e-9 else None
    return {**mean_and_error(differences), "p": p}
