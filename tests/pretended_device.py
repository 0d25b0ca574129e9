"""A pretended second device: its tensors hold CPU memory, and refuse CPU tensors as partners.

Inside `pretended_device()`, tensors made on `DEVICE` or moved there say that they are there, and so
does all that is computed from them. Stricter than a real device in two ways: index tensors and
sources of assignments must be there too, so that no copy between devices goes unseen.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
DEVICE = torch.device("mps:0")  # a name that torch parses anywhere, without looking for a driver
ANY = None  # what torch makes for itself on the way is wherever it is needed

_to, _numpy, _new_tensor = Tensor.to, Tensor.numpy, Tensor.new_tensor
_lift_fresh = torch.ops.aten.lift_fresh.default


@contextmanager
def pretended_device() -> Iterator[None]:
    """Let `DEVICE` exist."""
    with pytest.MonkeyPatch.context() as patch, _Operations():
        patch.setattr(torch.Tensor, "device", property(_device_of))
        patch.setattr(torch.Tensor, "to", _moved)
        patch.setattr(torch.Tensor, "cpu", lambda tensor: tensor.to(CPU))
        patch.setattr(torch.Tensor, "numpy", _to_numpy)
        patch.setattr(torch.Tensor, "new_tensor", _made_like)
        for name in ("tensor", "as_tensor", "from_numpy"):
            patch.setattr(torch, name, partial(_made, getattr(torch, name)))
        patch.setattr(torch, "Generator", _Generator)
        yield


class _Operations(TorchDispatchMode):
    """Every operation, forwards and backwards: refused if its tensors are on both devices."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # what torch would do about it is loading its compiler

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        places = [_place(one) for one in _tensors(*args, *kwargs.values())]
        there = DEVICE in places
        if there and CPU in places:
            raise RuntimeError(f"{func}: expected all tensors on {DEVICE}, got some on {CPU}")
        if there and func._schema.is_mutable and _place(args[0], scalars=CPU) == CPU:
            raise RuntimeError(f"{func}: expected to write to {DEVICE}, got a number on {CPU}")
        if kwargs.get("device") == DEVICE:
            there, kwargs["device"] = True, CPU
        generator = kwargs.get("generator")
        if generator is not None and (generator._cdata in _Generator.there) != there:
            raise RuntimeError(f"{func}: expected a generator on the device of the tensors")
        result = func(*args, **kwargs)
        # made by torch itself, also of a list that is an index: a caller's has `pin_memory`
        inside = (not places and "pin_memory" not in kwargs) or func is _lift_fresh
        for one in _tensors(result) if there or inside or set(places) == {ANY} else ():
            _put(one, DEVICE if there else ANY)
        return result


class _Generator(torch.Generator):
    there: ClassVar[WeakValueDictionary[int, torch.Generator]] = WeakValueDictionary()

    def __new__(cls, device: torch.device | str = CPU) -> "_Generator":
        made = super().__new__(cls)
        if torch.device(device) == DEVICE:
            cls.there[made._cdata] = made
        return made

    @property
    def device(self) -> torch.device:
        return DEVICE if self._cdata in self.there else CPU


def _tensors(*values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(*value)


def _storages(tensor: Tensor) -> list[Any]:
    parts = [tensor]
    if tensor.layout is torch.sparse_coo:
        parts = [tensor._indices(), tensor._values()]
    elif tensor.layout is torch.sparse_csr:
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [part.untyped_storage() for part in parts]


def _place(tensor: Tensor, *, scalars: Any = ANY) -> Any:
    """Return where a tensor is; `scalars` for one of no axis on the CPU, which may join any."""
    place = getattr(_storages(tensor)[-1], "place", CPU)
    return scalars if place == CPU and not tensor.ndim else place


def _put(tensor: Tensor, place: Any) -> Tensor:
    """Mark the memory, which views, saved tensors and detached tensors share."""
    for storage in _storages(tensor):
        storage.place = place
    return tensor


def _device_of(tensor: Tensor) -> torch.device:
    return DEVICE if _place(tensor) == DEVICE else CPU


def _moved(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args and isinstance(args[0], Tensor):
        device, dtype = args[0].device, args[0].dtype
    else:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    cast = tensor if dtype is None else _to(tensor, dtype)
    if device is None or device == cast.device:
        return cast
    return _put(cast.clone(), device)


def _to_numpy(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    if tensor.device == DEVICE:
        raise TypeError(f"numpy: expected a tensor on {CPU}, got one on {DEVICE}")
    return _numpy(tensor, *args, **kwargs)


def _made(make: Any, data: Any, *, device: torch.device | str = CPU, **kwargs: Any) -> Tensor:
    return _put(make(data, **kwargs), torch.device(device))


def _made_like(tensor: Tensor, data: Any, **kwargs: Any) -> Tensor:
    return _put(_new_tensor(tensor, data, **kwargs), tensor.device)
