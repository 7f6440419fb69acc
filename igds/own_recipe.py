"""The recipe of a bundle that is made of a user's own images: networks and budgets by their size and number."""

from dataclasses import replace

from igds.bundle import Bundle
from igds.encoders import EncoderConfig
from igds.own_images import OwnImages
from igds.priors.unet import UNetConfig, UNetPrior
from igds.recipes import RECIPES, Recipe
from igds.training import PriorObjective

DEFAULT_SIZE = 32
SIZES = range(16, 129, 16)  # the network halves its side three or four times
LICENSE = "that of the images, which their owner knows: say it here before passing the bundle on"

# What the imagenette recipes are trained for, at the least, and how often each image is seen at the most: more would
# teach the parts the images by heart. Batch sizes and learning rates are those recipes'.
_IMAGES = {"prior": 400_000, "estimator": 400_000, "held_out": 300_000, "classifier": 500_000}
_EPOCHS = {"prior": 8, "estimator": 40, "held_out": 30, "classifier": 40}
_MOST_EPOCHS = {"prior": 1000, "estimator": 400, "held_out": 300, "classifier": 400}
_BATCH_SIZES = {"prior": 64, "estimator": 256, "held_out": 256, "classifier": 128}
_FINE_TUNING_RATE = 2e-4


def check_size(size: int) -> None:
    """ValueError for a number of pixels that the networks cannot be built for."""
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(map(str, SIZES))} pixels, got {size}")


def own_recipe(
    images: OwnImages,
    *,
    name: str,
    flip: bool = True,
    shows_images: bool = True,
    trains_prior: bool = True,
    base: Bundle | None = None,
) -> Recipe:
    """The recipe for `images`; its budgets are what each part is trained for where nobody says how long.

    Without `trains_prior` there is no budget for one. With `base`, whose prior is fine-tuned, the prior is built as
    there. Raises ValueError where that prior cannot be, as `check_base` says.
    """
    channels, size = images.train.images.shape[1:3]
    check_size(size)
    count, classes = len(images.train), len(images.train.classes)
    if base is None:
        prior = _prior(size, channels)
    else:
        check_base(base, channels=channels, size=size)
        prior = base.prior.config
    source, is_small, squeeze = RECIPES["imagenette-32"], size <= 48, _squeeze(size)
    parts = [part for part in source.budgets if part != "prior" or trains_prior]
    budgets = {
        part: replace(
            source.budgets[part],
            images=min(max(_IMAGES[part], _EPOCHS[part] * count), most_images(part, count)),
            batch_size=_BATCH_SIZES[part],
        )
        for part in parts
    }
    if base is not None:
        budgets["prior"] = replace(budgets["prior"], learning_rate=_FINE_TUNING_RATE)
    return replace(
        source,
        title=f"{name}, {size}×{size} {'grey' if channels == 1 else 'colour'}",
        source="images of one's own",
        license=LICENSE,
        load=images.split,
        prior=replace(prior, num_classes=classes),
        encoder=EncoderConfig(channels, (32, 64, 128) if is_small else (48, 96, 192), space_to_depth=squeeze),
        classifier=EncoderConfig(channels, (48, 96, 192) if is_small else (64, 128, 256), space_to_depth=squeeze),
        budgets=budgets,
        defaults={**source.defaults, "ipc": 10},
        auto_beta=None,
        flip=flip,
        shows_images=shows_images,
    )


def most_images(part: str, count: int) -> int:
    """The longest that a part is trained on `count` images."""
    return max(_IMAGES[part], _MOST_EPOCHS[part] * count)


def check_base(base: Bundle, *, channels: int, size: int) -> None:
    """ValueError, in one sentence, where the prior of `base` cannot be fine-tuned on images of this shape."""
    if not isinstance(base.prior, UNetPrior) or base.prior.config.learn_sigma:
        raise ValueError(f"the prior of {base.name} was not trained here and cannot be fine-tuned: leave --from out")
    if base.prior.shape != (channels, size, size):
        theirs, own = (
            f"{side}×{side} pixels in {'grey' if depth == 1 else 'colour'}"
            for depth, side in ((base.prior.shape[0], base.prior.shape[1]), (channels, size))
        )
        raise ValueError(
            f"the prior of {base.name} makes images of {theirs} and these are of {own}: give --size "
            f"{base.prior.shape[1]} and images of that kind, or leave --from out"
        )


def start_from(objective: PriorObjective, base: Bundle, classes: tuple[str, ...]) -> None:
    """Give an untrained objective the weights of the prior of `base`; those of its classes only where they are ours."""
    weights = base.prior.state_dict()
    if base.classes != classes:
        own = objective.network.state_dict()
        weights |= {name: own[name] for name in weights if ".label_emb." in name}
    for network in (objective.network, objective.result):
        network.load_state_dict(weights)


def _prior(size: int, channels: int) -> UNetConfig:
    side = size // _squeeze(size)
    return replace(
        RECIPES["imagenette-32"].prior,
        image_size=size,
        channels=channels,
        num_channels=64 if size <= 48 else 96,
        space_to_depth=_squeeze(size),
        attention_resolutions=f"{side // 2}" if size <= 48 else f"{side // 2},{side // 4}",
    )


def _squeeze(size: int) -> int:
    return 2 if size <= 64 else 4


# Measured at 64, 60,096 and 600,000 images, in docs/your-own-images.md; what lies between is what such networks do.
_PROSPECTS = (
    (3_000, "little but noise: enough to see that the path works"),
    (50_000, "blurs in the colours of the classes"),
    (400_000, "colours and layouts, and seldom a thing that one could name"),
)
_BEST = (
    "things that one can often name (of ten classes of photographs at 32×32 pixels the judge recognised 60 % after "
    "600,000 images, and 75 % of the real ones)"
)


def prospects(images: int, *, side: int) -> str:
    """What may be hoped of a prior that has seen so many images."""
    hope = next((words for most, words in _PROSPECTS if images < most), _BEST)
    larger = "; more pixels need more" if side > 32 else ""
    return f"A prior that has seen {images:,} images makes {hope}{larger}. Drawings and signs need fewer."
