"""Which processor to compute on. Chosen once, by the program; the library follows its inputs."""

from itertools import chain

import torch
from torch import nn

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one. ValueError where the one asked for is not there."""
    if name not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {name!r}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("this machine has no CUDA device that torch can use: choose --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is faster than float32 there: CUDA, and CPUs with the instructions for it."""
    if device.type != "cpu":
        return True
    return any(getattr(torch.cpu, f"_is_{name}_supported", lambda: False)() for name in ("avx512_bf16", "amx_tile"))


def device_of(network: nn.Module) -> torch.device:
    """Where its first parameter is, or its first buffer where it has no parameters."""
    return next(chain(network.parameters(), network.buffers())).device
