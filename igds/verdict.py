"""What a bundle's judges say of finished images: the classifier and the held-out estimator guide nothing."""

from dataclasses import dataclass

import torch
from torch import Tensor

from igds.bundle import Bundle
from igds.data import to_unit
from igds.estimator import VariationalEstimator
from igds.information import batch_reference, contextual_kl, prototype_information
from igds.measures import features_and_logits, pairwise_distance


@dataclass(frozen=True)
class Verdict:
    """Of the images of one class. Information is in nats, of the images as they are saved.

    `accuracy` is the share that the independent classifier takes for their class, `diversity` the mean pairwise cosine
    distance of its features, 0 for a single image. `recognised_diversity` is that of the images it takes for their
    class, NaN where they are fewer than two: an image of something else is far from the others, but no variety of the
    class. `prototype` and `contextual` are Î and Ĥ by the estimator that guides; the held-out ones by the estimator
    that does not. Whatever the bundle has no judge for is NaN.
    """

    accuracy: float
    diversity: float
    recognised_diversity: float
    prototype: float
    contextual: float
    held_out_prototype: float
    held_out_contextual: float


def judge(bundle: Bundle, images: Tensor, label: int, *, reference: str = "batch") -> Verdict:
    """The verdict on uint8 images (n, C, H, W) of class `label`; Ĥ is held against `reference`, as in Guidance."""
    accuracy = diversity = varied = float("nan")
    if bundle.classifier:
        features, logits = features_and_logits(bundle.classifier, images)
        recognised = logits.argmax(1) == label
        accuracy, diversity = float(recognised.float().mean()), pairwise_distance(features)
        varied = pairwise_distance(features[recognised]) if recognised.sum() > 1 else float("nan")
    own, other = (
        information(estimator, images, label, reference=reference) if estimator else (float("nan"), float("nan"))
        for estimator in (bundle.estimator, bundle.held_out)
    )
    return Verdict(accuracy, diversity, varied, *own, *other)


@torch.no_grad()
def information(
    estimator: VariationalEstimator, images: Tensor, label: int, *, reference: str = "batch", batch_size: int = 500
) -> tuple[float, float]:
    """Means of H(Y) + log P(y | x) and of KL(p ‖ Q), in nats, over uint8 images of one class."""
    device = estimator.class_means.device
    parts = [estimator(to_unit(part.to(device))) for part in images.split(batch_size)]
    log_probs, p = (torch.cat(part) for part in zip(*parts))
    labels = torch.full((len(images),), label, device=device)
    q = estimator.class_means[label] if reference == "class" else batch_reference(p)
    prototype = prototype_information(log_probs, labels, estimator.label_entropy)
    return float(prototype.mean()), float(contextual_kl(p, q).mean())
