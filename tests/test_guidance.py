"""The guidance step against the gradient of eq. 29, written out here a second time."""

import copy

import pytest
import torch
from torch import nn

from igds.encoders import Encoder, smooth
from igds.estimator import VariationalEstimator
from igds.priors.mixture import MixturePrior
from igds.rng import image_seeds
from igds.sampling import SCALINGS, SOLVERS, ClassBatch, Guidance, paired, sample, sample_progressive

LABEL = 1
SEEDS = image_seeds(0, LABEL, 4)
ETA = 0.5


@pytest.fixture(scope="module")
def plane():
    """Three classes of two modes in the plane, and an estimator with a random smooth f."""
    generator = torch.Generator().manual_seed(0)
    prior = MixturePrior(torch.randn(3, 2, 2, generator=generator), torch.full((3, 2), 0.3))
    encoder = nn.Sequential(nn.Linear(2, 16), nn.Softplus(), nn.Linear(16, 8))
    estimator = VariationalEstimator(encoder, 3, features=8, tau=0.5)
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
        estimator.class_means.copy_(torch.randn(3, 8, generator=generator).softmax(1))
    return prior, estimator.requires_grad_(False)


def objective(estimator, x, label, beta, q=None):
    """Σ_i log P(y | g(f(x_i))) + β·KL(p_i ‖ Q) in plain formulas; Q̂ is a constant taken at x."""
    features = estimator.encoder(x)
    logits = features @ estimator.classifier.weight.T + estimator.classifier.bias
    scores = torch.exp(features / estimator.tau)
    p = scores / scores.sum(1, keepdim=True)
    q = p.detach().mean(0) if q is None else q
    log_likelihood = logits[:, label] - torch.log(torch.exp(logits).sum(1))
    return (log_likelihood + beta * (p * torch.log(p / q)).sum(1)).sum()


def gradient_of(estimator, x, label, beta, q=None):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(objective(estimator, x, label, beta, q), x)[0]


def first_step(prior, estimator, guidance, **settings):
    """The first event of an unguided and of a guided run, which share everything before the guidance."""
    batches = [ClassBatch(LABEL, SEEDS, Guidance(at=guidance.at)), ClassBatch(LABEL, SEEDS, guidance)]
    return next(sample_progressive(prior, estimator, batches, steps=10, **settings)).batches


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("reference", ["batch", "class"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 10.0])
def test_the_step_is_eta_times_the_gradient_at_x_prev(plane, solver, reference, beta):
    prior, estimator = plane
    guidance = Guidance(beta=beta, eta=ETA, reference=reference)
    unguided, guided = first_step(prior, estimator, guidance, solver=solver)
    q = estimator.class_means[LABEL] if reference == "class" else None
    expected = gradient_of(estimator, unguided.x, LABEL, beta, q)
    torch.testing.assert_close(guided.x - unguided.x, ETA * expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(guided.gradient_norm, expected.norm(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(guided.x0, unguided.x0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scaling, power", [("constant", 0), ("deviation", 1), ("variance", 2)])
def test_the_step_is_eta_times_the_scalings_power_of_sigma_times_the_gradient(plane, solver, scaling, power):
    prior, estimator = plane
    guidance = Guidance(beta=2.0, eta=ETA, scaling=scaling)
    batches = [ClassBatch(LABEL, SEEDS, Guidance()), ClassBatch(LABEL, SEEDS, guidance)]
    unguided, guided = next(sample_progressive(prior, estimator, batches, steps=10, solver=solver)).batches
    sigma = prior.schedule.respaced(10, spacing=SOLVERS[solver].spacing).posterior(9)[2]
    expected = gradient_of(estimator, unguided.x, LABEL, 2.0)
    torch.testing.assert_close(guided.x - unguided.x, ETA * sigma**power * expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(guided.gradient_norm, expected.norm(dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("at", ["x_prev", "x0"])
@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_a_normalised_step_has_the_gradients_direction_and_is_eta_variance_in_root_mean_square(plane, solver, at, beta):
    prior, estimator = plane
    guidance = Guidance(beta=beta, eta=ETA, scaling="normalised", at=at)
    unguided, guided = first_step(prior, estimator, guidance, solver=solver)
    sigma = prior.schedule.respaced(10, spacing=SOLVERS[solver].spacing).posterior(9)[2]
    place = "x" if at == "x_prev" else "x0"
    before = getattr(unguided, place)
    move, gradient = getattr(guided, place) - before, gradient_of(estimator, before, LABEL, beta)
    torch.testing.assert_close(move.square().mean(1).sqrt(), torch.full((4,), ETA * sigma**2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cosine_similarity(move, gradient), torch.ones(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(guided.gradient_norm, gradient.norm(dim=1), rtol=1e-4, atol=1e-5)


def test_a_normalised_step_is_the_same_however_steep_the_objective_is(plane):
    prior, estimator = plane
    steep = copy.deepcopy(estimator)
    steep.classifier.weight.mul_(1e-3), steep.classifier.bias.mul_(1e-3)
    moves, norms = [], []
    for each in (estimator, steep):
        unguided, guided = first_step(prior, each, Guidance(eta=ETA, scaling="normalised"))
        moves.append((guided.x - unguided.x).norm(dim=1))
        norms.append(guided.gradient_norm)
    torch.testing.assert_close(*moves, rtol=1e-4, atol=0)
    assert (norms[1] < 0.01 * norms[0]).all()


def test_a_normalised_step_along_no_gradient_leaves_the_image_where_it_is(plane):
    prior, estimator = plane
    flat = copy.deepcopy(estimator)
    flat.classifier.weight.zero_()
    unguided, guided = first_step(prior, flat, Guidance(eta=ETA, scaling="normalised"))
    assert torch.equal(unguided.x, guided.x)


@pytest.mark.parametrize("at", ["x_prev", "x0"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_scaling_by_sigma_leaves_the_last_step_unguided(plane, scaling, at):
    prior, estimator = plane
    batches = [ClassBatch(LABEL, SEEDS, Guidance(beta=1.0, eta=0.1, scaling=scaling, at=at))]
    *earlier, last = sample_progressive(prior, estimator, batches, steps=10)
    assert all((step.batches[0].gradient_norm > 0).all() for step in earlier)
    assert (last.batches[0].gradient_norm > 0).all() == (scaling == "constant")
    if scaling != "constant":
        torch.testing.assert_close(last.batches[0].x, last.batches[0].x0)


def test_batches_of_different_scalings_do_not_disturb_each_other(plane):
    prior, estimator = plane
    batches = [ClassBatch(LABEL, SEEDS, Guidance(beta=1.0, eta=0.1, scaling=scaling)) for scaling in SCALINGS]
    together = sample(prior, estimator, batches, steps=5)
    for batch, expected in zip(batches, together, strict=True):
        torch.testing.assert_close(sample(prior, estimator, [batch], steps=5)[0], expected, rtol=0, atol=1e-5)
    assert not torch.allclose(together[0], together[2], atol=1e-3)


@pytest.mark.parametrize("reference", ["batch", "class"])
def test_the_step_at_x0_moves_x0_before_the_solver_uses_it(plane, reference):
    prior, estimator = plane
    unguided, guided = first_step(prior, estimator, Guidance(beta=3.0, eta=ETA, reference=reference, at="x0"))
    q = estimator.class_means[LABEL] if reference == "class" else None
    expected = ETA * gradient_of(estimator, unguided.x0, LABEL, 3.0, q)
    torch.testing.assert_close(guided.x0 - unguided.x0, expected, rtol=1e-4, atol=1e-5)
    on_x0 = prior.schedule.respaced(10).posterior(9)[1]
    torch.testing.assert_close(guided.x - unguided.x, on_x0 * expected, rtol=1e-4, atol=1e-5)


def test_the_step_is_the_finite_difference_of_the_objective(plane):
    prior, estimator = plane
    unguided, guided = first_step(prior, estimator, Guidance(beta=2.0, eta=ETA))
    exact, x = copy.deepcopy(estimator).double(), unguided.x.double()
    q = exact(x)[1].mean(0)
    differences = torch.zeros_like(x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            shift = torch.zeros_like(x)
            shift[i, j] = 1e-5
            up, down = (objective(exact, x + sign * shift, LABEL, 2.0, q) for sign in (1, -1))
            differences[i, j] = (up - down) / 2e-5
    torch.testing.assert_close((guided.x - unguided.x).double() / ETA, differences, rtol=1e-3, atol=1e-5)


def image_estimator(bundle):
    """With fresh weights: a convolutional f that tells noise apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        estimator = VariationalEstimator(Encoder(bundle.estimator.encoder.config), 3, features=16, tau=0.07)
    smooth(estimator)
    return estimator.requires_grad_(False)


@pytest.mark.parametrize("reference", ["batch", "class"])
@pytest.mark.parametrize("at", ["x_prev", "x0"])
def test_images_are_guided_as_written_here_too(tiny_bundle, at, reference):
    prior, estimator = tiny_bundle.prior, image_estimator(tiny_bundle)
    unguided, guided = first_step(prior, estimator, Guidance(beta=5.0, eta=0.5, reference=reference, at=at))
    place = "x" if at == "x_prev" else "x0"
    before, after = getattr(unguided, place), getattr(guided, place)
    q = estimator.class_means[LABEL] if reference == "class" else None
    expected = 0.5 * gradient_of(estimator, before, LABEL, 5.0, q)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(after - before, expected, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 20.0])
@pytest.mark.parametrize("at", ["x_prev", "x0"])
def test_a_small_step_raises_what_it_maximises(plane, at, beta):
    prior, estimator = plane
    unguided, guided = first_step(prior, estimator, Guidance(beta=beta, eta=1e-3, at=at))
    place = "x" if at == "x_prev" else "x0"
    before, after = getattr(unguided, place).double(), getattr(guided, place).double()
    exact = copy.deepcopy(estimator).double()
    q = exact(before)[1].mean(0)
    rise = objective(exact, after, LABEL, beta, q) - objective(exact, before, LABEL, beta, q)
    assert float(rise) == pytest.approx(1e-3 * float(guided.gradient_norm.square().sum()), rel=0.1)
    assert rise > 0


def test_prototype_guidance_raises_the_information_about_the_class_of_the_images(plane):
    prior, estimator = plane
    last = {}
    for step in sample_progressive(prior, estimator, paired(LABEL, SEEDS, Guidance(beta=0, eta=0.1)), steps=20):
        last = {column: float(batch.prototype.mean()) for column, batch in zip(("none", "some"), step.batches)}
    assert last["some"] > last["none"] + 0.01


def test_contextual_guidance_raises_the_variety_that_the_estimator_sees(plane):
    prior, estimator = plane
    *_, last = sample_progressive(prior, estimator, paired(LABEL, SEEDS, Guidance(beta=10, eta=0.05)), steps=20)
    _, prototype, contextual = last.batches
    assert float(contextual.contextual.mean()) > float(prototype.contextual.mean()) + 0.01


def test_the_step_of_an_image_does_not_shrink_with_n(plane):
    prior, estimator = plane
    norms = []
    for n in (1, 10):
        batches = [ClassBatch(LABEL, image_seeds(0, LABEL, n), Guidance(eta=ETA))]
        norms.append(next(sample_progressive(prior, estimator, batches, steps=10)).batches[0].gradient_norm[0])
    assert float(norms[0]) > 0.01
    torch.testing.assert_close(norms[0], norms[1])


def test_beta_has_no_effect_on_one_image_against_its_own_batch(plane):
    prior, estimator = plane
    without, with_beta = (
        sample(prior, estimator, [ClassBatch(LABEL, SEEDS[:1], Guidance(beta=beta, eta=ETA))], steps=10)[0]
        for beta in (0.0, 50.0)
    )
    torch.testing.assert_close(without, with_beta, rtol=0, atol=1e-4)


def test_beta_acts_on_one_image_against_the_class_mean(plane):
    prior, estimator = plane
    without, with_beta = (
        sample(
            prior,
            estimator,
            [ClassBatch(LABEL, SEEDS[:1], Guidance(beta=beta, eta=0.1, reference="class"))],
            steps=10,
        )[0]
        for beta in (0.0, 5.0)
    )
    assert (without - with_beta).abs().max() > 0.01


@pytest.mark.parametrize("at", ["x_prev", "x0"])
@pytest.mark.parametrize("interval", [(0.0, 0.5), (0.5, 1.0), (0.3, 0.6)])
def test_guidance_acts_inside_its_interval_and_nowhere_else(plane, at, interval):
    prior, estimator = plane
    batches = [ClassBatch(LABEL, SEEDS, Guidance(eta=0.1, at=at, interval=interval))]
    inside = 0
    for step in sample_progressive(prior, estimator, batches, steps=20):
        acts = interval[0] <= (step.t + 1) / 1000 <= interval[1]
        inside += acts
        assert ((step.batches[0].gradient_norm > 0) == acts).all()
    assert 0 < inside < 20


def test_before_its_interval_a_guided_run_is_the_unguided_one(plane):
    prior, estimator = plane
    batches = paired(LABEL, SEEDS, Guidance(beta=1, eta=0.3, interval=(0.0, 0.5)), ["unguided", "contextual"])
    for step in sample_progressive(prior, estimator, batches, steps=20):
        unguided, guided = step.batches
        assert torch.allclose(unguided.x, guided.x, atol=1e-6) == ((step.t + 1) / 1000 > 0.5)


def test_the_measured_information_is_that_before_the_move(plane):
    prior, estimator = plane
    unguided, guided = first_step(prior, estimator, Guidance(beta=2.0, eta=ETA))
    torch.testing.assert_close(guided.prototype, unguided.prototype)
    torch.testing.assert_close(guided.contextual, unguided.contextual)
    assert not unguided.gradient_norm.any()


def test_the_estimators_weights_gather_no_gradient(plane):
    prior, estimator = plane
    trained = copy.deepcopy(estimator).requires_grad_()
    sample(prior, trained, [ClassBatch(LABEL, SEEDS, Guidance(beta=1, eta=ETA))], steps=3)
    assert all(parameter.grad is None for parameter in trained.parameters())
