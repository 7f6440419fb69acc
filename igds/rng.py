"""One random stream per image, so that an image's noise depends on its seed and on nothing else."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def image_seeds(seed: int, label: int, n: int) -> tuple[int, ...]:
    """One seed for each of the `n` images of class `label` in the run `seed`; image i's does not depend on n."""
    return tuple(int(np.random.SeedSequence([seed, label, i]).generate_state(1, np.uint32)[0]) for i in range(n))


class NoiseStreams:
    """Standard normal noise, one CPU generator per distinct seed: images with the same seed get the same noise."""

    def __init__(self, seeds: Sequence[int]):
        distinct = list(dict.fromkeys(seeds))
        self._generators = [torch.Generator().manual_seed(seed) for seed in distinct]
        self._row = [distinct.index(seed) for seed in seeds]

    def draw(self, shape: Sequence[int]) -> Tensor:
        """(len(seeds), *shape) float32 on the CPU; every call moves each stream on by one image."""
        noise = torch.stack([torch.randn(tuple(shape), generator=generator) for generator in self._generators])
        return noise[self._row]
