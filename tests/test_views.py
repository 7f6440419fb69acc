"""Each view against what it must do in a case whose answer is known, and its draws against their distribution."""

import math
import random

import pytest
import torch
import torch.nn.functional as F

from igds.views import (
    colour_jitter,
    cutmix,
    lighting,
    random_boxes,
    random_resized_crop,
    resized_crop,
    siamese_view,
)

N = 4000


def images(n: int, channels: int = 3, side: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


VIEWS = {
    "crop": lambda x, g: random_resized_crop(x, g, area=(0.5, 1.0)),
    "colours": lambda x, g: colour_jitter(x, g, strength=0.4),
    "siamese": siamese_view,
    "cutmix": lambda x, g: cutmix(x, g).images,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_a_function_of_its_generator_and_changes_neither_its_input_nor_the_global_stream(name, channels):
    x, state = images(8, channels), torch.get_rng_state()
    before = x.clone()
    seen = VIEWS[name](x, generator(1))
    assert seen.shape == x.shape and seen.dtype == x.dtype
    assert torch.equal(seen, VIEWS[name](x, generator(1))) and not torch.equal(seen, VIEWS[name](x, generator(2)))
    assert torch.equal(x, before) and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["crop", "colours", "siamese"])
def test_each_image_has_its_own_draw(name):
    seen = VIEWS[name](images(1).expand(6, -1, -1, -1), generator())
    assert all(not torch.allclose(seen[0], other) for other in seen[1:])


def test_a_crop_is_cut_out_and_then_enlarged():
    x, (start, size) = images(20), random_boxes(20, 12, generator(), area=(0.2, 1.0))
    seen = resized_crop(x, start, size)
    for image, view, (top, left), (height, width) in zip(x, seen, start.int().T.tolist(), size.int().T.tolist()):
        crop = image[None, :, top : top + height, left : left + width]
        expected = F.interpolate(crop, (12, 12), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


def torchvisions_box(side: int, area: tuple[float, float], draw: random.Random) -> tuple[int, int, int, int]:
    for _ in range(10):
        share = draw.uniform(*area) * side * side
        aspect = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(share * aspect)), round(math.sqrt(share / aspect))
        if 0 < width <= side and 0 < height <= side:
            return draw.randint(0, side - height), draw.randint(0, side - width), height, width
    return 0, 0, side, side


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.5, 1.0), (1.0, 1.0)])
def test_crops_are_distributed_as_torchvisions(area):
    start, size = random_boxes(N, 12, generator(), area=area)
    assert (start >= 0).all() and (size >= 1).all() and (start + size <= 12).all()
    ours = torch.cat([start, size]).T
    draw = random.Random(0)
    theirs = torch.tensor([torchvisions_box(12, area, draw) for _ in range(N)], dtype=torch.float)
    for column in range(4):
        counts = [torch.bincount(boxes[:, column].long(), minlength=13) / N for boxes in (ours, theirs)]
        assert (counts[0].cumsum(0) - counts[1].cumsum(0)).abs().max() < 1.95 * (2 / N) ** 0.5  # KS, p = 0.001
    whole = [float((boxes[:, 2:] == 12).all(1).float().mean()) for boxes in (ours, theirs)]
    assert whole[0] == pytest.approx(whole[1], abs=0.04)


def test_colours_without_strength_change_nothing():
    x = images(5)
    torch.testing.assert_close(colour_jitter(x, generator(), strength=0.0), x)


def test_colours_come_in_all_six_orders_equally_often():
    """Two pixels, one red and one white, tell by which brightness, contrast and saturation in which order they came."""
    x = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]]).reshape(1, 3, 1, 2).expand(N, -1, -1, -1)
    seen = colour_jitter(x, generator(3), strength=0.4)
    steps = torch.empty(3, N).uniform_(-0.4, 0.4, generator=_after_orders(N))
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]

    def brightness(x, step):
        return x * (1 - step)

    def contrast(x, step):
        return x + step * ((x * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True) - x)

    def saturation(x, step):
        return x + step * ((x * luma).sum(1, keepdim=True) - x)

    a, b, c = steps[..., None, None, None]
    found = []
    for one, two, three in torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]).tolist():
        ways = (brightness, contrast, saturation)
        expected = ways[three](ways[two](ways[one](x, a), b), c)
        found.append((seen - expected).abs().amax((1, 2, 3)) < 1e-5)
    found = torch.stack(found).float()
    assert found.any(0).all()
    # Contrast commutes with brightness, so that an image may fit several orders: count it once in all.
    shares = (found / found.sum(0)).mean(1)
    assert (shares - 1 / 6).abs().max() < 0.03


def _after_orders(n: int) -> torch.Generator:
    after = generator(3)
    torch.rand(3, n, generator=after)
    return after


def test_grey_images_have_no_saturation_and_no_lighting():
    x = images(N, channels=1, side=2)
    assert torch.equal(lighting(x, generator(), deviation=0.1), x)
    seen = colour_jitter(x, generator(), strength=0.4)
    # What is left is brightness and contrast: an image's deviation is scaled by both, its mean by brightness only.
    factor = seen.mean((1, 2, 3)) / x.mean((1, 2, 3))
    assert factor.min() >= 0.6 - 1e-5 and factor.max() <= 1.4 + 1e-5 and factor.std() == pytest.approx(0.231, abs=0.01)


def test_lighting_moves_every_pixel_alike_along_the_principal_colours():
    x = images(N, side=2)
    moved = lighting(x, generator(), deviation=0.1) - x
    torch.testing.assert_close(moved, moved[..., :1, :1].expand_as(moved), rtol=0, atol=1e-6)
    vectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    along = moved[:, :, 0, 0] @ vectors
    torch.testing.assert_close(along.std(0), 0.1 * torch.tensor([0.2175, 0.0188, 0.0045]), rtol=0.05, atol=0)


def test_the_box_of_cutmix_shows_the_partner_and_its_share_is_counted():
    x = images(6)
    shares = []
    for seed in range(300):
        mixed = cutmix(x, generator(seed))
        other = (mixed.images == x[mixed.partner]) & (mixed.images != x)
        moved = mixed.partner != torch.arange(6)
        assert torch.equal(mixed.images[~moved], x[~moved])
        for box in other[moved].all(1):
            assert float(mixed.share) == pytest.approx(1 - float(box.float().mean()))
            rows, columns = box.any(1), box.any(0)
            assert torch.equal(box, rows[:, None] & columns)
        assert sorted(mixed.partner.tolist()) == list(range(6))
        shares.append(float(mixed.share))
    assert min(shares) < 0.4 and max(shares) == 1.0


def test_the_share_of_cutmix_is_distributed_as_in_the_peers_code():
    def theirs(draw: random.Random, side: int = 12) -> float:
        cut = int(side * math.sqrt(1 - draw.betavariate(1, 1)))
        length = []
        for centre in (draw.randrange(side), draw.randrange(side)):
            length.append(min(centre + cut // 2, side) - max(centre - cut // 2, 0))
        return 1 - length[0] * length[1] / side**2

    draw, x, own = random.Random(0), images(2, channels=1), generator()
    expected = torch.tensor([theirs(draw) for _ in range(N)])
    seen = torch.stack([cutmix(x, own).share for _ in range(N)])
    grid = torch.linspace(0, 1, 50)
    distance = (seen[:, None] <= grid + 1e-6).float().mean(0) - (expected[:, None] <= grid + 1e-6).float().mean(0)
    assert distance.abs().max() < 1.95 * (2 / N) ** 0.5


def test_cutmix_happens_as_often_as_it_is_asked_to():
    x, own = images(4), generator()
    assert all(float(cutmix(x, own, probability=0.0).share) == 1.0 for _ in range(50))
    mixed = [torch.equal(cutmix(x, own, probability=0.5).images, x) for _ in range(1000)]
    always = [torch.equal(cutmix(x, own).images, x) for _ in range(1000)]
    assert sum(mixed) / 1000 == pytest.approx(0.5 + sum(always) / 2000, abs=0.07)


def test_the_siamese_view_changes_place_in_one_of_three_ways_for_the_whole_batch():
    """Of a constant image only the frame of zeros tells what happened."""
    kinds = set()
    for seed in range(30):
        x = torch.full((20, 1, 32, 32), 5.0)
        zero = siamese_view(x, generator(seed))[:, 0] == 0
        rows, columns = zero.all(2), zero.all(1)
        straight = torch.equal(zero, rows[:, :, None] | columns[:, None, :])
        shifted = bool((rows.sum(1) <= 4).all() and (columns.sum(1) <= 4).all() and straight)
        one_sided = not (rows[:, 0] & rows[:, -1]).any() and not (columns[:, 0] & columns[:, -1]).any()
        kinds.add("turn" if not straight else "shift" if shifted and one_sided and rows.any() else "stretch")
    assert kinds == {"turn", "shift", "stretch"}


def test_the_siamese_view_moves_brightness_and_scales_contrast_and_saturation_within_their_ranges():
    centre = (slice(None), slice(None), 16, [8, 24])
    halves = torch.ones(N, 1, 32, 32)
    halves[..., 16:] = -1
    left, right = siamese_view(halves, generator())[centre][:, 0].T
    for seen, low, high in (((left + right) / 2, -0.5, 0.5), ((left - right).abs() / 2, 0.5, 1.5)):
        assert seen.min() >= low - 1e-5 and seen.max() <= high + 1e-5
        assert seen.std() == pytest.approx((high - low) / 12**0.5, rel=0.05)
    colour = torch.tensor([1.0, 0.0, -1.0])[None, :, None, None].expand(N, -1, 32, 32)
    red, _, blue = siamese_view(colour, generator())[centre][..., 0].T
    # The colours of a flat image are its contrast too, so that both factors scale them.
    assert (red - blue).max() / 2 <= 3 + 1e-4 and (red - blue).min() >= -1e-5
    assert float((red - blue).mean() / 2) == pytest.approx(1.0, abs=0.05)
