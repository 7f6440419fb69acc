"""Chosen subsets: their shape, the optimality each method promises, and the probabilities of eq. 37."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from igds.data import ImageSet, to_unit
from igds.estimator import estimate
from igds.information import contextual_kl
from igds.selection import contextual_scores, herding, k_center, random_subset, weighted_subset

LABELS = torch.tensor([0, 1, 2, 1] * 15)
CLASSES = ("Circle", "Square", "Triangle")


def normal(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def weighted(labels, per_class, *, seed, classes=()):
    kl, correct = normal(len(labels), 1)[:, 0].abs(), torch.ones(len(labels), dtype=torch.bool)
    return weighted_subset(kl, correct, labels, per_class, alpha=0.5, seed=seed, classes=classes)


METHODS = {
    "random": random_subset,
    "herding": lambda labels, n, *, seed, classes=(): herding(normal(len(labels)), labels, n, classes=classes),
    "k_center": lambda labels, n, *, seed, classes=(): k_center(
        normal(len(labels)), labels, n, seed=seed, classes=classes
    ),
    "weighted": weighted,
}
every_method = pytest.mark.parametrize("choose", METHODS.values(), ids=METHODS)


@every_method
@pytest.mark.parametrize("per_class", [1, 4, 15])
def test_every_class_has_as_many_different_images_in_label_order(choose, per_class):
    rows = choose(LABELS, per_class, seed=0)
    assert rows.dtype == torch.int64
    assert LABELS[rows].tolist() == [label for label in range(3) for _ in range(per_class)]
    assert len(rows.unique()) == 3 * per_class
    assert torch.equal(rows, choose(LABELS, per_class, seed=0))


@every_method
def test_more_than_a_class_has_is_refused_by_its_name(choose):
    with pytest.raises(ValueError, match="class 'Circle' has 15 images.*, an IPC of 16 needs more: lower it or add"):
        choose(LABELS, 16, seed=0, classes=CLASSES)
    with pytest.raises(ValueError, match="class 0 has 15 images"):
        choose(LABELS, 16, seed=0)
    with pytest.raises(ValueError, match="class 'Star' has 0 images"):
        choose(LABELS, 1, seed=0, classes=(*CLASSES, "Star"))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        choose(LABELS, 0, seed=0)


def test_a_small_random_subset_is_part_of_a_larger_one_of_its_seed():
    small, large = (random_subset(LABELS, n, seed=3).view(3, n) for n in (2, 7))
    assert torch.equal(large[:, :2], small)
    assert not torch.equal(random_subset(LABELS, 7, seed=4).view(3, 7), large)


def test_every_image_is_equally_likely_in_a_random_subset():
    counts = torch.stack([F.one_hot(random_subset(LABELS[:8], 1, seed=seed), 8).sum(0) for seed in range(2000)]).sum(0)
    expected = torch.tensor([0.5, 0.25, 0.5, 0.25] * 2)
    torch.testing.assert_close(counts / 2000, expected, rtol=0, atol=0.05)


def test_herding_takes_at_every_step_what_brings_the_mean_nearest():
    points = normal(20) + 0.5
    unit = F.normalize(points, dim=1)
    rows = herding(points, torch.zeros(20, dtype=torch.long), 8).tolist()
    for i, row in enumerate(rows):
        free = [j for j in range(20) if j not in rows[:i]]
        assert row == min(free, key=lambda j: float((unit[[*rows[:i], j]].mean(0) - unit.mean(0)).norm()))


def test_one_herded_image_is_the_nearest_to_its_class_mean_and_one_k_center_is_a_random_one():
    points = normal(60) + 0.5
    unit = F.normalize(points, dim=1)
    for label, row in enumerate(herding(points, LABELS, 1).tolist()):
        own = (LABELS == label).nonzero()[:, 0]
        distances = (unit[own] - unit[own].mean(0)).norm(dim=1)
        assert row == int(own[distances.argmin()])
    starts = torch.stack([k_center(points[:8], LABELS[:8], 1, seed=seed) for seed in range(1000)])
    shares = torch.bincount(starts.flatten(), minlength=8) / 1000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.25, 0.5, 0.25] * 2), rtol=0, atol=0.06)


def test_herding_approaches_the_class_mean_faster_than_random_images():
    points, labels = normal(300) + 0.5, torch.zeros(300, dtype=torch.long)
    unit = F.normalize(points, dim=1)

    def error(rows):
        return float((unit[rows].mean(0) - unit.mean(0)).norm())

    for n in (5, 10, 20, 40):
        herded = error(herding(points, labels, n))
        assert herded < sum(error(random_subset(labels, n, seed=seed)) for seed in range(20)) / 20 / 2
        assert n * herded < 1  # falls as 1 / n, that of random images as 1 / √n


def test_herding_does_not_look_at_the_length_of_features():
    lengths = torch.rand(60, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    assert torch.equal(herding(lengths * normal(60), LABELS, 5), herding(normal(60), LABELS, 5))


@pytest.mark.parametrize("seed", range(10))
def test_k_center_takes_one_of_each_separated_cluster(seed):
    cluster = torch.arange(40) % 5
    points = 10 * torch.eye(5)[cluster] + 0.1 * normal(40, 5)
    rows = k_center(points, torch.zeros(40, dtype=torch.long), 5, seed=seed)
    assert sorted(cluster[rows].tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(10))
def test_k_center_is_within_twice_the_smallest_radius(seed):
    points = normal(12, 2, seed)
    distance = torch.cdist(points, points)

    def radius(rows):
        return float(distance[list(rows)].amin(0).max())

    best = min(radius(rows) for rows in itertools.combinations(range(12), 4))
    found = radius(k_center(points, torch.zeros(12, dtype=torch.long), 4, seed=seed).tolist())
    assert best <= found <= 2 * best


def test_k_center_of_equal_images_takes_none_twice():
    assert len(k_center(torch.ones(6, 3), torch.zeros(6, dtype=torch.long), 6, seed=0).unique()) == 6


def test_k_center_starts_from_another_image_with_another_seed():
    starts = {int(k_center(normal(60), LABELS, 1, seed=seed)[0]) for seed in range(20)}
    assert len(starts) > 5


def draws(kl: list[float], per_class: int, *, alpha: float, n: int = 3000) -> torch.Tensor:
    """(n, per_class) independent draws from images of these KL: n classes alike."""
    labels = torch.arange(n).repeat_interleave(len(kl))
    correct = torch.ones(len(labels), dtype=torch.bool)
    rows = weighted_subset(torch.tensor(kl).repeat(n), correct, labels, per_class, alpha=alpha, seed=0)
    return rows.view(n, per_class) % len(kl)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 2.5])
def test_images_are_drawn_with_the_probabilities_of_equation_37(alpha):
    kl = [0.0, 0.4, 1.0, 1.5, 2.5]
    weights = torch.exp(-((torch.tensor(kl) - alpha) ** 2))
    first = draws(kl, 2, alpha=alpha)[:, 0]
    frequencies = torch.bincount(first, minlength=5) / len(first)
    torch.testing.assert_close(frequencies, weights / weights.sum(), rtol=0, atol=0.035)


def test_pairs_are_drawn_one_after_the_other_without_replacement():
    kl = [0.0, 1.0, 1.5]
    p = F.softmax(-(torch.tensor(kl).square()), dim=0)
    pairs = draws(kl, 2, alpha=0.0)
    for i, j in itertools.permutations(range(3), 2):
        frequency = float(((pairs[:, 0] == i) & (pairs[:, 1] == j)).float().mean())
        assert frequency == pytest.approx(float(p[i] * p[j] / (1 - p[i])), abs=0.035)


def test_alpha_moves_the_mean_kl_of_the_subset():
    labels = torch.zeros(2000, dtype=torch.long)
    kl = 4 * torch.rand(2000, generator=torch.Generator().manual_seed(0))
    correct = torch.ones(2000, dtype=torch.bool)
    means = [
        float(kl[weighted_subset(kl, correct, labels, 100, alpha=alpha, seed=0)].mean())
        for alpha in (-3.0, 0.0, 1.0, 2.0, 3.0, 4.0, 7.0)
    ]
    assert means == sorted(means)
    assert means[0] < 0.5 and means[3] == pytest.approx(2, abs=0.2) and means[-1] > 3.5


def test_far_alphas_still_choose():
    assert len(weighted_subset(normal(60, 1)[:, 0], LABELS >= 0, LABELS, 5, alpha=1e3, seed=0).unique()) == 15


def test_what_the_estimator_takes_for_another_class_is_never_chosen():
    kl, correct = torch.zeros(60), torch.arange(60) % 5 > 0
    for seed in range(20):
        assert correct[weighted_subset(kl, correct, LABELS, 12, alpha=0.0, seed=seed)].all()
    with pytest.raises(
        ValueError, match="class 0 has 12 images that the estimator recognises, an IPC of 13 needs more"
    ):
        weighted_subset(kl, correct, LABELS, 13, alpha=0.0, seed=0)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_an_alpha_that_is_no_number_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be a finite number of nats, got"):
        weighted_subset(torch.zeros(60), LABELS >= 0, LABELS, 1, alpha=alpha, seed=0)


def test_contextual_scores_are_those_of_the_estimator_in_any_batches(tiny_bundle):
    pixels = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageSet(pixels, LABELS, CLASSES)
    estimator = tiny_bundle.estimator
    kl, correct = contextual_scores(estimator, images, batch_size=7)
    log_probs, p = estimator(to_unit(pixels))
    torch.testing.assert_close(kl, contextual_kl(p, estimator.class_means[LABELS]))
    assert torch.equal(correct, log_probs.argmax(1) == LABELS)
    whole = estimate(estimator, images)
    assert (float(kl.mean()), float(correct.float().mean())) == pytest.approx((whole.contextual, whole.accuracy))
