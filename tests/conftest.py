"""Small real parts: the same classes as in production, randomly initialised and a few pixels wide."""

import importlib
import sys

import pytest
import torch

from igds.bundle import load_bundle, save_bundle
from igds.classifiers import ImageClassifier
from igds.data import ImageSet
from igds.encoders import Encoder, EncoderConfig, smooth
from igds.estimator import VariationalEstimator
from igds.priors.unet import UNetConfig, UNetPrior
from igds.training import train_linear_classifier

TINY_PRIOR = UNetConfig(
    image_size=8,
    channels=1,
    num_classes=3,
    num_channels=32,
    num_res_blocks=1,
    channel_mult="1,2",
    attention_resolutions="2",
    space_to_depth=2,
    prediction="v",
    noise_schedule="cosine",
    diffusion_steps=100,
)
CLASSES = ("Circle", "Square/box", "Tri <angle>")
TINY_ENCODER = EncoderConfig(channels=1, widths=(8, 16), space_to_depth=2, features=16)


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give every parameter random values: fresh UNets predict zero everywhere, which would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def tiny_estimator(classes: int = 3, seed: int = 2) -> VariationalEstimator:
    """With its fresh weights, under which images differ and a guidance of η ≈ 0.1 can be seen."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = Encoder(TINY_ENCODER)
        smooth(encoder)
        estimator = VariationalEstimator(encoder, classes, features=16, tau=0.07)
    return estimator.eval().requires_grad_(False)


@pytest.fixture(scope="session", name="randomise")
def randomise_fixture():
    return randomise


@pytest.fixture(scope="session")
def torchvision():
    """torchvision of any build: one for another torch lacks two detection operators, which no network here uses."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        module = importlib.import_module("torchvision")
        module.operators = operators  # they last as long as this object
        return module


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Networks this small lose more to waiting for each other than they gain by sharing."""
    torch.set_num_threads(1)


def real_images(per_class: int, *, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> ImageSet:
    """8×8, noise about a level of grey that tells the class: dark, light, or light in the lower half."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(per_class)
    levels = torch.tensor([60, 195, 60])[labels][:, None, None, None].repeat(1, 1, 8, 8)
    levels[labels == 2, :, 4:] = 195
    noise = torch.randint(-60, 61, levels.shape, generator=generator)
    return ImageSet((levels + noise).to(torch.uint8), labels, classes)


def save_tiny(path, *, held_out: VariationalEstimator | None, estimator: VariationalEstimator | None = None) -> None:
    card = {
        "title": "Tiny",
        "classes": list(CLASSES),
        "license": "MIT",
        "source": "made by the tests",
        "defaults": {
            "ipc": 4,
            "beta": 0.5,
            "eta": 0.1,
            "steps": 10,
            "solver": "ddpm",
            "reference": "batch",
            "at": "x_prev",
            "interval": [0.0, 1.0],
        },
        "beta_range": [0.0, 1.0],
        "measured": {},
    }
    gallery = torch.randint(256, (3, 4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    save_bundle(
        path,
        card,
        prior=randomise(UNetPrior(TINY_PRIOR), seed=1),
        estimator=estimator or tiny_estimator(),
        classifier=randomise(ImageClassifier(TINY_ENCODER, 3), seed=4),
        gallery=gallery,
        held_out=held_out,
    )


@pytest.fixture(scope="session")
def tiny_bundle_path(tmp_path_factory):
    """A complete bundle on disk: 8×8 pixels, 3 classes, 100 diffusion steps."""
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    save_tiny(path, held_out=tiny_estimator(seed=5))
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_bundle_path):
    return load_bundle(tiny_bundle_path)


@pytest.fixture(scope="session")
def bare_bundle_path(tmp_path_factory):
    """The tiny bundle without its held-out estimator."""
    path = tmp_path_factory.mktemp("bare") / "tiny"
    save_tiny(path, held_out=None)
    return path


@pytest.fixture(scope="session")
def bare_bundle(bare_bundle_path):
    return load_bundle(bare_bundle_path)


@pytest.fixture(scope="session")
def learnt_bundle_path(tmp_path_factory):
    """The tiny bundle with an estimator that recognises `real_images`."""
    path = tmp_path_factory.mktemp("learnt") / "tiny"
    encoder = tiny_estimator().encoder
    save_tiny(path, held_out=None, estimator=train_linear_classifier(encoder, real_images(50, seed=9), tau=0.07))
    return path


@pytest.fixture(scope="session")
def learnt_bundle(learnt_bundle_path):
    return load_bundle(learnt_bundle_path)
