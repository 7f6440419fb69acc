"""The verdict on finished images against its formulas, written out here a second time."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from igds.data import to_unit
from igds.estimator import VariationalEstimator
from igds.measures import features_and_logits, pairwise_distance
from igds.verdict import information, judge

INFORMATION = ("prototype", "contextual", "held_out_prototype", "held_out_contextual")


def images_of(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def written_out(estimator, images, label, reference) -> tuple[float, float]:
    """Means of H(Y) + log P(y | x) and of Σ p·log(p/Q), image by image."""
    with torch.no_grad():
        log_probs, p = (values.double() for values in estimator(to_unit(images)))
    h_y = -sum(float(share) * math.log(share) for share in estimator.class_frequencies)
    q = estimator.class_means[label].double() if reference == "class" else p.mean(0)
    prototype = [h_y + float(row[label]) for row in log_probs]
    contextual = [float((row * (row.log() - q.log())).sum()) for row in p]
    return sum(prototype) / len(images), sum(contextual) / len(images)


@pytest.mark.parametrize("reference", ["batch", "class"])
@pytest.mark.parametrize("label", [0, 2])
def test_information_is_as_written_here_too(tiny_bundle, label, reference):
    images = images_of(6)
    verdict = judge(tiny_bundle, images, label, reference=reference)
    own = written_out(tiny_bundle.estimator, images, label, reference)
    held_out = written_out(tiny_bundle.held_out, images, label, reference)
    assert [getattr(verdict, name) for name in INFORMATION] == pytest.approx([*own, *held_out], rel=1e-4, abs=1e-5)
    assert own != pytest.approx(held_out, abs=1e-3)


def test_accuracy_is_the_share_that_the_classifier_takes_for_the_class(tiny_bundle):
    images = images_of(12)
    features, logits = features_and_logits(tiny_bundle.classifier, images)
    taken_for = logits.argmax(1).tolist()
    for label in range(3):
        assert judge(tiny_bundle, images, label).accuracy == pytest.approx(taken_for.count(label) / 12)
    assert judge(tiny_bundle, images, 0).diversity == pairwise_distance(features)


def test_an_image_of_another_class_is_no_variety_among_those_recognised(tiny_bundle):
    images = images_of(60)
    features, logits = features_and_logits(tiny_bundle.classifier, images)
    label = int(logits.argmax(1).mode().values)
    recognised = logits.argmax(1) == label
    assert 1 < recognised.sum()
    verdict = judge(tiny_bundle, images, label)
    assert verdict.recognised_diversity == pytest.approx(pairwise_distance(features[recognised]), abs=1e-6)
    assert judge(tiny_bundle, images[recognised], label).recognised_diversity == pytest.approx(
        verdict.recognised_diversity, abs=1e-6
    )
    assert math.isnan(judge(tiny_bundle, images[recognised][:1], label).recognised_diversity)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_verdict_stays_within_its_bounds(tiny_bundle, n):
    d = tiny_bundle.estimator.class_means.shape[1]
    for seed in range(3):
        verdict = judge(tiny_bundle, images_of(n, seed), 1)
        for contextual in (verdict.contextual, verdict.held_out_contextual):
            assert -1e-6 <= contextual <= min(math.log(n), math.log(d)) + 1e-6
        assert verdict.prototype <= tiny_bundle.estimator.label_entropy + 1e-6
        assert verdict.held_out_prototype <= tiny_bundle.held_out.label_entropy + 1e-6
        assert 0 <= verdict.accuracy <= 1 and 0 <= verdict.diversity <= 2


def shouting(classes: int, scale: float) -> VariationalEstimator:
    """f gives the first `classes` pixels times `scale`, g hands them on: images of one bright pixel are far apart."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, classes, bias=False))
    estimator = VariationalEstimator(encoder, classes, features=classes, tau=1.0)
    with torch.no_grad():
        encoder[1].weight.copy_(scale * torch.eye(classes, 64))
        estimator.classifier.weight.copy_(torch.eye(classes))
        estimator.classifier.bias.zero_()
    return estimator


@pytest.mark.parametrize("n", [2, 3, 8])
def test_images_that_are_as_different_as_can_be_have_log_n(n):
    images = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    images.view(n, -1)[torch.arange(n), torch.arange(n)] = 255
    contextual = information(shouting(n, scale=50.0), images, 0)[1]
    assert contextual == pytest.approx(math.log(n), abs=1e-5)


def test_an_image_sure_of_its_class_has_the_label_entropy():
    estimator = shouting(4, scale=50.0)
    estimator.class_frequencies.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    images.view(3, -1)[:, 2] = 255
    expected = -sum(share * math.log(share) for share in (0.1, 0.2, 0.3, 0.4))
    assert information(estimator, images, 2)[0] == pytest.approx(expected, abs=1e-5)
    assert information(estimator, images, 1)[0] < expected - 50


def test_equal_images_have_no_contextual_information_and_no_diversity(tiny_bundle):
    verdict = judge(tiny_bundle, images_of(1).expand(5, -1, -1, -1), 1)
    for value in (verdict.contextual, verdict.held_out_contextual, verdict.diversity):
        assert value == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("reference", ["batch", "class"])
def test_information_does_not_depend_on_how_the_batch_is_cut(tiny_bundle, reference):
    images = images_of(7)
    whole, cut = (
        information(tiny_bundle.estimator, images, 1, reference=reference, batch_size=size) for size in (100, 3)
    )
    assert cut == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_without_a_held_out_estimator_its_figures_are_nan_and_the_others_the_same(bare_bundle, tiny_bundle):
    images = images_of(6)
    bare, whole = (dataclasses.asdict(judge(bundle, images, 1)) for bundle in (bare_bundle, tiny_bundle))
    for name, value in bare.items():
        assert math.isnan(value) if name.startswith("held_out") else value == whole[name]


def test_judging_leaves_no_gradient_and_no_trace(tiny_bundle):
    images, before = images_of(4), torch.get_rng_state()
    kept = images.clone()
    assert judge(tiny_bundle, images, 1) == judge(tiny_bundle, images, 1)
    assert torch.equal(images, kept) and torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in tiny_bundle.held_out.parameters())
