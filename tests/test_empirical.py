"""The exact denoiser of images against brute force, the exact mixture and finite differences; what its samples are."""

import json

import pytest
import torch

import igds.priors.empirical as empirical
from app.bundle_cards import card_of
from igds.bundle import limits_of, load_bundle, read_card, save_bundle
from igds.cli import main
from igds.data import ImageSet, to_unit
from igds.encoders import Encoder
from igds.hub import model_card
from igds.priors.empirical import LIMITS, EmpiricalConfig, EmpiricalPrior
from igds.priors.mixture import MixturePrior
from igds.rng import image_seeds
from igds.sampling import SOLVERS, ClassBatch, Guidance, sample
from igds.training import train_linear_classifier
from tests.conftest import TINY_ENCODER, real_images, tiny_estimator


def uneven(seed: int = 0) -> ImageSet:
    """Classes of 5, 1 and 3 images of 2×4×4, their labels shuffled."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0, 2, 0, 1, 2, 0, 0, 2, 0])
    return ImageSet(torch.randint(256, (9, 2, 4, 4), dtype=torch.uint8, generator=generator), labels, ("a", "b", "c"))


def images_of(data: ImageSet, label: int, flip: bool) -> torch.Tensor:
    images = to_unit(data.of_class(label)).double()
    return torch.cat([images, images.flip(-1)]) if flip else images


def brute_force(x: torch.Tensor, images: torch.Tensor, alpha_bar: float) -> torch.Tensor:
    """Bayes' rule image by image: the weights N(x; √ᾱ·x_i, 1−ᾱ), normalised."""
    logs = torch.tensor([-float((x - alpha_bar**0.5 * x_i).square().sum()) / 2 / (1 - alpha_bar) for x_i in images])
    weights = torch.exp(logs.double() - logs.max())
    return sum(weight * x_i for weight, x_i in zip(weights / weights.sum(), images))


def noisy(data: ImageSet, labels: torch.Tensor, alpha_bar: float, seed: int = 1) -> torch.Tensor:
    """x_t of an image of each label, so that the weights are those that a sampler meets."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.stack([to_unit(data.of_class(int(label)))[-1] for label in labels])
    return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * torch.randn(x0.shape, generator=generator)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("t", [0, 300, 700, 999])
def test_denoise_is_bayes_rule_over_the_images_of_the_class(t, flip):
    data = uneven()
    prior = EmpiricalPrior.of(data, flip=flip)
    y = torch.tensor([2, 0, 1, 0, 2])
    alpha_bar = float(prior.schedule.alpha_bars[t])
    x = noisy(data, y, alpha_bar)
    expected = torch.stack(
        [brute_force(x_t.double(), images_of(data, int(k), flip), alpha_bar) for x_t, k in zip(x, y)]
    )
    x0 = prior.denoise(x, t, y).x0
    assert x0.dtype == torch.float32
    torch.testing.assert_close(x0.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("t", [5, 500, 950])
def test_it_is_the_mixture_of_vanishing_variance_at_the_images(t):
    data = ImageSet(uneven().images[:8], torch.arange(8) // 4, ("a", "b"))
    means = to_unit(data.images).double().view(2, 4, 2, 4, 4)
    mixture = MixturePrior(means, torch.full((2, 4), 1e-6, dtype=torch.float64))
    y = torch.tensor([0, 1, 1])
    x = noisy(data, y, float(mixture.schedule.alpha_bars[t]))
    expected = mixture.denoise(x.double(), t, y).x0
    torch.testing.assert_close(EmpiricalPrior.of(data).denoise(x, t, y).x0.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("flip", [False, True])
def test_gradient_is_that_of_finite_differences_and_of_the_posterior_covariance(flip):
    """∂x̃0/∂x_t = √ᾱ/(1−ᾱ)·Cov(x0 | x_t)."""
    data, t = uneven(), 850
    prior = EmpiricalPrior.of(data, flip=flip)
    alpha_bar = float(prior.schedule.alpha_bars[t])
    y = torch.tensor([0, 2])
    x = noisy(data, y, alpha_bar).double()
    direction, along = (torch.randn(x.shape, generator=torch.Generator().manual_seed(s)).double() for s in (2, 3))

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((prior.denoise(leaf, t, y).x0 * direction).sum(), leaf)
    step = 1e-5
    ends = [(prior.denoise(x + sign * step * along, t, y).x0 * direction).sum() for sign in (1, -1)]
    assert float((gradient * along).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-6)

    for row, label in enumerate(y.tolist()):
        images = images_of(data, label, flip).flatten(1)
        weights = torch.softmax(-(x[row].flatten() - alpha_bar**0.5 * images).square().sum(1) / 2 / (1 - alpha_bar), 0)
        assert weights.max() < 0.999  # else there is hardly a gradient to compare
        centred = images - weights @ images
        covariance = (weights[:, None] * centred).T @ centred
        expected = alpha_bar**0.5 / (1 - alpha_bar) * covariance @ direction[row].flatten()
        torch.testing.assert_close(gradient[row].flatten(), expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("t", [0, 600, 999])
def test_a_class_with_one_image_is_that_image_at_every_noise(t):
    data = uneven()
    x = 5 * torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    x0 = EmpiricalPrior.of(data).denoise(x, t, torch.ones(4, dtype=torch.long)).x0
    torch.testing.assert_close(x0, to_unit(data.of_class(1)).expand(4, -1, -1, -1))


def test_pure_noise_tells_nothing_but_the_mean_of_the_class():
    data = uneven()
    prior = EmpiricalPrior.of(data)
    x0 = prior.denoise(torch.randn(1, 2, 4, 4), 999, torch.tensor([0])).x0[0]
    torch.testing.assert_close(x0, to_unit(data.of_class(0)).mean(0), rtol=0, atol=0.01)


def test_mirrored_states_have_mirrored_answers():
    prior, y = EmpiricalPrior.of(uneven(), flip=True), torch.tensor([0, 2])
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    there = prior.denoise(x, 700, y).x0
    torch.testing.assert_close(prior.denoise(x.flip(-1), 700, y).x0, there.flip(-1))
    assert (there - there.flip(-1)).abs().max() > 0.1


@pytest.mark.parametrize("numbers", [1, 32 * 2, 32 * 7])
def test_answers_and_gradients_do_not_depend_on_the_chunk(monkeypatch, numbers):
    """One image a chunk, two, and more than a class has, against all at once."""
    prior, y = EmpiricalPrior.of(uneven(), flip=True), torch.tensor([2, 0, 0, 1])
    x = torch.randn(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))

    def answer():
        leaf = x.clone().requires_grad_()
        x0 = prior.denoise(leaf, 800, y).x0
        return x0.detach(), torch.autograd.grad(x0.square().sum(), leaf)[0]

    whole = answer()
    monkeypatch.setattr(empirical, "CHUNK", numbers)
    for one, other in zip(answer(), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_answers_do_not_depend_on_who_is_asked_about_beside():
    prior, y = EmpiricalPrior.of(uneven()), torch.tensor([0, 2, 0, 1, 0])
    x = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    together = prior.denoise(x, 800, y).x0
    for row in range(5):
        torch.testing.assert_close(prior.denoise(x[row : row + 1], 800, y[row : row + 1]).x0[0], together[row])


def test_no_more_than_a_chunk_of_many_images_is_in_double_precision_at_once(monkeypatch):
    count, side, chunk = 4000, 16, 2**15
    images = torch.randint(256, (count, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    prior = EmpiricalPrior.of(ImageSet(images, torch.zeros(count, dtype=torch.long), ("a",)), flip=True)
    monkeypatch.setattr(empirical, "CHUNK", chunk)
    seen = []
    monkeypatch.setattr(empirical, "to_unit", lambda part: seen.append(part.numel()) or to_unit(part))
    x = torch.zeros(3, 1, side, side, requires_grad=True)
    prior.denoise(x, 900, torch.zeros(3, dtype=torch.long)).x0.sum().backward()
    assert max(seen) <= chunk < images.numel() / 30
    assert sum(seen) == 4 * images.numel()  # two passes, and again in the backward pass


def nearest(x: torch.Tensor, data: ImageSet, label: int, flip: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest difference of a pixel to the nearest image of the class, and which that is."""
    images = images_of(data, label, flip).float()
    distance, index = (x[:, None] - images[None]).flatten(2).abs().amax(2).min(1)
    return distance, index % len(data.of_class(label))


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_unguided_sample_is_an_image_of_its_class(solver):
    data = real_images(20)
    prior = EmpiricalPrior.of(data, flip=True)
    for label in range(3):
        (x,) = sample(
            prior, tiny_estimator(), [ClassBatch(label, image_seeds(0, label, 12), Guidance())], steps=40, solver=solver
        )
        distance, index = nearest(x, data, label, flip=True)
        assert distance.max() < 1 / 255  # less than a grey level
        assert len(set(index.tolist())) > 4


def test_images_are_drawn_alike_often():
    """160 samples of four far images: each within four standard errors of a quarter."""
    images = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
    for row in range(4):
        images[row, :, row] = 255
    data = ImageSet(images, torch.zeros(4, dtype=torch.long), ("a",))
    batch = ClassBatch(0, image_seeds(0, 0, 160), Guidance())
    estimator = tiny_estimator_on(data)
    (x,) = sample(EmpiricalPrior.of(data), estimator, [batch], steps=60, solver="ddpm")
    shares = torch.bincount(nearest(x, data, 0, flip=False)[1], minlength=4) / 160
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=4 * (0.25 * 0.75 / 160) ** 0.5)


def test_two_steps_give_the_same_image_again_and_again_and_many_steps_do_not():
    data = real_images(20)
    found = {}
    for steps in (2, 40):
        batch = ClassBatch(0, image_seeds(0, 0, 12), Guidance())
        (x,) = sample(EmpiricalPrior.of(data), tiny_estimator(), [batch], steps=steps, solver="ddim")
        found[steps] = len(set(nearest(x, data, 0, flip=False)[1].tolist()))
    assert found[2] == 1 and found[40] > 4


def test_two_steps_mix_neighbours_that_their_last_noise_hides():
    """Four grey levels apart; λ = 2.5 at the last step is a noise of ten."""
    images = torch.full((2, 1, 8, 8), 100, dtype=torch.uint8)
    images[1] += 4
    data = ImageSet(images, torch.zeros(2, dtype=torch.long), ("a",))
    batch = ClassBatch(0, image_seeds(0, 0, 12), Guidance())
    (x,) = sample(EmpiricalPrior.of(data), tiny_estimator(), [batch], steps=2, solver="dpmpp_2m")
    between = nearest(x, data, 0, flip=False)[0] * 127.5
    assert 0.5 < between.max() <= 2.001


def tiny_estimator_on(data: ImageSet):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return train_linear_classifier(Encoder(TINY_ENCODER), data, tau=0.07)


@pytest.fixture(scope="module")
def overlapping() -> ImageSet:
    """Two classes between which grey level and noise leave doubt: some images are better examples than others."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 2
    level = 128 + (2 * labels - 1) * 22 + 40 * torch.randn(120, generator=generator)
    noise = 30 * torch.randn(120, 1, 8, 8, generator=generator)
    images = (level[:, None, None, None] + noise).clamp(0, 255).to(torch.uint8)
    return ImageSet(images, labels, ("dark", "light"))


@pytest.mark.parametrize("label", [0, 1])
def test_guidance_selects_real_images_that_say_more_of_their_class(overlapping, label):
    estimator, prior = tiny_estimator_on(overlapping), EmpiricalPrior.of(overlapping)
    found = {}
    for eta in (0.0, 20.0):
        guidance = Guidance(beta=0.0, eta=eta, scaling="variance")
        batch = ClassBatch(label, image_seeds(1, label, 40), guidance)
        (x,) = sample(prior, estimator, [batch], steps=50, solver="dpmpp_2m_sde")
        assert nearest(x, overlapping, label, flip=False)[0].max() < 1 / 255  # a selection, and no new image
        log_probs, _ = estimator(x)
        found[eta] = float(log_probs[:, label].mean())
    of_all = float(estimator(to_unit(overlapping.of_class(label)))[0][:, label].mean())
    assert found[20.0] > found[0.0] + 0.05
    assert found[20.0] > of_all + 0.05


def test_a_bundle_of_it_answers_as_it_did_and_says_what_it_is(tmp_path, tiny_bundle):
    data = real_images(6)
    prior = EmpiricalPrior.of(data, flip=True)
    parts = {part: getattr(tiny_bundle, part) for part in ("estimator", "classifier")}
    save_bundle(tmp_path / "mine", tiny_bundle.card, prior=prior, **parts)
    again = load_bundle(tmp_path / "mine")
    assert again.prior.config == EmpiricalConfig(8, 1, (6, 6, 6), flip=True)
    assert torch.equal(again.prior.images, data.images) and again.device == torch.device("cpu")
    x, y = torch.randn(3, 1, 8, 8), torch.arange(3)
    assert torch.equal(again.prior.denoise(x, 500, y).x0, prior.denoise(x, 500, y).x0)
    assert limits_of(again.card) == LIMITS and limits_of(tiny_bundle.card) == ""


def test_a_bundle_of_it_alone_draws_without_an_estimator(tmp_path, tiny_bundle):
    data = real_images(6)
    save_bundle(tmp_path / "mine", tiny_bundle.card, prior=EmpiricalPrior.of(data))
    bundle = load_bundle(tmp_path / "mine", needs=())
    (x,) = sample(bundle.prior, None, [ClassBatch(2, (1, 2), Guidance())], steps=30)
    assert nearest(x, data, 2, flip=False)[0].max() < 1 / 255


@pytest.mark.parametrize(
    "change", [{"counts": [6, 0, 6]}, {"counts": []}, {"counts": [6, 6]}, {"counts": [6, 6, 7]}, {"image_size": 16}]
)
def test_a_card_that_does_not_fit_the_images_is_refused(tmp_path, tiny_bundle, change):
    save_bundle(tmp_path / "mine", tiny_bundle.card, prior=EmpiricalPrior.of(real_images(6)))
    path = tmp_path / "mine" / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    card["prior"] |= change
    path.write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ValueError) as raised:
        load_bundle(tmp_path / "mine", needs=())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "data, message",
    [
        (
            ImageSet(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 2]), ("a", "b", "c")),
            "b has no images",
        ),
        (ImageSet(torch.zeros(2, 1, 4, 6, dtype=torch.uint8), torch.zeros(2, dtype=torch.long), ("a",)), "square"),
        (ImageSet(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), ("a",)), "square images as bytes"),
    ],
)
def test_what_it_cannot_be_made_of_is_refused(data, message):
    with pytest.raises(ValueError, match=message) as raised:
        EmpiricalPrior.of(data)
    assert "\n" not in str(raised.value)


def test_whoever_meets_the_bundle_is_told(tmp_path, tiny_bundle, tiny_bundle_path, capsys):
    """On its card in the page, by `info` and on the Hub; and nobody is told of a bundle whose prior was trained."""
    parts = {part: getattr(tiny_bundle, part) for part in ("estimator", "classifier")}
    save_bundle(tmp_path / "mine", tiny_bundle.card, prior=EmpiricalPrior.of(real_images(6)), **parts)
    for path, is_told in ((tmp_path / "mine", True), (tiny_bundle_path, False)):
        assert main(["info", str(path)]) == 0
        places = card_of("mine", path, is_open=False), capsys.readouterr().out, model_card(read_card(path), "me/mine")
        assert [LIMITS in place for place in places] == [is_told] * 3
