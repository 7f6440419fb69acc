"""Bounds and identities of the two kinds of information."""

import math

import pytest
import torch

from igds.information import batch_reference, contextual_kl, entropy, prototype_information


def random_probabilities(seed: int, n: int, d: int, sharpness: float) -> torch.Tensor:
    logits = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.softmax(sharpness * logits, dim=1)


CASES = [(seed, n, d, s) for seed in range(4) for n, d in [(1, 5), (2, 128), (7, 3), (50, 16)] for s in (0.1, 2, 30)]


@pytest.mark.parametrize("d", [1, 2, 10, 1000])
def test_entropy_of_the_uniform_distribution_is_log_d(d):
    assert float(entropy(torch.full((d,), 1 / d, dtype=torch.float64))) == pytest.approx(math.log(d), abs=1e-12)


def test_entropy_of_a_certain_outcome_is_zero():
    assert float(entropy(torch.tensor([0.0, 1.0, 0.0]))) == 0


def test_entropy_of_a_fair_and_a_loaded_coin():
    p = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64)
    expected = [math.log(2), 0.25 * math.log(4) + 0.75 * math.log(4 / 3)]
    assert entropy(p).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("seed, n, d, sharpness", CASES)
def test_contextual_lies_between_0_and_log_n_and_log_d(seed, n, d, sharpness):
    p = random_probabilities(seed, n, d, sharpness)
    kl = contextual_kl(p, batch_reference(p))
    assert (kl >= -1e-12).all()
    assert float(kl.mean()) <= min(math.log(n), math.log(d)) + 1e-12
    assert (kl <= math.log(n) + 1e-12).all()


@pytest.mark.parametrize("seed, n, d, sharpness", CASES)
def test_mean_contextual_is_the_entropy_gained_by_mixing(seed, n, d, sharpness):
    p = random_probabilities(seed, n, d, sharpness)
    gained = entropy(p.mean(0)) - entropy(p).mean()
    assert float(contextual_kl(p, batch_reference(p)).mean()) == pytest.approx(float(gained), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_contextual_is_torchs_kl_divergence(seed):
    p, q = random_probabilities(seed, 6, 9, 2), random_probabilities(seed + 100, 6, 9, 2)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(probs=p), torch.distributions.Categorical(probs=q)
    )
    torch.testing.assert_close(contextual_kl(p, q), expected)
    torch.testing.assert_close(contextual_kl(p, q[0])[0], expected[0])


def test_contextual_of_one_image_is_zero():
    p = random_probabilities(0, 1, 128, 5)
    assert float(contextual_kl(p, batch_reference(p))) == 0


def test_contextual_reaches_log_n_where_the_images_share_nothing():
    p = torch.eye(4, 10)
    assert contextual_kl(p, batch_reference(p)).tolist() == pytest.approx([math.log(4)] * 4)


def test_contextual_gradient_is_that_of_the_softmax():
    z = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    q = random_probabilities(1, 1, 5, 1)[0]
    p = z.softmax(1)
    (gradient,) = torch.autograd.grad(contextual_kl(p, q).sum(), z)
    log_ratio = torch.log(p / q)
    torch.testing.assert_close(gradient, p * (log_ratio - (p * log_ratio).sum(1, keepdim=True)))


def test_contextual_gradient_is_finite_where_a_softmax_underflows():
    z = torch.tensor([[0.0, -200.0], [-200.0, 0.0], [0.0, 0.0]], requires_grad=True)
    p = z.softmax(1)
    assert (p == 0).any()
    kl = contextual_kl(p, batch_reference(p))
    (gradient,) = torch.autograd.grad(kl.sum(), z)
    assert kl.tolist() == pytest.approx([math.log(2), math.log(2), 0], abs=1e-6)
    assert gradient.abs().max() < 1e-6


def test_batch_reference_is_the_detached_mean():
    p = random_probabilities(0, 4, 6, 1).requires_grad_()
    q = batch_reference(p)
    assert not q.requires_grad
    torch.testing.assert_close(q, p.detach().sum(0) / 4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [2, 10])
def test_prototype_never_exceeds_the_label_entropy(seed, k):
    log_probs = torch.log(random_probabilities(seed, 30, k, 5))
    labels = torch.randint(k, (30,), generator=torch.Generator().manual_seed(seed))
    prototype = prototype_information(log_probs, labels, math.log(k))
    assert (prototype <= math.log(k) + 1e-12).all()
    expected = [math.log(k) + float(log_probs[i, label]) for i, label in enumerate(labels.tolist())]
    assert prototype.tolist() == pytest.approx(expected)


def test_prototype_is_log_k_for_certainty_and_0_for_a_guess():
    log_probs = torch.log(torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]]))
    assert prototype_information(log_probs, torch.tensor([0, 3]), math.log(4)).tolist() == pytest.approx(
        [math.log(4), 0], abs=1e-6
    )
