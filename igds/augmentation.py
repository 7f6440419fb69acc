"""Random views of images in [-1, 1], whole batches at a time in torch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def random_resized_crop(x: Tensor, generator: torch.Generator, *, area: tuple[float, float]) -> Tensor:
    """Each image cropped to a random share of its area (aspect 3/4 to 4/3) at a random place, and resized back."""
    n, device = len(x), x.device

    def uniform(low, high):
        return torch.empty(n, device=device).uniform_(low, high, generator=generator)

    share, aspect = uniform(*area), torch.exp(uniform(-0.2877, 0.2877))
    width, height = (share * aspect).sqrt().clamp(max=1), (share / aspect).sqrt().clamp(max=1)
    centre_x, centre_y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    zero = torch.zeros_like(width)
    theta = torch.stack([torch.stack([width, zero, centre_x], 1), torch.stack([zero, height, centre_y], 1)], 1)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def random_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability 1/2."""
    flip = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    return torch.where(flip[:, None, None, None], x.flip(-1), x)


def random_brightness_contrast(x: Tensor, generator: torch.Generator, *, strength: float) -> Tensor:
    """Each image's distance from black scaled, and its contrast about its mean, by factors within 1 ± strength."""
    factor = 1 + strength * (2 * torch.rand(2, len(x), 1, 1, 1, generator=generator, device=x.device) - 1)
    x = (x + 1) * factor[0]
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return ((x - mean) * factor[1] + mean - 1).clamp(-1, 1)


def contrastive_view(
    x: Tensor, generator: torch.Generator, *, area: tuple[float, float] = (0.4, 1.0), strength: float = 0.4
) -> Tensor:
    """A view for instance discrimination."""
    x = random_flip(random_resized_crop(x, generator, area=area), generator)
    return random_brightness_contrast(x, generator, strength=strength)


def classifier_view(
    x: Tensor, generator: torch.Generator, *, area: tuple[float, float] = (0.85, 1.0), strength: float = 0.0
) -> Tensor:
    """A view for supervised training, mild by default: the fewer the images, the stronger it should be."""
    x = random_flip(random_resized_crop(x, generator, area=area), generator)
    return random_brightness_contrast(x, generator, strength=strength) if strength else x
