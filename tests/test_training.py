"""Algorithm 1 against a plain second implementation, and trainings that can be interrupted."""

import copy
import math
from itertools import count
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import igds.training
from igds.data import ImageSet, to_unit
from igds.encoders import Encoder, EncoderConfig
from igds.priors.unet import UNetPrior
from igds.schedule import Schedule
from igds.training import (
    ContrastiveObjective,
    PriorObjective,
    Training,
    add_noise,
    fit_linear,
    train_linear_classifier,
)

CONFIG = EncoderConfig(channels=1, widths=(8, 16), space_to_depth=2, features=16)
SCHEDULE = Schedule.named("cosine", 100)


def identity(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return x


def jitter(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return x + 0.3 * torch.randn(x.shape, generator=generator)


def contrastive(augment=identity, **settings) -> ContrastiveObjective:
    torch.manual_seed(0)
    return ContrastiveObjective(Encoder(CONFIG), augment, schedule=SCHEDULE, num_classes=2, **{"queue": 12, **settings})


def striped(n: int, seed: int = 0) -> ImageSet:
    """Two classes that anyone can tell apart: bright above or bright below, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=generator)
    images = torch.randint(60, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
    images[labels == 0, :, :4] += 180
    images[labels == 1, :, 4:] += 180
    return ImageSet(images, labels, ("above", "below"))


def algorithm_1(q, k, queue, tau, lambda_):
    """The loss, image by image: −log of the positive's share of exp(·/τ), minus λ·KL(H_q ‖ (H_q + H_k)/2)."""
    total = 0.0
    for query, key in zip(q, k):
        positive = math.exp(float(query @ key) / tau)
        negatives = sum(math.exp(float(query @ other) / tau) for other in queue)
        h_q, h_k = torch.softmax(query, 0), torch.softmax(key, 0)
        mean = (h_q + h_k) / 2
        total += -math.log(positive / (positive + negatives)) - lambda_ * float((h_q * torch.log(h_q / mean)).sum())
    return total / len(q)


@pytest.mark.parametrize("lambda_", [0.0, 1.0, 25.0])
@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_contrastive_loss_is_algorithm_1_on_the_same_views(lambda_, tau):
    objective = contrastive(jitter, tau=tau, lambda_=lambda_)
    with torch.no_grad():
        for parameter in objective.momentum_encoder.parameters():
            parameter.add_(0.1)
    data = striped(5)
    loss = objective(data.images, data.labels, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    x = to_unit(data.images)
    with torch.no_grad():
        q = objective.network(jitter(x, generator)).double()
        k = objective.momentum_encoder(jitter(x, generator)).double()
    expected = algorithm_1(q, k, objective.queue.double(), tau, lambda_)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_lambda_0_is_moco():
    objective = contrastive(jitter, lambda_=0.0)
    data = striped(6)
    loss = objective(data.images, data.labels, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    x = to_unit(data.images)
    with torch.no_grad():
        q, k = (network(jitter(x, generator)) for network in (objective.network, objective.momentum_encoder))
    logits = torch.cat([torch.einsum("nc,nc->n", q, k)[:, None], torch.einsum("nc,kc->nk", q, objective.queue)], 1)
    expected = F.cross_entropy(logits / 0.07, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(loss.detach(), expected)


def test_lambda_adds_variety_between_the_views_and_keys_get_no_gradient():
    plain, varied = contrastive(jitter, lambda_=0.0), contrastive(jitter, lambda_=5.0)
    data = striped(6)
    losses = [objective(data.images, data.labels, torch.Generator().manual_seed(0)) for objective in (plain, varied)]
    assert losses[1] < losses[0]
    losses[1].backward()
    assert all(parameter.grad is None for parameter in varied.momentum_encoder.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in varied.network.parameters())


def test_without_label_weight_the_loss_is_algorithm_1_whatever_the_labels():
    objective, data = contrastive(jitter), striped(6)
    losses = [
        objective(data.images, labels, torch.Generator().manual_seed(0)) for labels in (data.labels, 1 - data.labels)
    ]
    assert torch.equal(*losses)
    losses[0].backward()
    assert all(parameter.grad is None for parameter in objective.head.parameters())


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_label_weight_adds_the_heads_cross_entropy_on_f_over_tau(weight):
    data = striped(6)
    plain, labelled = contrastive(jitter, tau=0.2), contrastive(jitter, tau=0.2, label_weight=weight)
    without, with_labels = (
        objective(data.images, data.labels, torch.Generator().manual_seed(0)) for objective in (plain, labelled)
    )
    q = labelled.network(jitter(to_unit(data.images), torch.Generator().manual_seed(0)))
    logits = (q / 0.2) @ labelled.head.weight.T + labelled.head.bias
    cross_entropy = -(logits - torch.logsumexp(logits, 1, keepdim=True))[torch.arange(6), data.labels].mean()
    torch.testing.assert_close(with_labels, without + weight * cross_entropy)
    with_labels.backward()
    assert all(parameter.grad.any() for parameter in labelled.head.parameters())


def test_a_training_with_labels_trains_the_head_and_keeps_it_in_its_checkpoint(tiny_bundle, tmp_path):
    def training(**settings):
        return Training(
            contrastive(jitter, label_weight=1.0), striped(20), images=64, batch_size=8, learning_rate=1e-2, **settings
        )

    part = training(checkpoint=tmp_path / "part.pt")
    before = copy.deepcopy(part.objective.head.state_dict())
    for _ in part.run():
        pass
    after = part.objective.head.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    resumed = training(checkpoint=tmp_path / "part.pt").objective.head.state_dict()
    assert all(torch.equal(resumed[name], after[name]) for name in after)


def test_labels_teach_the_encoder_to_tell_the_classes_apart():
    data = striped(64)
    objective = contrastive(jitter, tau=0.2, label_weight=5.0)
    for _ in Training(objective, data, images=64 * 40, batch_size=64, learning_rate=1e-2).run():
        pass
    objective.eval()
    held_out = striped(100, seed=1)
    with torch.no_grad():
        logits = objective.head(objective.network(to_unit(held_out.images)) / objective.tau)
    assert float((logits.argmax(1) == held_out.labels).float().mean()) > 0.9


def test_momentum_encoder_follows_at_its_rate():
    objective = contrastive(momentum=0.9)
    before = [parameter.clone() for parameter in objective.momentum_encoder.parameters()]
    data = striped(4)
    objective(data.images, data.labels, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in objective.network.parameters():
            parameter.add_(1.0)
    objective.after_step()
    for old, new in zip(before, objective.momentum_encoder.parameters()):
        torch.testing.assert_close(new, old + 0.1)


def test_momentum_encoder_starts_as_a_copy_of_its_own():
    objective = contrastive()
    for own, mean in zip(objective.network.parameters(), objective.momentum_encoder.parameters()):
        assert torch.equal(own, mean) and own.data_ptr() != mean.data_ptr()


@pytest.mark.parametrize("n", [5, 12, 20])
def test_queue_takes_the_keys_in_and_drops_the_oldest(n):
    objective = contrastive(queue=12)
    old, data = objective.queue.clone(), striped(n)
    objective(data.images, data.labels, torch.Generator().manual_seed(0))
    keys = objective.momentum_encoder(to_unit(data.images))
    objective.after_step()
    assert objective.queue.shape == (12, 16)
    kept = min(n, 12)
    torch.testing.assert_close(objective.queue[:kept], keys[:kept])
    torch.testing.assert_close(objective.queue[kept:], old[: 12 - kept])


def test_queue_starts_with_unit_vectors():
    torch.testing.assert_close(contrastive().queue.norm(dim=1), torch.ones(12))


def test_views_are_noisy_in_their_share_and_below_their_limit():
    x = torch.zeros(3000, 1, 2, 2)
    noisy = add_noise(x, SCHEDULE, torch.Generator().manual_seed(0), share=0.7, limit=0.5)
    untouched = (noisy == x).flatten(1).all(1)
    assert abs(float(untouched.float().mean()) - 0.3) < 4 * (0.3 * 0.7 / 3000) ** 0.5
    variance = float(noisy[~untouched].square().mean())
    expected = (1 - SCHEDULE.alpha_bars[:50]).mean()
    assert variance == pytest.approx(expected, rel=0.1)
    assert add_noise(x, SCHEDULE, torch.Generator(), share=0.0, limit=0.5) is x


def test_noisy_views_keep_the_forward_process_scale():
    x = torch.ones(4000, 1, 1, 1)
    noisy = add_noise(x, Schedule([0.36, 0.36]), torch.Generator().manual_seed(0), share=1.0, limit=0.5)
    assert float(noisy.mean()) == pytest.approx(0.8, abs=4 * 0.6 / 4000**0.5)
    assert float(noisy.std()) == pytest.approx(0.6, rel=0.05)


@pytest.fixture
def prior(tiny_bundle):
    torch.manual_seed(0)
    return UNetPrior(tiny_bundle.prior.config)


def mean_loss(objective, data) -> float:
    generator = torch.Generator().manual_seed(99)
    with torch.no_grad():
        return float(torch.stack([objective(data.images, data.labels, generator) for _ in range(4)]).mean())


def test_training_a_prior_lowers_its_loss_and_that_of_its_average(prior):
    data = striped(32)
    objective = PriorObjective(prior, ema=0.8)
    before = mean_loss(objective, data)
    *_, last = Training(objective, data, images=40 * 8, batch_size=8, learning_rate=4e-2, decay=0.2).run()
    assert (last.images, last.total) == (320, 320)
    assert mean_loss(objective, data) < 0.9 * before
    averaged = copy.deepcopy(objective)
    averaged.network = objective.result
    assert mean_loss(averaged, data) < 0.9 * before


def test_prior_loss_of_an_untrained_network_is_the_targets_mean_square(prior):
    data = striped(16)
    objective = PriorObjective(prior)
    loss = objective(data.images, data.labels, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    t = torch.randint(100, (16,), generator=generator)
    noise = torch.randn(16, 1, 8, 8, generator=generator)
    alpha_bar = torch.tensor(prior.schedule.alpha_bars, dtype=torch.float32)[t].view(-1, 1, 1, 1)
    target = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * to_unit(data.images)
    assert float(loss.detach()) == pytest.approx(float(target.square().mean()), rel=1e-5)


def test_flipping_shows_the_prior_every_image_and_its_mirror_image_alike(prior):
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    images, labels = image.repeat(64, 1, 1, 1), torch.zeros(64, dtype=torch.long)
    targets = []
    for flip in (False, True):
        objective = PriorObjective(prior, flip=flip)
        shown = []
        objective.network.target = lambda x0, *_, shown=shown: shown.append(x0) or torch.zeros(())
        objective(images, labels, torch.Generator().manual_seed(0))
        del objective.network.target
        targets.append(shown[0])
    assert torch.equal(targets[0], to_unit(images))
    mirrored = (targets[1] == targets[0].flip(-1)).flatten(1).all(1)
    same = (targets[1] == targets[0]).flatten(1).all(1)
    assert (mirrored ^ same).all() and 16 < mirrored.sum() < 48


def test_the_average_warms_up_from_the_first_weights(prior):
    objective = PriorObjective(prior, ema=0.9995)
    parameter, average = next(objective.network.parameters()), next(objective.result.parameters())
    with torch.no_grad():
        parameter.fill_(1.0)
        objective.after_step()
        assert torch.equal(average, parameter)
        parameter.fill_(2.0)
        objective.after_step()
    rate = (1 + 1) / (10 + 1)
    torch.testing.assert_close(average, torch.full_like(average, rate * 1 + (1 - rate) * 2))


def test_a_prior_that_predicts_a_variance_is_not_trained(tiny_bundle):
    config = type(tiny_bundle.prior.config)(**{**vars(tiny_bundle.prior.config), "learn_sigma": True})
    with pytest.raises(ValueError, match="learn_sigma") as raised:
        PriorObjective(UNetPrior(config))
    assert "\n" not in str(raised.value)


@pytest.fixture
def fast_clock(monkeypatch):
    """Two seconds pass between any two looks at the clock, so that every step is an event."""
    ticks = count(step=2.0)
    monkeypatch.setattr(igds.training, "time", SimpleNamespace(monotonic=lambda: next(ticks)))


def new_training(kind, tiny_bundle, checkpoint=None, images=8 * 10) -> Training:
    torch.manual_seed(0)
    if kind == "prior":
        objective = PriorObjective(UNetPrior(tiny_bundle.prior.config))
    else:
        objective = contrastive(jitter, noise_share=0.5)
    return Training(
        objective, striped(20), images=images, batch_size=8, weight_decay=0.1, seed=4, checkpoint=checkpoint
    )


def everything(training: Training) -> dict:
    state = dict(training.objective.state_dict())
    for i, values in training._optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{i}.{name}": value for name, value in values.items()}
    return state | {"generator": training._generator.get_state(), "seen": torch.tensor(training.seen)}


@pytest.mark.parametrize("kind", ["prior", "contrastive"])
@pytest.mark.parametrize("stops", [(3,), (1, 5, 9)])
def test_an_interrupted_training_resumes_bit_for_bit(tiny_bundle, tmp_path, fast_clock, kind, stops):
    whole = new_training(kind, tiny_bundle)
    for _ in whole.run():
        pass
    for stop in stops:
        part = new_training(kind, tiny_bundle, tmp_path / "part.pt")
        events = part.run()
        for event in events:
            if event.images == 8 * stop:
                break
        events.close()
        assert part.seen == 8 * stop
    resumed = new_training(kind, tiny_bundle, tmp_path / "part.pt")
    assert resumed.seen == 8 * stops[-1]
    assert [event.images for event in resumed.run()] == [8 * n for n in range(stops[-1] + 1, 11)]
    expected, got = everything(whole), everything(resumed)
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_a_finished_training_that_is_run_again_does_nothing(tiny_bundle, tmp_path, fast_clock):
    for _ in new_training("contrastive", tiny_bundle, tmp_path / "part.pt").run():
        pass
    assert list(new_training("contrastive", tiny_bundle, tmp_path / "part.pt").run()) == []


def test_a_time_limit_stops_a_training_that_then_goes_on(tiny_bundle, tmp_path, fast_clock):
    part = new_training("contrastive", tiny_bundle, tmp_path / "part.pt")
    for _ in part.run(minutes=10 / 60):
        pass
    assert 0 < part.seen < part.images
    assert new_training("contrastive", tiny_bundle, tmp_path / "part.pt").seen == part.seen


def test_training_reaches_a_total_that_no_batch_divides(tiny_bundle):
    training = new_training("contrastive", tiny_bundle, images=20)
    *_, last = training.run()
    assert last.images >= 20 and training.seen == last.images


def test_saving_leaves_no_partial_file(tiny_bundle, tmp_path):
    new_training("contrastive", tiny_bundle, tmp_path / "deep" / "part.pt").save()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["part.pt"]


def assert_refused(tiny_bundle, path):
    before = path.read_bytes()
    with pytest.raises(ValueError) as raised:
        new_training("contrastive", tiny_bundle, path)
    message = str(raised.value)
    assert str(path) in message and "delete it to start afresh" in message and "\n" not in message
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_objective_is_refused(tiny_bundle, tmp_path):
    new_training("prior", tiny_bundle, tmp_path / "part.pt").save()
    assert_refused(tiny_bundle, tmp_path / "part.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not one", None], ids=["empty", "zip", "text", "cut"])
def test_a_damaged_checkpoint_is_refused(tiny_bundle, tmp_path, content):
    path = tmp_path / "part.pt"
    new_training("contrastive", tiny_bundle, path).save()
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    assert_refused(tiny_bundle, path)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a checkpoint ran code')",)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tiny_bundle, tmp_path):
    path = tmp_path / "part.pt"
    torch.save({"objective": Bomb()}, path)
    assert_refused(tiny_bundle, path)


def test_learning_rate_warms_up_stays_and_falls_to_zero(tiny_bundle):
    training = new_training("contrastive", tiny_bundle, images=8 * 1000)
    rates = []
    for step in range(1000):
        training.seen = 8 * step
        rates.append(training._rate())
    assert rates[:200] == pytest.approx([(step + 1) / 200 for step in range(200)])
    assert rates[200:600] == [1.0] * 400
    assert rates[600:] == pytest.approx([(1000 - step) / 400 for step in range(600, 1000)])


@pytest.fixture(scope="module")
def linear():
    torch.manual_seed(0)
    encoder, data = Encoder(CONFIG), striped(200)
    return encoder, data, train_linear_classifier(encoder, data, tau=0.1)


def test_linear_classifier_separates_classes_that_are_separable(linear):
    _, data, estimator = linear
    for part in (data, striped(100, seed=1)):
        assert (estimator(to_unit(part.images))[0].argmax(1) == part.labels).float().mean() > 0.98


def test_class_means_are_the_mean_p_of_each_class_and_frequencies_the_shares(linear):
    _, data, estimator = linear
    p = estimator(to_unit(data.images))[1]
    for label in range(2):
        torch.testing.assert_close(estimator.class_means[label], p[data.labels == label].mean(0))
        share = float((data.labels == label).float().mean())
        assert float(estimator.class_frequencies[label]) == pytest.approx(share)


def test_linear_training_freezes_a_smooth_copy_and_leaves_the_encoder_alone(linear):
    encoder, _, estimator = linear
    assert any(isinstance(module, torch.nn.ReLU) for module in encoder.modules())
    assert not any(isinstance(module, torch.nn.ReLU) for module in estimator.modules())
    for own, frozen in zip(encoder.parameters(), estimator.encoder.parameters(), strict=True):
        assert torch.equal(own, frozen) and own.requires_grad
    assert not any(parameter.requires_grad for parameter in estimator.parameters())


def test_linear_training_on_views_keeps_the_class_means_of_clean_images(linear):
    encoder, data, clean = linear
    noisy = train_linear_classifier(encoder, data, tau=0.1, views=jitter, passes=2)
    torch.testing.assert_close(noisy.class_means, clean.class_means)
    assert not torch.allclose(noisy.classifier.weight, clean.classifier.weight)
    assert (noisy(to_unit(data.images))[0].argmax(1) == data.labels).float().mean() > 0.98


def test_linear_training_twice_on_the_same_encoder_gives_the_same_classifier(linear):
    encoder, data, estimator = linear
    again = train_linear_classifier(encoder, data, tau=0.1)
    assert torch.equal(again.classifier.weight, estimator.classifier.weight)


def test_fit_linear_finds_the_minimum_of_the_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (200,), generator=generator)
    linear = torch.nn.Linear(3, 3).double()
    fit_linear(linear, features, labels, iterations=300, decay=0.0)
    residual = torch.softmax(linear(features), 1) - F.one_hot(labels, 3)
    assert (residual.T @ features / 200).abs().max() < 1e-4
    assert residual.mean(0).abs().max() < 1e-4
