"""What the evaluation protocols show a network of its images: whole batches at a time, each image its own draw.

Equal in distribution to the peers' code, which works image by image. Images are square (n, C, S, S): in [0, 1] for the
crop, the colours and the lighting, normalised for `siamese_view`. On grey images, which have no saturation, that part
of the colours does nothing, nor does the lighting. Nothing is clipped, as in the peers' code.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from igds.augmentation import random_flip

_LUMA = (0.299, 0.587, 0.114)
# Principal components of ImageNet's colours (Krizhevsky et al. 2012).
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def random_resized_crop(x: Tensor, generator: torch.Generator, *, area: tuple[float, float]) -> Tensor:
    """torchvision's RandomResizedCrop to the images' own size: whole pixels, and no pixel from beyond the crop.

    That is what `augmentation.random_resized_crop`, made for training encoders, does not care about.
    """
    start, size = random_boxes(len(x), x.shape[-1], generator, area=area)
    return resized_crop(x, start, size)


def random_boxes(n: int, side: int, generator: torch.Generator, *, area: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """(start, size), each (2, n), rows and columns in pixels: torchvision's draw of `n` crops of a side² image.

    The share of the area is uniform in `area`, the aspect log-uniform from 3/4 to 4/3, the place uniform. What does not
    fit is drawn again, and after ten such draws the crop is the whole image.
    """
    device = generator.device
    share = torch.empty(10, n, device=device).uniform_(*area, generator=generator)
    log_aspect = torch.empty(10, n, device=device).uniform_(-1, 1, generator=generator) * math.log(4 / 3)
    root = (log_aspect / 2).exp()
    sizes = (side * torch.stack([share.sqrt() / root, share.sqrt() * root])).round()
    fits = ((sizes >= 1) & (sizes <= side)).all(0)
    first = fits.int().argmax(0)  # the first of equals
    size = sizes.gather(1, first.expand(2, 1, n))[:, 0].where(fits.any(0), side)
    start = (torch.rand(2, n, device=device, generator=generator) * (side - size + 1)).floor()
    return start, size


def resized_crop(x: Tensor, start: Tensor, size: Tensor) -> Tensor:
    """Image i's crop of `size[:, i]` pixels at `start[:, i]` (rows, columns), enlarged to S×S bilinearly."""
    side = x.shape[-1]
    places = (torch.arange(side, device=x.device) + 0.5) / side * size[..., None] - 0.5
    places = places.clamp(min=0).minimum(size[..., None] - 1) + start[..., None]
    rows, columns = (2 * places + 1) / side - 1
    grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), dim=-1)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def colour_jitter(x: Tensor, generator: torch.Generator, *, strength: float) -> Tensor:
    """Brightness, contrast and saturation in random order, each by a factor uniform in 1 ± `strength`.

    Each is a step away from a darker, flatter or greyer image: black, the mean grey level, and the grey image.
    """
    n, device = len(x), x.device
    order = torch.rand(3, n, generator=generator, device=device).argsort(0)[..., None, None, None]
    steps = torch.empty(3, n, 1, 1, 1, device=device).uniform_(-strength, strength, generator=generator)
    for kind, step in zip(order, steps):
        grey = _grey(x)
        flat = grey.mean(dim=(1, 2, 3), keepdim=True)
        x = x.lerp(torch.where(kind == 0, 0.0, torch.where(kind == 1, flat, grey)), step)
    return x


def _grey(x: Tensor) -> Tensor:
    return x if x.shape[1] == 1 else (x * x.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)


def lighting(x: Tensor, generator: torch.Generator, *, deviation: float) -> Tensor:
    """A normal step of `deviation` along each principal component of ImageNet's colours, one for a whole image."""
    if x.shape[1] == 1:
        return x
    alpha = deviation * torch.randn(len(x), 3, generator=generator, device=x.device)
    return x + ((alpha * x.new_tensor(_EIGENVALUES)) @ x.new_tensor(_EIGENVECTORS).T)[:, :, None, None]


def siamese_view(x: Tensor, generator: torch.Generator) -> Tensor:
    """The differentiable siamese augmentation of IDC, of normalised images: flip, colours, then a change of place.

    Brightness moves by up to ½, saturation is scaled by up to 2 and contrast by ½ to 3/2. The place changes in one of
    three ways, the same for the batch: a shift by up to S/8 pixels, a stretch of each side by up to 1.2, or a turn by
    up to 15°. What comes into view is 0.
    """
    n, side, device = len(x), x.shape[-1], x.device

    def uniform(low, high, *shape):
        return torch.empty(shape, device=device).uniform_(low, high, generator=generator)

    x = random_flip(x, generator)
    x = x + uniform(-0.5, 0.5, n, 1, 1, 1)
    mean = x.mean(dim=1, keepdim=True)
    x = mean + (x - mean) * uniform(0, 2, n, 1, 1, 1)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * uniform(0.5, 1.5, n, 1, 1, 1)

    reach = int(side / 8 + 0.5)
    shift = torch.randint(-reach, reach + 1, (2, n), generator=generator, device=device) * (2 / side)
    stretch = uniform(1 / 1.2, 1.2, 2, n)
    turn = uniform(-torch.pi / 12, torch.pi / 12, n)
    one, zero = torch.ones(n, device=device), torch.zeros(n, device=device)
    ways = torch.stack(
        [
            torch.stack([one, zero, shift[0], zero, one, shift[1]]),
            torch.stack([stretch[0], zero, zero, zero, stretch[1], zero]),
            torch.stack([turn.cos(), -turn.sin(), zero, turn.sin(), turn.cos(), zero]),
        ]
    )
    way = torch.randint(3, (1,), generator=generator, device=device)
    theta = ways[way][0].T.reshape(n, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)


class Mixed(NamedTuple):
    """Images of which a box shows image `partner[i]` (n,); `share`, a scalar, is that of the image's own pixels."""

    images: Tensor
    partner: Tensor
    share: Tensor


def cutmix(x: Tensor, generator: torch.Generator, *, probability: float = 1.0) -> Mixed:
    """CutMix (Yun et al. 2019) with λ ~ Beta(1, 1): one box for the batch, its share measured after it is clipped.

    With 1 − `probability` nothing is mixed, and `share` is 1.
    """
    n, side, device = len(x), x.shape[-1], x.device
    drawn, happens = torch.rand(2, generator=generator, device=device)  # Beta(1, 1) is uniform, and so is 1 − λ
    half = (side * drawn.sqrt()).floor().div(2, rounding_mode="floor") * (happens < probability)
    centre = torch.randint(side, (2,), generator=generator, device=device)
    pixels = torch.arange(side, device=device)
    within = (pixels >= (centre - half)[:, None]) & (pixels < (centre + half)[:, None])
    box = within[0, :, None] & within[1]
    partner = torch.randperm(n, generator=generator, device=device)
    return Mixed(torch.where(box, x[partner], x), partner, 1 - box.float().mean())
