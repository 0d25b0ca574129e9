"""Distributed processes that train one model together, started by torchrun; usually one."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.errors import MlcrfError, SettingsError

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # set by torchrun
_TIMEOUT = timedelta(hours=2)  # decoding may take one process longer than the others


@dataclass(frozen=True)
class Processes:
    """This process among all that train one model, each on its shard of the images.

    All have the same model and take the same steps, so the result equals that of one process, up to
    the order of additions. In a single process, methods do nothing; else all processes must call
    them in the same order.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """True for the process that writes files and messages."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """Return this process's part of `count` items; parts are about equal."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def blocks(self, count: int, size: int) -> list[slice]:
        """Return this process's blocks of `size` among `count` items.

        The blocks, and so their results, are the same for any number of processes.
        """
        own = self.shard(-(-count // size))
        return [slice(size * at, min(size * (at + 1), count)) for at in range(own.start, own.stop)]

    def all_reduce(self, *tensors: Tensor) -> None:
        """Replace each tensor, on the CPU, by its sum over processes; all get the same bits."""
        if self.size == 1:
            return
        with self.reporting_losses():
            for tensor in tensors:
                dist.all_reduce(tensor)

    def all_gather(self, own: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """Return the whole matrix (count, D), of which each process has its `shard`."""
        if self.size == 1:
            return own
        whole = np.zeros((count, own.shape[1]), own.dtype)
        whole[self.shard(count)] = own
        with self.reporting_losses():
            for rank in range(self.size):
                part = whole[Processes(rank, self.size).shard(count)]
                if len(part):
                    dist.broadcast(torch.from_numpy(part), src=rank)
        return whole

    def gather_texts(self, texts: Sequence[str]) -> list[str]:
        """Return the texts of all processes, by rank."""
        if self.size == 1:
            return list(texts)
        own = "\n".join(texts).encode("utf-8", "surrogateescape")
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(own)
        self.all_reduce(lengths)
        whole = torch.zeros(int(lengths.sum()), dtype=torch.uint8)
        begin = int(lengths[: self.rank].sum())
        whole[begin : begin + len(own)] = torch.from_numpy(np.frombuffer(own, np.uint8).copy())
        self.all_reduce(whole)
        parts = torch.split(whole, lengths.tolist())
        joined = [bytes(part.numpy()).decode("utf-8", "surrogateescape") for part in parts]
        return [text for part in joined if part for text in part.split("\n")]

    def barrier(self) -> None:
        self.all_reduce(torch.zeros(1))

    @contextmanager
    def reporting_losses(self) -> Iterator[None]:
        """Turn errors of torch about ended processes into one clear error.

        Raises:
            MlcrfError: another process has ended.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_lost(error):
                raise
            raise MlcrfError(
                f"one of the {self.size} processes that train together has ended; the same command "
                "with --resume continues, with any number of processes"
            ) from error


ALONE = Processes()


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes started by torchrun, if any; yield them and this process's device.

    With several accelerators, each process takes the device of its local rank.

    Raises:
        SettingsError: not all variables of torchrun are set.
        MlcrfError: the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, device
        return
    if missing := [name for name in _VARIABLES if name not in os.environ]:
        raise SettingsError(
            f"WORLD_SIZE says {os.environ['WORLD_SIZE']} processes, but {missing[0]} is not set; "
            "start with torchrun, or unset WORLD_SIZE"
        )
    if device.type != "cpu" and ":" not in str(device):
        device = torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0")))
        torch.accelerator.set_device_index(device)
    try:
        # gloo on the CPU, else the accelerator's own backend
        dist.init_process_group("gloo" if device.type == "cpu" else None, timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise MlcrfError(f"the other processes cannot be reached: {error}") from error
    try:
        yield Processes(dist.get_rank(), dist.get_world_size()), device
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def speaks() -> bool:
    """Return whether this process reports the error that ends all: True for the first caller.

    Uses torchrun's store, which outlives the processes; without it every process reports.
    """
    if any(name not in os.environ for name in _VARIABLES) or os.environ["WORLD_SIZE"] == "1":
        return True
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, is_master=False, timeout=timedelta(seconds=3)
        )
        return bool(store.add(f"mlcrf-ended-{attempt}", 1) == 1)
    except (RuntimeError, ValueError):
        return True


def _is_lost(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "connection" in text
