"""The encoder's shape, and the estimates over a data set by brute force."""

import copy
import math

import pytest
import torch
from torch import nn

from igds.data import ImageSet, to_unit
from igds.encoders import Encoder, EncoderConfig, PointEncoder, PointEncoderConfig, smooth
from igds.estimator import VariationalEstimator, estimate

CONFIG = EncoderConfig(channels=1, widths=(8, 16), space_to_depth=2, features=16)


def fresh_encoder(seed: int = 0, config: EncoderConfig = CONFIG) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Encoder(config).requires_grad_(False)


@pytest.fixture
def estimator():
    """K = 3, τ = 0.07, with Q^y and frequencies that are no one's default."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        estimator = VariationalEstimator(fresh_encoder(), 3, features=16, tau=0.07)
    generator = torch.Generator().manual_seed(1)
    estimator.class_means.copy_(torch.randn(3, 16, generator=generator).softmax(1))
    estimator.class_frequencies.copy_(torch.tensor([0.2, 0.3, 0.5]))
    return estimator.requires_grad_(False)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (23, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.randint(3, (23,), generator=generator), ("a", "b", "c"))


def some_images(n: int, seed: int = 0, channels: int = 1, side: int = 8) -> torch.Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


@pytest.mark.parametrize("is_smooth", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_encoder_output_has_zero_mean_and_unit_norm(seed, is_smooth):
    encoder = fresh_encoder(seed)
    if is_smooth:
        smooth(encoder)
    features = encoder(some_images(6, seed))
    assert features.shape == (6, 16)
    torch.testing.assert_close(features.mean(1), torch.zeros(6), rtol=0, atol=1e-6)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6))


def test_point_encoder_output_has_zero_mean_and_unit_norm_whatever_its_depth():
    for widths in ((8,), (16, 8, 8)):
        features = PointEncoder(PointEncoderConfig(2, widths, features=5))(torch.randn(7, 2))
        assert features.shape == (7, 5)
        torch.testing.assert_close(features.mean(1), torch.zeros(7), atol=1e-6, rtol=0)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(7))


def test_encoder_looks_at_one_image_at_a_time():
    encoder = fresh_encoder().train()
    x = some_images(5)
    torch.testing.assert_close(encoder(x)[2], encoder(x[2:3])[0], rtol=1e-4, atol=1e-5)


def test_every_stage_but_the_first_halves_the_side():
    config = EncoderConfig(channels=3, widths=(8, 16, 24), blocks=2, space_to_depth=2, features=4)
    encoder = fresh_encoder(config=config)
    assert encoder.trunk(some_images(2, channels=3, side=32)).shape == (2, 24, 4, 4)
    assert encoder(some_images(2, channels=3, side=32)).shape == (2, 4)


def test_smooth_leaves_no_relu_and_uses_softplus_of_sharpness_3():
    encoder = fresh_encoder()
    relus = sum(isinstance(module, nn.ReLU) for module in encoder.modules())
    smooth(encoder)
    kinds = [module for module in encoder.modules() if isinstance(module, (nn.ReLU, nn.Softplus))]
    assert len(kinds) == relus > 0
    assert all(isinstance(module, nn.Softplus) and module.beta == 3 for module in kinds)


def test_smooth_replaces_a_relu_at_any_depth():
    network = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Sequential(nn.ReLU())))
    smooth(network)
    assert not any(isinstance(module, nn.ReLU) for module in network.modules())


def test_the_smooth_encoder_is_twice_differentiable_where_relu_has_no_curvature():
    network = nn.Sequential(nn.ReLU())
    x = torch.tensor([0.3], requires_grad=True)

    def curvature():
        (slope,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.sum(), x)[0] if slope.requires_grad else torch.zeros(1)

    assert float(curvature()) == 0
    smooth(network)
    s = 1 / (1 + math.exp(-0.9))
    assert float(curvature()) == pytest.approx(3 * s * (1 - s), rel=1e-5)


def test_the_smooth_encoders_gradient_is_its_finite_difference():
    encoder = fresh_encoder().double()
    smooth(encoder)
    x, direction = some_images(2).double().requires_grad_(), some_images(2, seed=1).double()
    weights = torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((encoder(x) @ weights).sum(), x)
    with torch.no_grad():
        up, down = ((encoder(x + sign * 1e-5 * direction) @ weights).sum() for sign in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx(float((up - down) / 2e-5), rel=1e-5)


def test_estimator_says_log_probabilities_and_a_softmax_at_tau(estimator):
    x = some_images(4)
    log_probs, p = estimator(x)
    features = estimator.encoder(x)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(4))
    torch.testing.assert_close(p, torch.exp(features / 0.07) / torch.exp(features / 0.07).sum(1, keepdim=True))
    logits = features @ estimator.classifier.weight.T + estimator.classifier.bias
    torch.testing.assert_close(log_probs - log_probs[:, :1], logits - logits[:, :1], rtol=1e-4, atol=1e-6)


def test_label_entropy_is_that_of_the_frequencies(estimator):
    expected = -sum(f * math.log(f) for f in (0.2, 0.3, 0.5))
    assert estimator.label_entropy == pytest.approx(expected)


def test_label_entropy_of_a_fresh_estimator_is_log_k():
    fresh = VariationalEstimator(fresh_encoder(), 7, features=16, tau=0.1)
    assert fresh.label_entropy == pytest.approx(math.log(7))


@pytest.mark.parametrize("batch_size", [1, 4, 23, 500])
def test_estimates_are_the_brute_force_means(estimator, data, batch_size):
    prototype, contextual, right = [], [], []
    for image, label in zip(data.images, data.labels.tolist()):
        features = estimator.encoder(to_unit(image[None]))[0].double()
        logits = (estimator.classifier.weight.double() @ features + estimator.classifier.bias.double()).tolist()
        prototype.append(estimator.label_entropy + logits[label] - math.log(sum(math.exp(z) for z in logits)))
        scores = [math.exp(z / 0.07) for z in features.tolist()]
        p = [score / sum(scores) for score in scores]
        contextual.append(sum(a * math.log(a / b) for a, b in zip(p, estimator.class_means[label].tolist())))
        right.append(logits[label] == max(logits))
    result = estimate(estimator, data, batch_size=batch_size)
    assert result.accuracy == pytest.approx(sum(right) / 23)
    assert result.prototype == pytest.approx(sum(prototype) / 23, abs=1e-5)
    assert result.contextual == pytest.approx(sum(contextual) / 23, abs=1e-5)
    for label in range(3):
        own = [kl for kl, y in zip(contextual, data.labels.tolist()) if y == label]
        assert result.contextual_by_class[label] == pytest.approx(sum(own) / len(own), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_estimates_stay_within_their_bounds_against_the_sets_own_class_means(seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (30, 1, 8, 8), dtype=torch.uint8, generator=generator)
    data = ImageSet(images, torch.randint(2, (30,), generator=generator), ("a", "b"))
    estimator = VariationalEstimator(fresh_encoder(seed), 2, features=16, tau=0.01).requires_grad_(False)
    p = estimator(to_unit(images))[1]
    estimator.class_means.copy_(torch.stack([p[data.labels == y].mean(0) for y in range(2)]))
    estimator.class_frequencies.copy_(data.class_frequencies())
    result = estimate(estimator, data)
    assert 0 <= result.contextual <= math.log(16)
    assert result.prototype <= estimator.label_entropy <= math.log(2) + 1e-6
    counts = torch.bincount(data.labels)
    assert all(0 <= kl <= math.log(int(n)) for kl, n in zip(result.contextual_by_class, counts))


def test_classifier_rank_counts_the_independent_classes(estimator):
    assert estimator.classifier_rank() == 3
    spanned = copy.deepcopy(estimator)
    spanned.classifier.weight[2] = spanned.classifier.weight[0] - 2 * spanned.classifier.weight[1]
    assert spanned.classifier_rank() == 2


def test_classifier_rank_is_never_more_than_d():
    wide = VariationalEstimator(nn.Identity(), 9, features=4, tau=1.0)
    assert wide.classifier_rank() == 4
