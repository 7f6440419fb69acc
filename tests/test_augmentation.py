"""Views stay images, and a view is a function of the generator's seed."""

from functools import partial

import pytest
import torch

from igds.augmentation import (
    classifier_view,
    contrastive_view,
    random_brightness_contrast,
    random_flip,
    random_resized_crop,
)

VIEWS = [contrastive_view, classifier_view, partial(classifier_view, area=(0.3, 1.0), strength=0.3)]


def images(n: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed)) - 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("view", VIEWS)
def test_views_keep_shape_and_range(view):
    x = images(50)
    seen = view(x, generator())
    assert seen.shape == x.shape
    assert seen.min() >= -1 - 1e-6 and seen.max() <= 1 + 1e-6


@pytest.mark.parametrize("view", VIEWS)
def test_the_same_generator_makes_the_same_views(view):
    x = images(8)
    assert torch.equal(view(x, generator(1)), view(x, generator(1)))
    assert not torch.equal(view(x, generator(1)), view(x, generator(2)))


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_one_image_differ_within_a_batch_and_leave_it_unchanged(view):
    x = images(1).expand(6, -1, -1, -1)
    before = x.clone()
    seen = view(x, generator())
    assert torch.equal(x, before)
    assert all(not torch.allclose(seen[0], other) for other in seen[1:])


@pytest.mark.parametrize("view", VIEWS)
def test_views_leave_the_global_generator_alone(view):
    before = torch.get_rng_state()
    view(images(2), generator())
    assert torch.equal(before, torch.get_rng_state())


def test_half_of_the_images_are_flipped_and_the_others_left():
    x = images(2000)
    seen = random_flip(x, generator())
    flipped = (seen == x.flip(-1)).flatten(1).all(1)
    left = (seen == x).flatten(1).all(1)
    assert (flipped ^ left).all()
    assert abs(float(flipped.float().mean()) - 0.5) < 4 * 0.5 / 2000**0.5


def test_a_crop_of_the_whole_area_of_a_constant_image_is_that_image():
    x = torch.full((5, 1, 8, 8), 0.3)
    torch.testing.assert_close(random_resized_crop(x, generator(), area=(0.2, 1.0)), x)


def test_a_crop_shows_the_share_of_the_area_that_was_asked_for():
    ramp = torch.stack(torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij"))
    seen = random_resized_crop(ramp.expand(200, -1, -1, -1), generator(), area=(0.3, 0.5))
    height = (seen[:, 0, -1].mean(1) - seen[:, 0, 0].mean(1)) / 2
    width = (seen[:, 1, :, -1].mean(1) - seen[:, 1, :, 0].mean(1)) / 2
    share, aspect = height * width, width / height
    assert share.min() > 0.28 and share.max() < 0.52 and share.std() > 0.03
    assert aspect.min() > 0.74 and aspect.max() < 1.35


def test_brightness_without_strength_changes_nothing():
    x = images(4)
    torch.testing.assert_close(random_brightness_contrast(x, generator(), strength=0.0), x, rtol=0, atol=1e-6)


def test_brightness_keeps_black_black_and_scales_grey_within_its_strength():
    black, grey = torch.full((100, 1, 2, 2), -1.0), torch.zeros(100, 1, 2, 2)
    torch.testing.assert_close(random_brightness_contrast(black, generator(), strength=0.4), black)
    scaled = random_brightness_contrast(grey, generator(), strength=0.4) + 1
    assert scaled.min() >= 0.6 - 1e-6 and scaled.max() <= 1.4 + 1e-6 and scaled.std() > 0.1
