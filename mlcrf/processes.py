"""Several processes that train as one, started by torchrun; mostly there is but one."""

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

_TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells a process
_LONGEST = timedelta(hours=2)  # that one waits for the others: decoding may take one longer


@dataclass(frozen=True)
class Processes:
    """This process among those that train as one; each does its share of the images.

    All hold the same model and make the same steps, so what they learn is what one would, but for
    the order in which numbers are added. Methods are no-ops where there is one process alone, and
    where there are more, all must call them in the same order.

    Attributes:
        rank: of this one, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of `count` things in a row are this process's; those of all are about as many."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def blocks(self, count: int, size: int) -> list[slice]:
        """Which blocks of `size` of `count` things in a row are this process's.

        The blocks are the same however many processes there are, so that what each gives is too.
        """
        own = self.share(-(-count // size))
        return [slice(size * at, min(size * (at + 1), count)) for at in range(own.start, own.stop)]

    def total(self, *tensors: Tensor) -> None:
        """Replace each tensor, on the CPU, by its sum over processes; the same bits in all."""
        if self.size == 1:
            return
        with self.watched():
            for tensor in tensors:
                dist.all_reduce(tensor)

    def rows(self, own: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """All of a matrix (count, D) of which each process has its `share`, in order."""
        if self.size == 1:
            return own
        whole = np.zeros((count, own.shape[1]), own.dtype)
        whole[self.share(count)] = own
        with self.watched():
            for rank in range(self.size):
                part = whole[Processes(rank, self.size).share(count)]
                if len(part):
                    dist.broadcast(torch.from_numpy(part), src=rank)
        return whole

    def gather(self, texts: Sequence[str]) -> list[str]:
        """The texts of all processes, in the order of their ranks."""
        if self.size == 1:
            return list(texts)
        own = "\n".join(texts).encode("utf-8", "surrogateescape")
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(own)
        self.total(lengths)
        whole = torch.zeros(int(lengths.sum()), dtype=torch.uint8)
        begin = int(lengths[: self.rank].sum())
        whole[begin : begin + len(own)] = torch.from_numpy(np.frombuffer(own, np.uint8).copy())
        self.total(whole)
        parts = torch.split(whole, lengths.tolist())
        joined = [bytes(part.numpy()).decode("utf-8", "surrogateescape") for part in parts]
        return [text for part in joined if part for text in part.split("\n")]

    def wait(self) -> None:
        """Until all have come here."""
        self.total(torch.zeros(1))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Say in one line that another process is gone, where torch says it in its own words.

        Raises:
            MlcrfError: this process has lost the others.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_lost(error):
                raise
            raise MlcrfError(
                f"one of the {self.size} processes that trained together is gone; the same command "
                "with --resume goes on, with as many processes or another number"
            ) from error


ALONE = Processes()


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that torchrun has started, if it did, and the device that is this one's.

    Of several accelerators in a machine each process takes the one of its local rank.

    Raises:
        SettingsError: only a part of what torchrun tells is there.
        MlcrfError: the others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, device
        return
    if missing := [name for name in _TOLD if name not in os.environ]:
        raise SettingsError(
            f"WORLD_SIZE says {os.environ['WORLD_SIZE']} processes, but {missing[0]} is not set; "
            "start with torchrun, or unset WORLD_SIZE"
        )
    if device.type != "cpu" and ":" not in str(device):
        device = torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0")))
        torch.accelerator.set_device_index(device)
    try:
        # gloo for what is on the CPU, and what the accelerator's own is for the rest
        dist.init_process_group("gloo" if device.type == "cpu" else None, timeout=_LONGEST)
    except (RuntimeError, ValueError) as error:
        raise MlcrfError(f"the other processes cannot be reached: {error}") from error
    try:
        yield Processes(dist.get_rank(), dist.get_world_size()), device
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def speaks() -> bool:
    """Whether this process is to say why all of them end: the first of them that asks.

    It is asked of torchrun's store, which outlives any of the processes; without one all speak.
    """
    if any(name not in os.environ for name in _TOLD) or os.environ["WORLD_SIZE"] == "1":
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
