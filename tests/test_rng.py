"""An image's noise depends on its seed and on nothing else."""

import pytest
import torch

from igds.rng import NoiseStreams, image_seeds


def test_a_seeds_stream_is_that_of_a_torch_generator():
    streams, generator = NoiseStreams([7]), torch.Generator().manual_seed(7)
    for _ in range(3):
        assert torch.equal(streams.draw((2, 3))[0], torch.randn(2, 3, generator=generator))


@pytest.mark.parametrize("others", [[], [1], [1, 2, 3], [99] * 10])
def test_a_seeds_noise_does_not_depend_on_the_other_images(others):
    alone, together = NoiseStreams([5]), NoiseStreams([*others, 5])
    for _ in range(3):
        assert torch.equal(alone.draw((4,))[0], together.draw((4,))[-1])


def test_equal_seeds_get_equal_noise_at_every_draw():
    streams = NoiseStreams([3, 4, 3, 4, 3])
    for _ in range(3):
        noise = streams.draw((2, 2))
        assert torch.equal(noise[0], noise[2]) and torch.equal(noise[0], noise[4]) and torch.equal(noise[1], noise[3])
        assert not torch.equal(noise[0], noise[1])


def test_successive_draws_differ():
    streams = NoiseStreams([0])
    assert not torch.equal(streams.draw((8,)), streams.draw((8,)))


def test_noise_is_standard_normal():
    noise = NoiseStreams(image_seeds(0, 0, 500)).draw((100,)).double()
    standard_error = 1 / noise.numel() ** 0.5
    assert abs(float(noise.mean())) < 4 * standard_error
    assert abs(float(noise.square().mean()) - 1) < 4 * 2**0.5 * standard_error


def test_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    NoiseStreams(image_seeds(1, 2, 3)).draw((2,))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("n", [1, 2, 7])
def test_first_image_seeds_do_not_depend_on_n(n):
    assert image_seeds(11, 2, n) == image_seeds(11, 2, 20)[:n]


def test_image_seeds_differ_between_images_classes_and_runs():
    seeds = {seed for run in range(5) for label in range(5) for seed in image_seeds(run, label, 40)}
    assert len(seeds) == 5 * 5 * 40


def test_image_seeds_fit_a_generator():
    assert all(0 <= seed < 2**32 for seed in image_seeds(2**32 - 1, 999, 100))
