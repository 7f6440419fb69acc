"""How each embedded bundle is made: its data, networks and training budgets, in one place."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from igds.augmentation import classifier_view, contrastive_view
from igds.classifiers import ImageClassifier
from igds.data import ImageSet, fashion_mnist
from igds.datasets import load_images
from igds.encoders import Encoder, EncoderConfig
from igds.estimator import VariationalEstimator
from igds.priors.unet import UNetConfig, UNetPrior
from igds.schedule import Schedule
from igds.training import (
    ClassifierObjective,
    ContrastiveObjective,
    PriorObjective,
    Training,
    add_noise,
    train_linear_classifier,
)


@dataclass(frozen=True)
class Budget:
    """How long one part is trained by default, and how."""

    images: int
    batch_size: int
    learning_rate: float
    decay: float
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Contrastive:
    """How the encoder of one estimator is trained: options of ContrastiveObjective and of its views, and the seed."""

    tau: float
    lambda_: float = 1.0
    label_weight: float = 0.0
    noise_share: float = 0.0
    noise_limit: float = 0.7
    area: tuple[float, float] = (0.4, 1.0)
    strength: float = 0.4
    seed: int = 0

    def objective(self, encoder: Encoder, *, schedule: Schedule, num_classes: int) -> ContrastiveObjective:
        return ContrastiveObjective(
            encoder,
            partial(contrastive_view, area=self.area, strength=self.strength),
            schedule=schedule,
            num_classes=num_classes,
            tau=self.tau,
            lambda_=self.lambda_,
            label_weight=self.label_weight,
            noise_share=self.noise_share,
            noise_limit=self.noise_limit,
        )


@dataclass(frozen=True)
class Recipe:
    """A bundle before it is trained. `defaults` and `beta_range` are what the card will offer its users.

    `auto_beta`, if there is one, is their table of β by IPC, and how it was found.
    `contrastive` has the training of "estimator", whose gradient guides, and of "held_out", which only judges. With
    `flip`, the prior sees every image mirrored too. `view` is what the classifier learns from. `shows_images` says
    whether the bundle may hold real images; without it, it has neither a gallery nor copies beside its samples.
    """

    title: str
    source: str
    license: str
    load: Callable[..., ImageSet]
    prior: UNetConfig
    encoder: EncoderConfig
    classifier: EncoderConfig
    budgets: dict[str, Budget]
    contrastive: dict[str, Contrastive]
    tau: float
    defaults: dict
    beta_range: tuple[float, float]
    auto_beta: dict | None = None
    flip: bool = False
    shows_images: bool = True
    view: Callable[[Tensor, torch.Generator], Tensor] = classifier_view

    def training(self, part: str, data: ImageSet, *, folder: Path, images: int | None = None, **options) -> Training:
        """The resumable training of one part, a key of `budgets`; its checkpoint is `folder`/`part`.pt."""
        budget = self.budgets[part]
        seed = self.contrastive[part].seed if part in self.contrastive else 0
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # of the initial weights; everything later is drawn from the training's own stream
            objective = self._objective(part)
        return Training(
            objective,
            data,
            images=images or budget.images,
            batch_size=budget.batch_size,
            learning_rate=budget.learning_rate,
            weight_decay=budget.weight_decay,
            decay=budget.decay,
            seed=seed,
            checkpoint=folder / f"{part}.pt",
            **options,
        )

    def _objective(self, part: str):
        if part == "prior":
            return PriorObjective(UNetPrior(self.prior), flip=self.flip)
        if part == "classifier":
            return ClassifierObjective(ImageClassifier(self.classifier, self.prior.num_classes), self.view)
        return self.contrastive[part].objective(
            Encoder(self.encoder), schedule=self.prior.schedule(), num_classes=self.prior.num_classes
        )

    def estimator(self, part: str, encoder: Encoder, data: ImageSet) -> VariationalEstimator:
        """f made smooth and frozen, then g on its features of clean images, and of noisy ones if f has seen such."""
        training, schedule = self.contrastive[part], self.prior.schedule()

        def noisy(x: Tensor, generator: torch.Generator) -> Tensor:
            return add_noise(x, schedule, generator, share=1.0, limit=training.noise_limit)

        views = noisy if training.noise_share else None
        return train_linear_classifier(encoder, data, tau=self.tau, views=views, seed=training.seed)


def imagenette(split: str, *, folder: Path | None = None, size: int) -> ImageSet:
    """ImageNette in RGB at `size`×`size` pixels, from `folder` or from where `fetch imagenette-160` puts it."""
    return load_images(folder or "imagenette-160", split, size=size, channels=3)


_SMALL_UNET = UNetConfig(
    image_size=32,
    channels=3,
    num_classes=10,
    num_channels=64,
    num_res_blocks=1,
    channel_mult="1,2,2",
    attention_resolutions="8",
    num_head_channels=32,
    use_scale_shift_norm=True,
    space_to_depth=2,
    prediction="v",
    noise_schedule="cosine",
)

_BY_NETWORKS = "the β from which networks learnt best on images held out of the training set, by `compare beta`"

_DEFAULTS = {
    "ipc": 10,
    "beta": 2.0,
    "eta": 12.0,
    "steps": 25,
    "solver": "dpmpp_2m_sde",
    "reference": "batch",
    "at": "x_prev",
    "scaling": "variance",
    "interval": [0.0, 0.8],
}

_IMAGENETTE_32 = Recipe(
    title="ImageNette, 32×32 photographs",
    source="ImageNette, fast.ai: ten classes of ImageNet (Howard 2019)",
    license="MIT for the weights; the photographs, under ImageNet's terms, are not part of it",
    load=partial(imagenette, size=32),
    prior=_SMALL_UNET,
    encoder=EncoderConfig(channels=3, widths=(32, 64, 128)),
    classifier=EncoderConfig(channels=3, widths=(48, 96, 192)),
    budgets={
        "prior": Budget(images=600_000, batch_size=64, learning_rate=5e-4, decay=0.4),
        "estimator": Budget(images=400_000, batch_size=256, learning_rate=2e-3, decay=1.0, weight_decay=5e-2),
        "held_out": Budget(images=300_000, batch_size=256, learning_rate=2e-3, decay=1.0, weight_decay=5e-2),
        "classifier": Budget(images=1_000_000, batch_size=128, learning_rate=2e-3, decay=1.0, weight_decay=5e-2),
    },
    contrastive={
        "estimator": Contrastive(tau=0.2, label_weight=1.0, noise_share=0.6, noise_limit=0.7, area=(0.35, 1.0)),
        "held_out": Contrastive(tau=0.2, label_weight=1.0, area=(0.45, 1.0), strength=0.2, seed=1),
    },
    tau=0.03,
    defaults=_DEFAULTS | {"ipc": 4},
    beta_range=(0.0, 3.0),
    auto_beta={"table": [[1, 0.0], [10, 0.0]], "how": _BY_NETWORKS},
    flip=True,
    shows_images=False,
    view=partial(classifier_view, area=(0.3, 1.0), strength=0.3),
)

RECIPES = {
    "fashion-mnist": Recipe(
        title="Fashion-MNIST, 32×32 grey",
        source="Fashion-MNIST, Zalando Research (Xiao et al. 2017)",
        license="MIT, weights and gallery alike",
        load=fashion_mnist,
        prior=replace(_SMALL_UNET, channels=1),
        encoder=EncoderConfig(channels=1, widths=(32, 64, 128)),
        classifier=EncoderConfig(channels=1, widths=(48, 96, 192)),
        budgets={
            "prior": Budget(images=480_000, batch_size=64, learning_rate=5e-4, decay=0.4),
            "estimator": Budget(images=2_000_000, batch_size=256, learning_rate=2e-3, decay=1.0, weight_decay=1e-2),
            "held_out": Budget(images=1_200_000, batch_size=256, learning_rate=2e-3, decay=1.0, weight_decay=1e-2),
            "classifier": Budget(images=620_000, batch_size=128, learning_rate=2e-3, decay=1.0, weight_decay=5e-2),
        },
        contrastive={
            "estimator": Contrastive(tau=0.2, label_weight=1.0, noise_share=0.6, noise_limit=0.7, area=(0.5, 1.0)),
            "held_out": Contrastive(tau=0.2, label_weight=1.0, area=(0.6, 1.0), strength=0.2, seed=1),
        },
        tau=0.03,
        defaults=_DEFAULTS,
        beta_range=(0.0, 3.0),
        auto_beta={
            "table": [[1, 0.0], [10, 1.0]],
            "how": _BY_NETWORKS,
        },
    ),
    "imagenette-32": _IMAGENETTE_32,
    "imagenette-64": replace(
        _IMAGENETTE_32,
        title="ImageNette, 64×64 photographs",
        auto_beta=None,
        load=partial(imagenette, size=64),
        prior=replace(_IMAGENETTE_32.prior, image_size=64, num_channels=96, attention_resolutions="16,8", dropout=0.1),
        encoder=EncoderConfig(channels=3, widths=(64, 128, 256, 512), blocks=2),
        classifier=EncoderConfig(channels=3, widths=(64, 128, 256, 512), blocks=2),
        budgets={
            "prior": Budget(images=6_000_000, batch_size=256, learning_rate=5e-4, decay=0.4),
            "estimator": Budget(images=2_000_000, batch_size=256, learning_rate=2e-3, decay=1.0, weight_decay=5e-2),
            "held_out": Budget(images=2_000_000, batch_size=256, learning_rate=2e-3, decay=1.0, weight_decay=5e-2),
            "classifier": Budget(images=1_500_000, batch_size=256, learning_rate=2e-3, decay=1.0, weight_decay=5e-2),
        },
    ),
}
