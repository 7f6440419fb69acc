"""What a step costs: python -m benchmarks.sampling [--bundle fashion-mnist]

Ratios are medians over pairs taken in turn in this one run, so that a machine whose speed drifts does not decide them.
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch

from igds.bundle import DEFAULT, Bundle, load_bundle
from igds.device import DEVICES, choose_device
from igds.priors.unet import UNetPrior
from igds.rng import image_seeds
from igds.sampling import ClassBatch, Guidance, paired, sample

STEPS = 10
PAIRS = 7


def seconds_a_step(bundle: Bundle, batches: list[ClassBatch]) -> float:
    started = time.perf_counter()
    sample(bundle.prior, bundle.estimator, batches, steps=STEPS)
    if bundle.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / STEPS


def prior_seconds(prior: UNetPrior, images: int) -> float:
    """The prior's network alone, on as many images."""
    device = next(prior.parameters()).device
    x = torch.randn(images, *prior.shape, device=device)
    y = torch.zeros(images, dtype=torch.long, device=device)
    started = time.perf_counter()
    with torch.no_grad():
        for _ in range(STEPS):
            prior.denoise(x, 500, y)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / STEPS


def compare(name: str, first, second) -> None:
    """Print the median time of `first` and the median ratio first / second over alternating pairs."""
    first(), second()
    pairs = [(first(), second()) for _ in range(PAIRS)]
    ratio = statistics.median(a / b for a, b in pairs)
    milliseconds = 1000 * statistics.median(a for a, _ in pairs)
    print(f"{name:<58} {milliseconds:8.1f} ms   ratio {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default=DEFAULT)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle, device=choose_device(options.device))
    print(f"{bundle.name} on {bundle.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    guidance = Guidance(beta=bundle.card["defaults"]["beta"], eta=bundle.card["defaults"]["eta"])
    for ipc in (1, 8, 50):
        seeds = image_seeds(0, 0, ipc)
        guided, unguided = [ClassBatch(0, seeds, guidance)], [ClassBatch(0, seeds, Guidance())]
        three, triple = paired(0, seeds, guidance), [ClassBatch(0, image_seeds(0, 0, 3 * ipc), guidance)]
        compare(
            f"IPC {ipc}: a guided step / a step that only measures",
            lambda b=guided: seconds_a_step(bundle, b),
            lambda b=unguided: seconds_a_step(bundle, b),
        )
        compare(
            f"IPC {ipc}: a guided step / the prior's network alone",
            lambda b=guided: seconds_a_step(bundle, b),
            lambda n=ipc: prior_seconds(bundle.prior, n),
        )
        compare(
            f"IPC {ipc}: three paired columns / one column of {3 * ipc}",
            lambda b=three: seconds_a_step(bundle, b),
            lambda b=triple: seconds_a_step(bundle, b),
        )
    if bundle.prior.config.space_to_depth > 1:
        full = UNetPrior(replace(bundle.prior.config, space_to_depth=1)).to(bundle.device).eval()
        compare(
            "24 images through the same UNet at full size / space-to-depth",
            lambda: prior_seconds(full, 24),
            lambda: prior_seconds(bundle.prior, 24),
        )


if __name__ == "__main__":
    main()
