"""MoCo's published layouts and timm's models as f, and a bundle completed with them from a folder of images."""

import copy
import json
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from igds.backbones import MoCoConfig, MoCoEncoder, TimmConfig, read_encoder, read_moco
from igds.bundle import load_bundle, missing_parts, read_card
from igds.cli import main
from igds.completion import fitted, split
from igds.data import ImageSet
from igds.encoders import smooth
from igds.fetch import CHECKPOINTS
from igds.priors.unet import UNetPrior
from igds.sampling import ClassBatch, Guidance, default_microbatch, sample, sample_progressive
from igds.training import train_linear_classifier
from tests.conftest import CLASSES, TINY_PRIOR, randomise, real_images

HEADS = {"linear": 128, "mlp": 128, "mlp-norm": 256, "none": 2048}


@pytest.fixture(autouse=True)
def torchvision_of_any_build(torchvision):
    return torchvision


@pytest.fixture(scope="module")
def resnet50(torchvision):
    """torchvision's, with statistics that are not those of a fresh network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.resnet50(num_classes=128)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval().requires_grad_(False)


def published(resnet50: nn.Module, head: str) -> nn.Module:
    """The encoder as MoCo's repositories build it."""
    network = copy.copy(resnet50)
    network._modules = dict(resnet50._modules)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if head == "mlp":  # facebookresearch/moco, moco/builder.py
            network.fc = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), network.fc)
        if head == "mlp-norm":  # facebookresearch/moco-v3, moco/builder.py
            network.fc = nn.Sequential(
                nn.Linear(2048, 4096, bias=False),
                nn.BatchNorm1d(4096),
                nn.ReLU(inplace=True),
                nn.Linear(4096, 256, bias=False),
                nn.BatchNorm1d(256, affine=False),
            )
        if head == "none":
            network.fc = nn.Identity()
    return network.eval().requires_grad_(False)


def checkpoint(network: nn.Module, head: str) -> dict:
    """What the training scripts save: DistributedDataParallel's names, both encoders, and the optimiser beside them."""
    own, other = ("base_encoder", "momentum_encoder") if head == "mlp-norm" else ("encoder_q", "encoder_k")
    state = {f"module.{own}.{name}": tensor for name, tensor in network.state_dict().items()}
    state |= {f"module.{other}.{name}": torch.zeros(()).expand(t.shape) for name, t in network.state_dict().items()}
    if head == "mlp-norm":
        state["module.predictor.0.weight"] = torch.zeros(1).expand(4096, 256)
    else:
        state |= {"module.queue": torch.zeros(1).expand(128, 65536), "module.queue_ptr": torch.zeros(1)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}


@pytest.fixture(scope="module", params=HEADS)
def moco(request, resnet50, tmp_path_factory):
    """(head, the published network, its file)."""
    network = published(resnet50, request.param)
    path = tmp_path_factory.mktemp("moco") / "pretrain.pth.tar"
    torch.save(checkpoint(network, request.param), path)
    return request.param, network, path


def normalised(features: torch.Tensor) -> torch.Tensor:
    return F.normalize(features - features.mean(1, keepdim=True), dim=1)


# MoCo


def test_f_is_the_published_networks_projection(moco, torchvision):
    head, network, path = moco
    encoder = read_moco(path)
    assert encoder.config == MoCoConfig(head, HEADS[head], hidden=4096 if head == "mlp-norm" else 2048)
    encoder.config = replace(encoder.config, size=64)  # a smaller picture, so that the test is quick
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    from torchvision.transforms import Normalize

    seen = Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])(pixels)
    features = encoder(2 * pixels - 1)
    torch.testing.assert_close(features, normalised(network(seen)), rtol=1e-4, atol=1e-5)
    assert (features[0] - features[1]).norm() > 1e-3


def test_the_size_that_fetch_expects_is_that_of_the_weights(torchvision):
    for name, head in {"moco-v2-800": "mlp", "moco-v3-1000": "mlp-norm"}.items():
        with torch.device("meta"):
            encoder = MoCoEncoder(MoCoConfig(head, HEADS[head], hidden=4096 if head == "mlp-norm" else 2048))
        assert CHECKPOINTS[name].size == 4 * sum(p.numel() for p in encoder.parameters())


def test_images_are_resized_inside_f_and_the_gradient_reaches_their_pixels(torchvision):
    encoder = MoCoEncoder(MoCoConfig("linear", 16, size=32)).eval()
    x = torch.rand(2, 1, 75, 45, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).requires_grad_()
    resized = F.interpolate(x.repeat(1, 3, 1, 1), (32, 32), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(encoder(x), encoder(resized), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(encoder(x)[:, 0].sum(), x)
    assert (gradient.abs().sum(dim=(1, 2, 3)) > 0).all() and gradient.isfinite().all()


def test_relu_becomes_softplus_of_sharpness_3_everywhere(torchvision):
    encoder = MoCoEncoder(MoCoConfig("mlp", 16, size=32)).eval().requires_grad_(False)
    smooth(encoder)
    assert not any(isinstance(module, nn.ReLU) for module in encoder.modules())
    soft = [module for module in encoder.modules() if isinstance(module, nn.Softplus)]
    assert len(soft) == 18 and {module.beta for module in soft} == {3.0}  # 1 + 16 blocks + the head's


def test_few_images_go_together_through_an_encoder_that_sees_them_large(tiny_bundle, torchvision):
    from igds.estimator import VariationalEstimator

    encoder = MoCoEncoder(MoCoConfig("linear", 16))
    assert default_microbatch(tiny_bundle.prior, VariationalEstimator(encoder, 3, features=16, tau=0.1)) == 8
    assert default_microbatch(tiny_bundle.prior, tiny_bundle.estimator) == 100
    assert default_microbatch(tiny_bundle.prior, None) == 100


def small_state(**more) -> dict:
    return {"state_dict": {"module.encoder_q.conv1.weight": torch.zeros(64, 3, 7, 7), **more}}


@pytest.mark.parametrize(
    "content, said",
    [
        ({"state_dict": {"module.fc.weight": torch.zeros(1000, 2048)}}, "is no MoCo checkpoint: none of its tensors"),
        ({"state_dict": {"module.base_encoder.cls_token": torch.zeros(1, 1, 384)}}, "another network than a ResNet-50"),
        (small_state(), "MoCo's ResNet-50 with head none: bn1.weight is missing and 316 more"),
        (small_state(**{"module.encoder_q.extra": torch.zeros(1)}), "and 317 more differences"),
        (small_state(**{"module.memory": torch.zeros(1)}), "holds module.memory, which no MoCo checkpoint has"),
        ({"epoch": 3}, "holds no weights by name"),
    ],
)
def test_a_checkpoint_of_another_encoder_is_told(tmp_path, content, said):
    torch.save(content, tmp_path / "other.pth.tar")
    with pytest.raises(ValueError) as raised:
        read_encoder(str(tmp_path / "other.pth.tar"))
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_torchvision_or_timm_is_told_with_how_to_get_it(tmp_path, monkeypatch):
    torch.save(small_state(), tmp_path / "moco.pth")
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ValueError, match="needs torchvision .*: pip install torchvision"):
        read_encoder(str(tmp_path / "moco.pth"))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="timm:test_resnet needs timm: pip install timm"):
        read_encoder("timm:test_resnet")


# timm


@pytest.fixture(scope="module")
def timm_model(torchvision):
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return timm.create_model("test_resnet", num_classes=0).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def timm_file(timm_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("timm") / "test_resnet.pth"
    torch.save(timm_model.state_dict(), path)
    return path


def test_a_model_of_timm_is_f_with_its_own_size_and_normalisation(timm_model, timm_file):
    encoder = read_encoder(f"timm:test_resnet={timm_file}")
    assert encoder.config == TimmConfig("test_resnet", 96, 160, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    x = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(encoder(x), normalised(timm_model(x)), rtol=1e-4, atol=1e-5)


def test_what_timm_cannot_give_is_told(timm_file, tmp_path):
    with pytest.raises(ValueError, match="timm cannot give its model 'resnet51000'"):
        read_encoder(f"timm:resnet51000={timm_file}")
    with pytest.raises(ValueError, match="only models that timm itself names are read, got 'hf-hub:somebody/model'"):
        read_encoder("timm:hf-hub:somebody/model")
    with pytest.raises(ValueError, match="is not timm's test_vit without its classifier"):
        read_encoder(f"timm:test_vit={timm_file}")


# complete


def write_folder(folder, per_class: int, *, names=CLASSES) -> None:
    images = real_images(per_class)
    for label, name in enumerate(names):
        place = folder / name.replace("/", "-")
        place.mkdir(parents=True)
        for i, image in enumerate(images.of_class(label)):
            Image.fromarray(image[0].numpy()).save(place / f"{i}.png")


@pytest.fixture
def prior_alone(tmp_path):
    """A bundle that `import` would have made of the tests' tiny prior."""
    from igds.commands.import_ import write_imported

    prior = randomise(UNetPrior(TINY_PRIOR), seed=1)
    names = ["Circle", "Square-box", "Tri <angle>"]
    write_imported(tmp_path / "bundle", prior, title="Tiny", source="tests", license="MIT", classes=names)
    return tmp_path / "bundle"


def completed(bundle, data, *arguments) -> int:
    return main(["complete", str(bundle), "--data", str(data), *map(str, arguments)])


def test_a_bundle_is_completed_from_a_folder_and_then_guided_and_judged(prior_alone, timm_file, tmp_path, capsys):
    write_folder(tmp_path / "data", 20)
    encoder = f"timm:test_resnet={timm_file}"
    assert completed(prior_alone, tmp_path / "data", "--encoder", encoder, "--images", 600, "--gallery") == 0
    bundle = load_bundle(prior_alone)
    assert missing_parts(bundle.card) == [] and bundle.gallery.shape == (3, 4, 1, 8, 8)
    assert bundle.card["measured"]["estimator"]["linear_accuracy_on_test"] > 0.6
    assert bundle.card["measured"]["classifier"]["accuracy_on_test"] > 0.6
    assert not [module for module in bundle.estimator.modules() if isinstance(module, nn.ReLU)]
    assert not list(prior_alone.glob(".*"))

    batches = [ClassBatch(0, (1, 2), Guidance(beta=1.0, eta=eta)) for eta in (0.0, 0.3)]
    plain, guided = sample(bundle.prior, bundle.estimator, batches, steps=3)
    assert not torch.equal(plain, guided)
    out = tmp_path / "out"
    assert main(["sample", "--bundle", str(prior_alone), "--ipc", "2", "--steps", "2", "--out", str(out)]) == 0
    assert "recognises" in capsys.readouterr().out
    assert None not in [json.loads((out / "run.json").read_text())["result"]["contextual"]["accuracy"]]
    assert completed(prior_alone, tmp_path / "data") == 0
    assert "is complete already" in capsys.readouterr().out


def test_with_an_estimator_and_no_judge_sampling_is_guided_and_says_who_does_not_judge(
    prior_alone, timm_file, tmp_path, capsys
):
    write_folder(tmp_path / "data", 10)
    encoder = f"timm:test_resnet={timm_file}"
    stopped = ["--encoder", encoder, "--minutes", 1e-9, "--images", 10**6]
    assert completed(prior_alone, tmp_path / "data", *stopped) == 0
    assert "the same command goes on from there" in capsys.readouterr().out
    assert missing_parts(read_card(prior_alone)) == ["classifier"]
    assert (
        main(["sample", "--bundle", str(prior_alone), "--ipc", "2", "--steps", "2", "--out", str(tmp_path / "o")]) == 0
    )
    said = capsys.readouterr()
    assert "I(X;Y)" in said.out and "recognises" not in said.out and "nan" not in said.out
    assert "has no classifier, so not everything could be measured" in said.err and "--encoder" not in said.err
    assert completed(prior_alone, tmp_path / "data", "--images", 200) == 0
    assert missing_parts(read_card(prior_alone)) == []


def test_the_estimator_is_fitted_to_features_of_the_smooth_network(timm_file):
    images = real_images(10)
    encoder = read_encoder(f"timm:test_resnet={timm_file}")
    estimator = train_linear_classifier(encoder, images, tau=0.1, batch_size=8)
    smooth(encoder)
    x = images.images[:2].float() / 127.5 - 1
    torch.testing.assert_close(estimator.encoder(x), encoder(x), rtol=1e-5, atol=1e-6)


def test_classes_are_matched_by_name_in_any_case_and_by_id(tiny_bundle):
    bundle = replace(tiny_bundle, card={**tiny_bundle.card, "wnids": ["n1", "n2", "n3"]})
    images = ImageSet(
        torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2]), ("n3", "CIRCLE", "square/BOX")
    )
    assert fitted(images, bundle).labels.tolist() == [2, 0, 1]


def image_set(classes: tuple, labels: list, side: int = 8) -> ImageSet:
    return ImageSet(torch.zeros(len(labels), 1, side, side, dtype=torch.uint8), torch.tensor(labels), classes)


@pytest.mark.parametrize(
    "data, said",
    [
        (image_set(("Circle", "Cube"), [0, 1]), "has no class 'Cube'"),
        (image_set(("Circle",), [0]), "no images of 2 of the 3 classes of tiny"),
        (image_set(CLASSES, [0, 1, 2], side=9), "the images are .* and the prior's"),
    ],
)
def test_images_of_other_classes_or_sizes_are_told(tiny_bundle, data, said):
    with pytest.raises(ValueError, match=said):
        fitted(data, tiny_bundle)


def test_a_fifth_of_every_class_measures_and_nothing_is_in_both():
    data = real_images(11)
    train, test = split(data)
    assert torch.bincount(train.labels).tolist() == [9] * 3 and torch.bincount(test.labels).tolist() == [2] * 3
    assert len(torch.unique(torch.cat([train.images, test.images]).flatten(1), dim=0)) == len(data)
    with pytest.raises(ValueError, match="has 4 images: 5 are the least"):
        split(real_images(4))


def test_bad_options_of_complete_are_told(prior_alone, tmp_path, capsys):
    write_folder(tmp_path / "data", 5)
    for arguments, said in (
        ((), "has no estimator: give --encoder"),
        (("--encoder", tmp_path / "no.pth"), "no.pth is not there"),
        (("--encoder", "timm:x", "--tau", 0), "--tau must be more than 0"),
        (("--images", -1), "--images must be more than 0"),
    ):
        assert completed(prior_alone, tmp_path / "data", *arguments) == 2
        assert said in capsys.readouterr().err


def test_one_image_more_than_fits_is_seen_in_the_next_microbatch(tiny_bundle):
    batches = [ClassBatch(0, tuple(range(5)), Guidance(beta=1.0, eta=0.1))]
    whole, cut = (
        list(sample_progressive(tiny_bundle.prior, tiny_bundle.estimator, batches, steps=2, microbatch=size))[-1]
        for size in (None, 2)
    )
    torch.testing.assert_close(whole.batches[0].x, cut.batches[0].x, rtol=1e-4, atol=1e-5)
