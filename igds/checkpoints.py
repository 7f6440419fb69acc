"""Weights from elsewhere: read without running anything they hold, and checked key by key, shape by shape."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


class MissingPackage(ValueError):
    """An optional package that a foreign network needs is not installed; the message says how to get it."""


Shapes = Mapping[str, tuple[int, ...]]


def read_tensors(path: Path, *, within: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of one that torch.save wrote, by name, on the CPU.

    `within` are the keys under which checkpoints keep them ("state_dict"), taken where they are there. A pickle is
    read with `weights_only`, so that no code in it runs. Raises FileNotFoundError where there is no file, and
    ValueError for one that is cut short, damaged, holds code or holds no tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: give the path of a checkpoint file")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch and safetensors raise whatever they stumble on
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise ValueError(
                f"{path} holds more than weights, which could run code, and was not read: get weights alone"
            ) from None
        raise _unreadable(path, error) from None
    for key in within:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {name: value for name, value in content.items()} if isinstance(content, dict) else {}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise ValueError(f"{path} holds no weights by name: give a checkpoint's state_dict")
    return tensors


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def differences(found: Shapes, expected: Shapes) -> list[str]:
    """What is missing, does not belong or has another shape, a phrase each; empty where the layouts are the same."""
    told = [f"{name} is missing" for name in expected if name not in found]
    told += [f"{name} does not belong" for name in found if name not in expected]
    return told + [
        f"{name} has shape {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]


def check_layout(path: Path, tensors: Mapping[str, Tensor], expected: Shapes, what: str) -> None:
    """ValueError where the tensors of `path` are not exactly those of `what`, with the first of the differences."""
    told = differences(shapes_of(tensors), expected)
    if told:
        more = f" and {len(told) - 1:,} more differences" if len(told) > 1 else ""
        raise ValueError(f"{path} is not {what}: {told[0]}{more}; give the checkpoint that this name stands for")


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return ValueError(f"{path} cannot be read as weights ({reason}): it is cut short or damaged, get it again")
