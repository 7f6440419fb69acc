"""Several processes that train as one: the share of each, and what they tell one another (torch.distributed)."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = 600.0  # seconds of silence after which another process is taken for dead


@dataclass(frozen=True)
class Processes:
    """Process `rank` of `world`; alone (0 of 1), every function gives back what it gets.

    All functions but `rows` must be called by all processes in the same order. They raise ConnectionError, in one
    sentence, where another process is gone or silent for longer than `joined` has patience.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def rows(self, n: int) -> slice:
        """Which of n rows are this process's: as many as any other's, or one more or less."""
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def gather(self, part: Tensor, n: int) -> Tensor:
        """(n, …) of which every process has its `rows`: on all of them."""
        if self.world == 1:
            return part
        whole = part.new_zeros(n, *part.shape[1:])
        whole[self.rows(n)] = part
        _told(dist.all_reduce, whole)  # with zeros, so exactly
        return whole

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor replaced by its sum over the processes, all in one message."""
        if self.world == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        _told(dist.all_reduce, flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(total.view_as(tensor))

    def any(self, value: bool) -> bool:
        """Whether it holds for one of the processes."""
        if self.world == 1:
            return value
        count = torch.tensor(int(value))
        _told(dist.all_reduce, count)
        return bool(count)

    def from_main(self, content: bytes | None) -> bytes:
        """The bytes that the main process gives; those of the others do not count."""
        if self.world == 1:
            return content
        size = torch.tensor(len(content) if self.is_main else 0)
        _told(dist.broadcast, size, 0)
        sent = torch.frombuffer(bytearray(content), dtype=torch.uint8) if self.is_main else None
        sent = torch.empty(int(size), dtype=torch.uint8) if sent is None else sent
        _told(dist.broadcast, sent, 0)
        return sent.numpy().tobytes()


ALONE = Processes()


@contextmanager
def joined(rank: int, world: int, device: torch.device, *, patience: float = PATIENCE) -> Iterator[Processes]:
    """The processes that torchrun or `accelerate launch` started, once all are there; ALONE where there is one.

    They talk over NCCL where every one has a GPU of its own, and over gloo otherwise. Raises ValueError where nobody
    said how they find each other, and ConnectionError where one does not come within `patience` seconds.
    """
    if world == 1:
        yield ALONE
        return
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ValueError(
            f"there should be {world} processes (WORLD_SIZE), and {' and '.join(missing)} is not set: "
            "start them with `torchrun` or `accelerate launch`"
        )
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    own_gpus = device.type == "cuda" and beside <= torch.cuda.device_count()
    if own_gpus:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if own_gpus else "gloo",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=patience),
        )
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise ConnectionError(
            f"process {rank} of {world} did not find the others within {patience:g} seconds ({reason}): "
            "start all of them, with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE"
        ) from None
    try:
        yield Processes(rank, world)
    finally:
        dist.destroy_process_group()


def _told(message: Callable, *content) -> None:
    try:
        message(*content)
    except RuntimeError:
        raise ConnectionError(
            "another process of this training stopped or fell silent, and its own message says why: the same command "
            "goes on from the last checkpoint"
        ) from None
