"""Distances and manifolds against their definitions, closed forms and the reference implementation."""

import math

import pytest
import torch
import torch.nn.functional as F
from prdc import compute_prdc

from igds.data import to_unit
from igds.measures import (
    features_and_logits,
    frechet_distance,
    manifold,
    nearest,
    out_of_range,
    pairwise_distance,
    pixel_range,
)


def whitened(n: int, d: int, seed: int) -> torch.Tensor:
    """n points of exactly zero mean and unit covariance."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T


def bytes_like(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_frechet_distance_of_a_set_to_itself_is_zero():
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_commuting_gaussians_is_the_closed_form():
    a = whitened(200, 3, 0) * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor([1.0, 0.0, 0.0])
    b = whitened(300, 3, 1) * torch.tensor([3.0, 1.0, 0.5]) + torch.tensor([0.0, 2.0, 0.0])
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + (1 - 3) ** 2 + (2 - 1) ** 2, rel=1e-6)


def test_frechet_distance_of_gaussians_that_do_not_commute_is_the_closed_form():
    root_a = torch.tensor([[2.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    root_b = torch.tensor([[1.0, 0.0], [-0.5, 0.7]], dtype=torch.float64)
    a, b = whitened(100, 2, 0) @ root_a.T, whitened(100, 2, 1) @ root_b.T
    cov_a, cov_b = root_a @ root_a.T, root_b @ root_b.T
    product = cov_a @ cov_b
    # Of a 2×2 matrix M with positive eigenvalues, tr M^½ = √(tr M + 2·√det M).
    cross = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    assert frechet_distance(a, b) == pytest.approx(float(cov_a.trace() + cov_b.trace() - 2 * cross), rel=1e-6)


def test_frechet_distance_is_symmetric_and_not_negative_in_degenerate_directions():
    a = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    b = torch.randn(5, 20, generator=torch.Generator().manual_seed(1))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-5)
    assert frechet_distance(a, b) > 0


@pytest.mark.parametrize("n", [2, 3, 10])
def test_pairwise_distance_is_the_mean_over_all_pairs(n):
    features = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    pairs = [
        1 - float(F.cosine_similarity(features[i], features[j], dim=0)) for i in range(n) for j in range(n) if i != j
    ]
    assert pairwise_distance(features) == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)


def test_pairwise_distance_of_one_row_and_of_equal_ones_is_zero():
    row = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    assert pairwise_distance(row) == 0
    assert pairwise_distance(row.expand(4, -1)) == pytest.approx(0, abs=1e-5)


def test_pairwise_distance_of_orthogonal_rows_is_one_and_of_opposite_ones_two():
    assert pairwise_distance(3 * torch.eye(4)) == pytest.approx(1)
    assert pairwise_distance(torch.tensor([[1.0, 2.0], [-2.0, -4.0]])) == pytest.approx(2)


def points(n: int, seed: int, d: int = 4) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize("real, samples", [(7, 7), (40, 10), (25, 60), (200, 50)])
@pytest.mark.parametrize("shift, scale", [(0.0, 1.0), (1.0, 0.5), (0.0, 2.0)])
def test_manifold_is_that_of_the_authors_of_density_and_coverage(real, samples, neighbours, shift, scale):
    a, b = points(real, 0), scale * points(samples, 1) + shift
    expected = compute_prdc(a.double().numpy(), b.double().numpy(), nearest_k=neighbours)
    assert manifold(a, b, neighbours=neighbours)._asdict() == pytest.approx(expected, abs=1e-6)


def test_copies_of_the_data_lie_on_it_and_cover_it():
    real = points(30, 0)
    copied = manifold(real, real.clone())
    assert (copied.precision, copied.recall, copied.coverage) == (1, 1, 1)
    assert copied.density == pytest.approx(1, abs=0.4)


def test_far_samples_neither_lie_on_the_data_nor_reach_it():
    assert manifold(points(30, 0), points(20, 1) + 1000) == (0, 0, 0, 0)


def test_wide_samples_reach_the_data_without_lying_on_it():
    wide = manifold(points(30, 0, d=8), 30 * points(40, 1, d=8))
    assert wide.precision < 0.1 and wide.coverage < 0.1
    assert wide.recall > 0.9


def test_copies_of_one_image_cover_no_more_than_the_balls_they_lie_in():
    real = points(30, 0)
    radii = torch.cdist(real, real).kthvalue(6, dim=1).values
    balls = int((torch.cdist(real, real[:1])[:, 0] < radii).sum())
    collapsed = manifold(real, real[:1].expand(8, -1))
    assert (collapsed.precision, collapsed.recall) == (1, 0)
    assert collapsed.coverage == pytest.approx(balls / 30)
    assert collapsed.density == pytest.approx(balls / 5)


def test_one_sample_has_no_recall():
    alone = manifold(points(30, 0), points(1, 1))
    assert math.isnan(alone.recall)
    assert alone.precision in (0, 1) and 0 <= alone.coverage <= 1


@pytest.mark.parametrize("n", [2, 3, 5])
def test_recall_of_few_samples_reaches_to_their_last_other_one(n):
    real, samples = points(30, 0), points(n, 1)
    reach = torch.cdist(samples, samples).amax(1)
    expected = (torch.cdist(real, samples) < reach).any(1).float().mean()
    assert manifold(real, samples, neighbours=n - 1 if n == 5 else 5).recall == pytest.approx(float(expected))


@pytest.mark.parametrize("seed", range(5))
def test_manifold_is_within_its_bounds(seed):
    real = points(20, seed)
    found = manifold(real, 0.8 * points(15, seed + 100))
    assert all(0 <= value <= 1 for value in (found.precision, found.recall, found.coverage))
    assert 0 <= found.density <= 20 / 5


def test_manifold_refuses_less_data_than_it_needs():
    with pytest.raises(ValueError, match="5 neighbours need at least 6 real images, got 5"):
        manifold(points(5, 0), points(9, 1))
    manifold(points(6, 0), points(9, 1))


def test_pixel_range_is_each_pixels_own_smallest_and_largest_but_for_a_share():
    levels = torch.randperm(200, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = torch.stack([levels, 200 - levels], 1)[..., None, None]
    low, high = pixel_range(images, beyond=0)
    assert (low.flatten().tolist(), high.flatten().tolist()) == ([0, 1], [199, 200])
    low, high = pixel_range(images, beyond=0.1)
    assert (low.flatten().tolist(), high.flatten().tolist()) == ([20, 21], [179, 180])


def test_the_images_of_a_range_lie_in_it():
    images = bytes_like(50)
    assert out_of_range(images, *pixel_range(images, beyond=0), tolerance=0) == 0


@pytest.mark.parametrize("beyond", [0.01, 0.1])
def test_real_images_have_less_than_twice_the_share_beyond_their_range(beyond):
    images = bytes_like(300)
    assert 0 < out_of_range(images, *pixel_range(images, beyond=beyond), tolerance=0) <= 2 * beyond


def test_out_of_range_counts_pixels_beyond_the_tolerance_only():
    low, high = torch.full((1, 2, 2), 20, dtype=torch.uint8), torch.full((1, 2, 2), 250, dtype=torch.uint8)
    inside, outside = [[10, 20], [250, 255]], [[0, 9], [100, 255]]
    images = torch.tensor([[inside], [outside]], dtype=torch.uint8)
    assert out_of_range(images, low, high) == 2 / 8
    assert out_of_range(images, low, high, tolerance=0) == 5 / 8


def test_haze_on_what_is_always_black_is_out_of_range():
    black = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    haze = torch.full((3, 1, 8, 8), 40, dtype=torch.uint8)
    assert out_of_range(haze, *pixel_range(black)) == 1
    assert out_of_range(haze // 5, *pixel_range(black)) == 0


def test_nearest_is_at_the_smallest_cosine_distance():
    generator = torch.Generator().manual_seed(0)
    features, among = torch.randn(6, 4, generator=generator), torch.randn(9, 4, generator=generator)
    expected = [[1 - float(F.cosine_similarity(row, other, dim=0)) for other in among] for row in features]
    distance, index = nearest(features, among)
    assert distance.tolist() == pytest.approx([min(row) for row in expected], abs=1e-6)
    assert index.tolist() == [row.index(min(row)) for row in expected]
    assert nearest(3 * among[:2], among)[0].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_features_and_logits_do_not_depend_on_the_batch_size(tiny_bundle):
    images = bytes_like(7)
    whole, cut = (features_and_logits(tiny_bundle.classifier, images, batch_size=size) for size in (100, 3))
    for a, b in zip(whole, cut):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(whole[1], tiny_bundle.classifier(to_unit(images)))
