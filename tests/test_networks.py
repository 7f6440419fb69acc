"""The evaluation's networks are those of the field: parameter counts, sizes of their maps, normalisation, weights."""

import math
import sys

import pytest
import torch
from torch import nn

from igds.networks import NETWORKS, TORCHVISION, build_network

OWN = [name for name in NETWORKS if name not in TORCHVISION]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_meta(name: str, **of) -> nn.Module:
    with torch.device("meta"):
        return build_network(name, **of)


def seeded(name: str, *, seed: int = 0, channels: int = 1, size: int = 16, classes: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_network(name, channels=channels, size=size, classes=classes)


def images(n: int, channels: int = 1, size: int = 16) -> torch.Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name, size, classes, count",
    [
        ("convnet3", 32, 10, 320_010),
        ("convnet4", 64, 200, 857_160),
        ("convnet5", 128, 10, 615_690),
        ("convnet6", 128, 10, 748_170),
        ("convnet6", 224, 10, 754_570),
        ("convnet6", 256, 10, 763_530),
        ("resnetap10", 224, 10, 4_910_922),
        ("resnetap10", 128, 10, 4_903_242),
        ("resnetap10", 64, 10, 4_903_242),
        ("resnetap10", 64, 200, 5_000_712),
        ("resnet18", 224, 10, 11_181_642),
        ("resnet18", 64, 200, 11_271_432),
    ],
)
def test_parameter_counts_are_those_of_the_field(name, size, classes, count):
    assert parameters(on_meta(name, channels=3, size=size, classes=classes)) == count


@pytest.mark.parametrize("name", ["resnetap10", "resnet18"])
@pytest.mark.parametrize("size, stem", [(32, 32), (64, 64), (66, 33), (128, 64), (132, 33), (224, 56), (256, 64)])
def test_the_stem_depends_on_the_size_and_each_later_stage_halves_it(name, size, stem):
    x = torch.empty(1, 3, size, size, device="meta")
    sides = []
    for layer in on_meta(name, channels=3, size=size, classes=10).features[:-2]:
        x = layer(x)
        sides.append(x.shape[-1])
    halve = (lambda side: side // 2) if name == "resnetap10" else (lambda side: (side + 1) // 2)
    second, third = halve(stem), halve(halve(stem))
    assert list(dict.fromkeys(sides))[-4:] == [stem, second, third, halve(third)]


def test_resnetap_averages_where_resnet_strides():
    averaging, striding = (
        list(on_meta(name, channels=3, size=224, classes=10).modules()) for name in ("resnetap10", "resnet18")
    )
    assert {layer.stride for layer in averaging if isinstance(layer, nn.Conv2d)} == {(1, 1)}
    assert {layer.stride for layer in striding if isinstance(layer, nn.Conv2d)} == {(1, 1), (2, 2)}
    assert not any(isinstance(layer, nn.AvgPool2d) for layer in striding)


@pytest.mark.parametrize("name", ["convnet3", "convnet4", "resnetap10", "resnet18"])
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_are_the_head_of_the_features_and_every_weight_learns(name, channels):
    network = seeded(name, channels=channels)
    x = images(4, channels)
    logits = network(x)
    assert logits.shape == (4, 3)
    assert isinstance(network.head, nn.Linear)
    torch.testing.assert_close(network.head(network.features(x)), logits)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", ["convnet3", "resnetap10", "resnet18"])
def test_an_image_is_seen_alone_whatever_its_batch_and_whether_training(name):
    network = seeded(name)
    x = images(3)
    with torch.no_grad():
        together = network.train()(x)
        alone = torch.cat([network.eval()(image[None]) for image in x])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("name", ["convnet3", "resnetap10", "resnet18"])
def test_instance_normalisation_forgets_the_contrast_of_an_image(name):
    network = seeded(name)
    with torch.no_grad():
        torch.testing.assert_close(network(5 * images(2)), network(images(2)), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["resnetap10", "resnet18"])
def test_residual_networks_start_with_he_weights_by_their_outputs(name):
    for layer in seeded(name, size=64).modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 10_000:
            deviation = math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.03)


def test_equal_seeds_give_equal_weights():
    first, same, other = (seeded("convnet3", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize("name, smallest", [*((f"convnet{d}", 2**d) for d in (3, 4, 5, 6)), ("resnet18", 16)])
def test_images_too_small_for_a_network_are_refused(name, smallest):
    with pytest.raises(ValueError, match=f"{name} needs images of at least {smallest} pixels a side, got"):
        build_network(name, channels=1, size=smallest - 1, classes=3)
    with torch.no_grad():
        a, b = seeded(name, size=smallest)(images(2, size=smallest))
    assert not torch.allclose(a, b)


def test_an_unknown_network_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="there is no network 'vgg': choose one of convnet3, .*, swin_t"):
        build_network("vgg", channels=1, size=32, classes=3)


@pytest.mark.parametrize("broken", ["import missing_part", "raise RuntimeError('operator torchvision::nms')"])
def test_without_a_working_torchvision_its_networks_are_refused(broken, tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    reason = "missing_part" if "missing" in broken else "torchvision::nms"
    with pytest.raises(ValueError, match=f"swin_t needs torchvision, which does not work here .*{reason}.*convnet3"):
        build_network("swin_t", channels=1, size=32, classes=3)


@pytest.mark.parametrize(
    "name, count",
    [
        ("resnet101", 42_520_650),
        ("mobilenet_v2", 2_236_682),
        ("efficientnet_b0", 4_020_358),
        ("swin_t", 27_527_044),
    ],
)
def test_networks_of_torchvision_are_as_published_and_take_small_grey_images(torchvision, name, count):
    network = seeded(name, size=32, classes=10).eval()
    assert parameters(network) == count
    assert isinstance(network.head, nn.Linear)
    with torch.no_grad():
        logits = network(images(2, size=32))
        assert logits.shape == (2, 10)
        torch.testing.assert_close(network(images(2, size=32).expand(-1, 3, -1, -1)), logits)
        torch.testing.assert_close(network.head(network.features(images(2, size=32))), logits)
    with pytest.raises(ValueError, match=f"{name} needs images of 1 or 3 channels, got 4"):
        build_network(name, channels=4, size=32, classes=10)
