"""UNet priors against guided_diffusion's own networks, and their predictions against the forward process."""

import copy

import pytest
import torch
import torch.nn.functional as F
from guided_diffusion.script_util import create_model
from torch import nn

from igds.priors.unet import UNetConfig, UNetPrior

TINY = {"num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2", "attention_resolutions": "8"}
OPTIONS = [
    {},
    {"learn_sigma": True},
    {"use_scale_shift_norm": True, "num_head_channels": 16},
    {"resblock_updown": True, "num_heads": 2, "use_new_attention_order": True},
    {"num_heads": 4, "num_heads_upsample": 2, "attention_resolutions": "8,16"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_network_is_the_one_of_create_model(options, randomise):
    options = {**TINY, **options}
    theirs = randomise(create_model(16, class_cond=True, **options), seed=0)
    prior = UNetPrior(UNetConfig(image_size=16, channels=3, num_classes=1000, **options)).eval()
    prior.network.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t, y = torch.tensor([3, 700]), torch.tensor([0, 999])
    with torch.no_grad():
        expected = theirs(x, t, y)
        assert expected.std() > 0.01
        assert torch.equal(prior(x, t, y), expected)


@pytest.mark.parametrize("side", [64, 128, 256, 512])
def test_default_channel_mult_is_create_models(side):
    options = {"num_channels": 64, "num_res_blocks": 1, "attention_resolutions": "32,16,8"}
    with torch.device("meta"):
        theirs = create_model(side, class_cond=True, **options).state_dict()
        own = UNetConfig(image_size=side, channels=3, num_classes=1000, **options).build().state_dict()
    assert {name: tensor.shape for name, tensor in own.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


def test_side_without_a_default_channel_mult_asks_for_one():
    with pytest.raises(ValueError, match="channel_mult has no default for a side of 32"):
        UNetConfig(image_size=32, channels=3, num_classes=2, num_channels=32, num_res_blocks=1).build()


def test_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="'epsilon' or 'v', got 'x0'"):
        UNetConfig(image_size=8, channels=1, num_classes=2, prediction="x0", **TINY)


def test_space_to_depth_must_divide_the_side():
    with pytest.raises(ValueError, match="3 does not divide image_size 8"):
        UNetConfig(image_size=8, channels=1, num_classes=2, space_to_depth=3, **TINY)


@pytest.mark.parametrize("space_to_depth", [1, 2, 4])
@pytest.mark.parametrize("learn_sigma", [False, True])
def test_space_to_depth_changes_what_the_network_sees_and_no_shape_outside(space_to_depth, learn_sigma, randomise):
    side = 16 // space_to_depth
    config = UNetConfig(
        image_size=16,
        channels=3,
        num_classes=5,
        space_to_depth=space_to_depth,
        learn_sigma=learn_sigma,
        **{**TINY, "attention_resolutions": str(side // 2)},
    )
    prior = randomise(UNetPrior(config), seed=0)
    seen = []
    prior.network.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].shape, output.shape)))
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert prior(x, torch.tensor([1, 2]), torch.tensor([0, 4])).shape == (2, 6 if learn_sigma else 3, 16, 16)
    inside = 3 * space_to_depth**2
    assert seen == [((2, inside, side, side), (2, inside * (2 if learn_sigma else 1), side, side))]
    assert prior.shape == (3, 16, 16)
    assert prior.denoise(x, 10, torch.tensor([0, 4])).x0.shape == x.shape


def test_space_to_depth_with_learn_sigma_splits_prediction_from_variance_as_the_network_does(randomise):
    config = UNetConfig(
        image_size=8,
        channels=2,
        num_classes=3,
        space_to_depth=2,
        learn_sigma=True,
        **{**TINY, "attention_resolutions": "2"},
    )
    prior = randomise(UNetPrior(config), seed=1)
    x, t, y = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 5]), torch.arange(2)
    raw_prediction, raw_variance = prior.network(F.pixel_unshuffle(x, 2), t, y).chunk(2, dim=1)
    prediction, variance = prior(x, t, y).chunk(2, dim=1)
    assert torch.equal(prediction, F.pixel_shuffle(raw_prediction, 2))
    assert torch.equal(variance, F.pixel_shuffle(raw_variance, 2))


class Answer(nn.Module):
    """A network that gives the answer it was built with."""

    def __init__(self, answer: torch.Tensor):
        super().__init__()
        self.answer = answer

    def forward(self, x, t, y):
        return self.answer


@pytest.fixture(params=["epsilon", "v"])
def prior(request):
    config = UNetConfig(image_size=8, channels=2, num_classes=3, prediction=request.param, diffusion_steps=1000, **TINY)
    return UNetPrior(config)


@pytest.mark.parametrize("t", [0, 1, 100, 500, 900])
def test_a_perfect_prediction_gives_x0_back(prior, t):
    generator = torch.Generator().manual_seed(t)
    x0 = 2 * torch.rand(4, 2, 8, 8, generator=generator) - 1
    noise = torch.randn(x0.shape, generator=generator)
    alpha_bar = torch.tensor(prior.schedule.alpha_bars[t], dtype=torch.float32)
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    prior.network = Answer(prior.target(x0, noise, alpha_bar))
    denoised = prior.denoise(x_t, t, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(denoised.x0, x0, rtol=0, atol=1e-4)
    assert denoised.variance_fraction is None


def test_epsilon_target_is_the_noise_and_v_target_is_salimans_and_hos(prior):
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 1, 2, 8, 8, generator=generator)
    target = prior.target(x0, noise, torch.tensor(0.36))
    torch.testing.assert_close(target, noise if prior.config.prediction == "epsilon" else 0.6 * noise - 0.8 * x0)


@pytest.mark.parametrize("size", [-50.0, 50.0])
def test_x0_is_clipped(prior, size):
    prior.network = Answer(torch.full((1, 2, 8, 8), -size))
    x0 = prior.denoise(torch.zeros(1, 2, 8, 8), 500, torch.zeros(1, dtype=torch.long)).x0
    assert torch.equal(x0, torch.full_like(x0, 1.0 if size > 0 else -1.0))


@pytest.mark.parametrize("raw, fraction", [(-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)])
def test_learned_variance_fraction_runs_from_0_to_1(raw, fraction):
    config = UNetConfig(image_size=8, channels=2, num_classes=3, learn_sigma=True, **TINY)
    prior = UNetPrior(config)
    prior.network = Answer(torch.cat([torch.zeros(1, 2, 8, 8), torch.full((1, 2, 8, 8), raw)], dim=1))
    answer = prior.denoise(torch.zeros(1, 2, 8, 8), 5, torch.zeros(1, dtype=torch.long))
    assert torch.equal(answer.variance_fraction, torch.full((1, 2, 8, 8), fraction))


def test_timestep_reaches_the_network_as_it_is_for_every_image(randomise):
    prior = randomise(UNetPrior(UNetConfig(image_size=8, channels=1, num_classes=3, **TINY)), seed=0)
    seen = []
    prior.network.register_forward_hook(lambda module, inputs, output: seen.append((inputs[1], inputs[2])))
    prior.denoise(torch.zeros(3, 1, 8, 8), 437, torch.tensor([2, 0, 1]))
    assert seen[0][0].tolist() == [437] * 3 and seen[0][1].tolist() == [2, 0, 1]


def test_half_precision_computes_the_network_and_leaves_x0_in_single(tiny_bundle):
    single, half = tiny_bundle.prior, copy.deepcopy(tiny_bundle.prior)
    half.bfloat16 = True
    x, y = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(3)
    with torch.no_grad():
        expected, found = (prior.denoise(x, 40, y).x0 for prior in (single, half))
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    assert float((found - expected).abs().max()) < 0.1 * float(expected.std())
