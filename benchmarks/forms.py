"""What a step of a prior costs by batch size and form: python -m benchmarks.forms [--recipe imagenette-64]

The network is as the recipe builds it, untrained: its weights do not change its speed. Every form is timed in turn
with the plain one in this one run; ratios are medians over pairs.
"""

import argparse
import resource
import statistics
import subprocess
import sys
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sampling import PAIRS, gemm_rate, prior_seconds
from igds.device import DEVICES, choose_device
from igds.priors.unet import UNetConfig, UNetPrior
from igds.recipes import RECIPES

CPU_BATCHES, CUDA_BATCHES = (1, 10, 30), (10, 50, 500)
EVALUATIONS = (20, 250)


def build(config: UNetConfig, device: torch.device, *, bfloat16=False, channels_last=False, compile=False) -> UNetPrior:
    prior = UNetPrior(config).to(device).eval()
    prior.bfloat16 = bfloat16
    if channels_last:
        prior.to(memory_format=torch.channels_last)
    if compile:
        prior.network.compile()
    return prior


def operations(prior: UNetPrior, images: int) -> int:
    device = next(prior.parameters()).device
    x, y = torch.randn(images, *prior.shape, device=device), torch.zeros(images, dtype=torch.long, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        prior.denoise(x, 500, y)
    return counter.get_total_flops()


def peak_memory(recipe: str, form: str, images: int, device: str) -> float:
    """MiB that a process of its own needs at most, of the device's memory or of the machine's."""
    command = [sys.executable, "-m", "benchmarks.forms", "--recipe", recipe, "--device", device]
    command += ["--memory-of", form, str(images)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def forms(config: UNetConfig, device: torch.device) -> dict[str, dict]:
    """The plain form first."""
    changed = {"full": {"config": replace(config, space_to_depth=1)}} if config.space_to_depth > 1 else {}
    faster = {"bfloat16": {"bfloat16": True}}
    if device.type == "cuda":
        faster["bfloat16, channels last"] = {"bfloat16": True, "channels_last": True}
        faster["bfloat16, channels last, compiled"] = {"bfloat16": True, "channels_last": True, "compile": True}
    return {"as the recipe has it": {}, **changed, **faster}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="imagenette-64")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--memory-of", nargs=2, metavar=("FORM", "IMAGES"), help="only print this process's peak, MiB")
    options = parser.parse_args()
    device, config = choose_device(options.device), RECIPES[options.recipe].prior
    ways = forms(config, device)
    if options.memory_of:
        form, images = options.memory_of
        prior_seconds(build(**({"config": config} | ways[form]), device=device), int(images))
        on_device = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
        return print(on_device or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    priors = {name: build(**({"config": config} | way), device=device) for name, way in ways.items()}
    plain = priors["as the recipe has it"]
    parameters = sum(p.numel() for p in plain.parameters()) / 1e6
    print(
        f"{options.recipe}, {parameters:.1f} M parameters, space-to-depth {config.space_to_depth}, on {device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for images in CUDA_BATCHES if device.type == "cuda" else CPU_BATCHES:
        for name, prior in priors.items():
            prior_seconds(prior, images), prior_seconds(plain, images)
            pairs = [(prior_seconds(prior, images), prior_seconds(plain, images)) for _ in range(PAIRS)]
            seconds = statistics.median(a for a, _ in pairs)
            share = operations(prior, images) / seconds / gemm_rate(device)
            print(
                f"{images:4} images, {name:<34} {1000 * seconds:8.1f} ms a step, {images / seconds:7.1f} images a "
                f"second, ratio {statistics.median(a / b for a, b in pairs):.2f}, share of the float32 matrix "
                f"product's rate {share:.2f}, peak memory {peak_memory(options.recipe, name, images, device.type):.0f} "
                "MiB",
                flush=True,
            )
            if images == 50:
                finished = ", ".join(f"{images / seconds / n:.2f} with {n} evaluations" for n in EVALUATIONS)
                print(f"     finished images a second, unguided: {finished}")


if __name__ == "__main__":
    main()
