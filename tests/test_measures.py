"""Distances against their definitions and closed forms."""

import pytest
import torch
import torch.nn.functional as F

from igds.data import ImageSet, to_unit
from igds.measures import (
    accuracy,
    class_balanced,
    features_and_logits,
    frechet_distance,
    nearest_distance,
    pairwise_distance,
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
def test_pairwise_distance_is_the_mean_over_all_pairs(tiny_bundle, n):
    images = bytes_like(n)
    with torch.no_grad():
        features = tiny_bundle.classifier.features(to_unit(images))
    pairs = [
        1 - float(F.cosine_similarity(features[i], features[j], dim=0)) for i in range(n) for j in range(n) if i != j
    ]
    assert pairwise_distance(tiny_bundle.classifier, images) == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)


def test_pairwise_distance_of_one_image_and_of_equal_ones_is_zero(tiny_bundle):
    image = bytes_like(1)
    assert pairwise_distance(tiny_bundle.classifier, image) == 0
    assert pairwise_distance(tiny_bundle.classifier, image.expand(4, -1, -1, -1)) == pytest.approx(0, abs=1e-5)


def test_nearest_distance_is_the_smallest_cosine_distance():
    generator = torch.Generator().manual_seed(0)
    features, among = torch.randn(6, 4, generator=generator), torch.randn(9, 4, generator=generator)
    expected = [min(1 - float(F.cosine_similarity(row, other, dim=0)) for other in among) for row in features]
    assert nearest_distance(features, among).tolist() == pytest.approx(expected, abs=1e-6)
    assert nearest_distance(3 * among[:2], among).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_features_and_logits_do_not_depend_on_the_batch_size(tiny_bundle):
    images = bytes_like(7)
    whole, cut = (features_and_logits(tiny_bundle.classifier, images, batch_size=size) for size in (100, 3))
    for a, b in zip(whole, cut):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(whole[1], tiny_bundle.classifier(to_unit(images)))


def test_accuracy_is_the_share_of_the_largest_logits_that_are_right(tiny_bundle):
    images = bytes_like(12)
    predicted = features_and_logits(tiny_bundle.classifier, images)[1].argmax(1)
    assert accuracy(tiny_bundle.classifier, images, predicted) == 1
    labels = torch.where(torch.arange(12) < 3, (predicted + 1) % 3, predicted)
    assert accuracy(tiny_bundle.classifier, images, labels) == 0.75
    assert accuracy(tiny_bundle.classifier, images, 1) == pytest.approx(float((predicted == 1).float().mean()))


def labelled(counts: list[int]) -> ImageSet:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    return ImageSet(bytes_like(len(labels)), labels, tuple("abc"[: len(counts)]))


def test_class_balanced_holds_as_many_different_images_of_every_class():
    data = labelled([10, 5, 7])
    subset = class_balanced(data, 5)
    assert subset.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert len({image.numpy().tobytes() for image in subset.images}) == 15
    for label in range(3):
        own = {image.numpy().tobytes() for image in data.of_class(label)}
        assert all(image.numpy().tobytes() in own for image in subset.of_class(label))
    assert torch.equal(class_balanced(data, 5).images, subset.images)
    assert not torch.equal(class_balanced(data, 5, seed=1).images, subset.images)


def test_class_balanced_refuses_more_than_a_class_has():
    with pytest.raises(ValueError, match="class b has 5 images, 6 were asked for"):
        class_balanced(labelled([10, 5, 7]), 6)
