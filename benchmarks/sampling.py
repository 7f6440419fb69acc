"""What a step costs: python -m benchmarks.sampling [--bundle fashion-mnist]

Ratios are medians over pairs taken in turn in this one run, so that a machine whose speed drifts does not decide them.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from igds.bundle import DEFAULT, Bundle, load_bundle
from igds.device import DEVICES, choose_device
from igds.priors.unet import UNetPrior
from igds.rng import image_seeds
from igds.runs import Run
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


def gemm_rate(device: torch.device, *, side: int = 1024, repeats: int = 10) -> float:
    """Floating-point operations a second of this machine's own matrix product, the best of several tries."""
    a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)

    def seconds():
        started = time.perf_counter()
        for _ in range(repeats):
            product = a @ b
        float(product[0, 0])
        return time.perf_counter() - started

    return repeats * 2 * side**3 / min(seconds() for _ in range(PAIRS))


def operations(bundle: Bundle, images: int) -> float:
    """Floating-point operations of a guided step; the estimator's way back costs what its way forward does."""
    x = torch.randn(images, *bundle.prior.shape, device=bundle.device)
    y = torch.zeros(images, dtype=torch.long, device=bundle.device)
    counts = []
    with torch.no_grad():
        for network in (lambda: bundle.prior.denoise(x, 500, y), lambda: bundle.estimator(x)):
            with FlopCounterMode(display=False) as counter:
                network()
            counts.append(counter.get_total_flops())
    return counts[0] + 2 * counts[1]


def print_share(bundle: Bundle, batches: list[ClassBatch]) -> None:
    """What share of the machine's matrix rate the sampling loop reaches, the two timed in turn."""
    images = sum(len(batch.seeds) for batch in batches)
    work = operations(bundle, images)
    shares = [work / seconds_a_step(bundle, batches) / gemm_rate(bundle.device) for _ in range(PAIRS)]
    print(f"{images} images: share of the matrix product's rate in the loop  {statistics.median(shares):.2f}")


def print_profile(bundle: Bundle, batches: list[ClassBatch]) -> None:
    """Where the time of the sampling loop goes, by operation."""
    with profile() as profiled:
        sample(bundle.prior, bundle.estimator, batches, steps=STEPS)
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    print(
        "of the processor's time: "
        + ", ".join(f"{e.key.removeprefix('aten::')} {e.self_cpu_time_total / whole:.0%}" for e in events[:8])
    )


def print_memory(bundle_name: str) -> None:
    """Peak memory of whole processes that sample IPC 10 and IPC 100, three columns each."""
    peaks = {}
    for ipc in (10, 100):
        command = [sys.executable, "-m", "benchmarks.sampling", "--bundle", bundle_name, "--memory-of", str(ipc)]
        peaks[ipc] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    text = ", ".join(f"IPC {ipc} {peak / 1024:.0f} MiB" for ipc, peak in peaks.items())
    print(f"peak memory: {text}   ratio {peaks[100] / peaks[10]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default=DEFAULT)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--memory-of", type=int, metavar="IPC", help="only print this process's peak memory, in KiB")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle, device=choose_device(options.device))
    if options.memory_of:
        guidance = Run.of(bundle).guidance
        sample(bundle.prior, bundle.estimator, paired(0, image_seeds(0, 0, options.memory_of), guidance), steps=2)
        return print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(f"{bundle.name} on {bundle.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print_memory(options.bundle)  # first: a process counts what its parent held when it was made
    guidance = Run.of(bundle).guidance
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
        print_share(bundle, three)
    print_profile(bundle, paired(0, image_seeds(0, 0, 8), guidance))


if __name__ == "__main__":
    main()
