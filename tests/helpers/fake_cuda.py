"""A fake CUDA device: its tensors lie in the CPU's memory, and behave as CUDA's do.

Without a GPU, a missing ``.cpu()`` or a table on the wrong device goes unnoticed. Inside of
:func:`fake_cuda`, models and images can be moved to :data:`FAKE`. Tensors there

- compute as those of the CPU do, gradients and views too;
- have no ``.numpy()``, and meet tensors of the CPU in no operation, except numbers (0
  dimensions) in elementwise ones, indexes and copies;
- take random numbers from generators of their own device only;
- are divided by a number as CUDA divides, which multiplies by its reciprocal.

Not covered: streams, pinned memory, kernels that CUDA lacks, and numbers that differ there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# A name of PyTorch's own, of a backend that is in no ordinary build: it takes no
# initialization, and its gradients are computed in the thread that asks for them.
FAKE = torch.device("lazy", 0)

aten = torch.ops.aten
DIVISIONS = {aten.div.Tensor: aten.mul.Tensor, aten.div_.Tensor: aten.mul_.Tensor}
COPIES = {aten.copy_.default, aten.fill_.Tensor}
BY_INDEX = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class PretendedTensor(Tensor):
    """A tensor that says it is on :data:`FAKE`.

    Attributes:
        inside: it, on the CPU.
    """

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> "PretendedTensor":
        tensor = Tensor._make_wrapper_subclass(  # noqa: SLF001
            cls,
            inside.size(),
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=FAKE,
        )
        tensor.inside = inside
        return tensor

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"fake {self.inside}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # a file gives it back on the CPU, as torch.load does with map_location="cpu"
        return self.detach().inside.__reduce_ex__(protocol)


def is_fake(device: Any) -> bool:
    return device is not None and torch.device(device).type == FAKE.type


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation of PyTorch's, below the gradients."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    there = [t for t in tensors if isinstance(t, PretendedTensor)]
    if kwargs.get("device") is None:
        _check_devices(func, args, tensors)
        is_there = bool(there)
    else:  # what is made anew, or moved
        is_there = is_fake(kwargs["device"])
        kwargs = kwargs | {"device": torch.device("cpu")} if is_there else kwargs

    known = {id(t.inside): t for t in there}

    def back(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) not in known:
            return PretendedTensor(x)
        if x.shape != known[id(x)].shape:
            raise NotImplementedError(f"{func} changes a shape in place")
        return known[id(x)]

    if func in DIVISIONS and is_there and not isinstance(args[1], PretendedTensor):
        is_float = args[0].is_floating_point()
        dtype = args[0].dtype if is_float else torch.get_default_dtype()
        number = torch.as_tensor(args[1], dtype=dtype)
        func, args = DIVISIONS[func], (args[0], 1 / number)
    out = func(*_inside(args), **_inside(kwargs))
    return tree_map(back, out) if is_there else out


def _inside(x: Any) -> Any:
    return tree_map(lambda t: t.inside if isinstance(t, PretendedTensor) else t, x)


def _check_devices(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Raise a RuntimeError where CUDA would."""
    if len({type(t) is PretendedTensor for t in tensors}) < 2 or func in COPIES:
        return
    first = isinstance(args[0], PretendedTensor)
    here = [t for t in tensors if not isinstance(t, PretendedTensor)]
    if func in BY_INDEX:  # indexes, a list, may be on the CPU
        indexes = {id(t) for t in tree_leaves(args[1])}
        here = [t for t in here if id(t) not in indexes]
        allowed = first and all(t.dim() == 0 for t in here)
    else:
        in_place = func._schema.is_mutable  # noqa: SLF001
        allowed = torch.Tag.pointwise in func.tags and all(t.dim() == 0 for t in here)
        allowed = allowed and (first or not in_place)
    if not allowed:
        shapes = [list(t.shape) for t in here]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {func} got some of "
            f"{FAKE} and some of the CPU, of shapes {shapes}"
        )


class PretendedGenerator(torch.Generator):
    """A generator that says it is on :data:`FAKE`; in place of PyTorch's class, it
    gives one of that where another device is asked for."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
        if is_fake(device):
            return super().__new__(cls, "cpu")
        return cls.__base__(device)


class _Dispatch(TorchDispatchMode):
    """What has no tensor of its own, such as factories, and moves from the CPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What PyTorch does in C++ before any operation: numbers of lists, to and fro."""

    def __torch_function__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        first, device = args[0] if args else None, kwargs.get("device")
        is_there = isinstance(first, PretendedTensor) or is_fake(device)
        generator = kwargs.get("generator")
        if generator is not None and is_there != isinstance(generator, PretendedGenerator):
            raise RuntimeError("Expected a generator of the device of its numbers")
        if func in (torch.tensor, torch.as_tensor) and is_there:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if isinstance(first, PretendedTensor):
            if func is Tensor.tolist:
                return first.cpu().tolist()
            if func is Tensor.new_tensor:
                return torch.tensor(args[1], **{"dtype": first.dtype, **kwargs}).to(first)
            if func in (Tensor.__getitem__, Tensor.__setitem__):
                args = (first, _without_lists(args[1]), *args[2:])
        return func(*args, **kwargs)


def _without_lists(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_without_lists(i) for i in index)
    return torch.tensor(index) if isinstance(index, list) else index


@contextmanager
def fake_cuda() -> Iterator[torch.device]:
    """Where :data:`FAKE` is a device as others are."""
    future = torch.__future__
    before = future.get_swap_module_params_on_conversion()
    # parameters stay the objects that they are when a module is moved
    future.set_swap_module_params_on_conversion(True)
    try:
        with (
            patch.object(torch, "Generator", PretendedGenerator),
            _Functions(),
            _Dispatch(),
        ):
            yield FAKE
    finally:
        future.set_swap_module_params_on_conversion(before)
