"""A GPU that is not there: bytes alive, their peak, FLOPs, kernel launches, and where the CPU waits for it.

Inside `with FakeGpu() as gpu:`, tensors on "cuda" have shapes and no values. To PyTorch they are tensors on "meta",
since its autograd engine refuses CUDA without a driver. Whole numbers and masks of at most `SMALL` elements keep real
values on the side, so that whatever depends on data (ids, bounds, masks, `tolist`, `item`) runs as it would. One step
of a model of any size takes seconds of CPU and no memory.
"""

import contextlib
import math
import traceback
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._functorch.config
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
SMALL = 300_000
BLOCK = 512
"""CUDA's allocator rounds up to this many bytes."""
READS_SIZES = {aten.nonzero.default, aten.repeat_interleave.Tensor, aten._unique2.default, aten.masked_select.default}
"""Operations whose result's size depends on data, for which the CPU waits."""
WITHOUT_KERNEL = frozenset(
    "_local_scalar_dense _reshape_alias _unsafe_view alias as_strided detach device diagonal empty empty_like "
    "empty_strided expand lift_fresh narrow new_empty permute reshape select slice split split_with_sizes squeeze t "
    "transpose unbind unfold unsqueeze view".split()
)


class _Renamed(TorchFunctionMode):
    """What Python says about CUDA, as the fake tensors need it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.nn.functional.dropout:  # CUDA's kernel keeps a mask of one byte per number
            x, share, training = (*args, *[kwargs[key] for key in ("p", "training") if key in kwargs])[:3]
            return torch.native_dropout(x, share, True)[0] if training and share else x
        args, kwargs = tree_map(_meta, (args, kwargs))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


def _meta(value: Any) -> Any:
    is_cuda = isinstance(value, str | torch.device) and str(value).split(":")[0] == "cuda"
    return torch.device("meta") if is_cuda else value


class FakeGpu(TorchDispatchMode):
    """One GPU; to be used in a `with` block.

    `alive` and `peak` are bytes, `flops` those of matrix products and attention, `launches` the operations that start a
    kernel (an elementwise operation is one) by name, `traffic` the bytes that they read and write at least, `seconds`
    the longer of both at the rates given, by name, too, `waits` how often the CPU waited, by what and where, `at_peak`
    the bytes alive at the peak by the `phase` in which they were allocated. More than `total` bytes raise
    `OutOfMemoryError`.
    """

    def __init__(self, total: float = 141e9, flops_per_s: float = math.inf, bytes_per_s: float = math.inf) -> None:
        super().__init__()
        self._rates = flops_per_s, bytes_per_s
        self.total, self.alive, self.peak, self.phase = int(total), 0, 0, "other"
        self.by_phase: Counter[str] = Counter()
        self.at_peak: Counter[str] = Counter()
        self._storages: set[int] = set()
        self._stack = contextlib.ExitStack()
        self.reset()

    def reset(self) -> None:
        """Count anew from here on; what is alive stays."""
        self.flops = 0
        self.launches: Counter[str] = Counter()
        self.traffic: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.waits: Counter[str] = Counter()
        self.peak = self.alive

    def __enter__(self) -> "FakeGpu":
        from transformers import PreTrainedModel

        cuda = torch.device("cuda")
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(PreTrainedModel, "device", property(lambda model: cuda))
        patch.setattr(PreTrainedModel, "init_weights", lambda model: None)
        patch.setattr(torch.nn.Module, "_apply", _apply)
        patch.setattr(FakeTensor, "tolist", lambda tensor: self._listed(tensor))  # noqa: PLW0108 - binds the tensor
        self._stack.enter_context(torch._functorch.config.patch(fake_tensor_allow_meta=True))
        self._stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        self._stack.enter_context(_Renamed())
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    def read(self, tensor: torch.Tensor, how: str) -> torch.Tensor:
        """The values of a tensor, for which the CPU waits if they are on the GPU."""
        if tensor.device.type == "meta":
            self._wait(how)
        values = _values(tensor)
        assert values is not None, f"{how} of a tensor without values"
        return values

    def _listed(self, tensor: torch.Tensor) -> Any:
        values = self.read(tensor, "tolist")
        with _disable_current_modes():
            return values.tolist()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if func is aten._local_scalar_dense.default:
            if tensors[0].device.type == "meta":
                self._wait("item")
            values = _values(tensors[0])
            with _disable_current_modes():
                return 1 if values is None else values.item()
        if func in READS_SIZES:
            device = tensors[0].device
            if device.type == "meta":
                self.launches[name] += 1
                self._wait(name)
            return tree_map(lambda x: self._made(x, device), self._compute(func, args, kwargs))
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            args = (args[0], [x for each in args[1] for x in self._indices(each, args[0].device)], *args[2:])
        if name in ("_to_copy", "copy_") and not kwargs.get("non_blocking") and not (name == "copy_" and args[2:]):
            source, target = (args[0], kwargs.get("device")) if name == "_to_copy" else (args[1], args[0].device)
            if target is not None and source.device.type != torch.device(target).type:
                self._wait("copy")
        result = func(*args, **kwargs)  # goes on to FakeTensorMode
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self._keep_values(func, args, kwargs, tensors, made)
        for tensor in made:
            self._hold(tensor)
        if name not in WITHOUT_KERNEL and any(x.device.type == "meta" for x in [*made, *tensors]):
            self._launch(name, _flops(func, name, args, kwargs, result, tensors), sum(map(_size, [*made, *tensors])))
        return result

    def _launch(self, name: str, flops: int, traffic: int) -> None:
        self.launches[name] += 1
        self.traffic[name] += traffic
        self.flops += flops
        self.seconds[name] += max(flops / self._rates[0], traffic / self._rates[1])

    def _indices(self, index: Any, device: torch.device) -> list[Any]:
        """An index as it reaches the kernel: a mask becomes the places it selects, and the CPU's indices are copied."""
        if not isinstance(index, torch.Tensor):
            return [index]
        if index.dtype is torch.bool:
            mask = self.read(index, "index by mask")
            with _disable_current_modes():
                found = mask.nonzero(as_tuple=True)
            return [self._made(places, device) for places in found]
        if index.device.type == "cpu" and device.type == "meta":
            self._wait("index on the CPU")
            values = _values(index)
            assert values is not None
            return [self._made(values, device)]
        return [index]

    def _compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        def real(x: torch.Tensor) -> torch.Tensor:
            values = _values(x)
            assert values is not None, f"{func} of a tensor without values"
            return values

        args, kwargs = tree_map_only(torch.Tensor, real, (args, kwargs))
        args, kwargs = tree_map_only(torch.device, lambda device: torch.device("cpu"), (args, kwargs))
        with _disable_current_modes(), torch.no_grad():
            return func(*args, **kwargs)

    def _made(self, values: Any, device: torch.device) -> Any:
        """A fake tensor on a device, with values."""
        if not isinstance(values, torch.Tensor):
            return values
        fake = aten.empty.memory_format(list(values.shape), dtype=values.dtype, device=device)
        self._hold(fake)
        fake.__dict__["values"] = values
        return fake

    def _keep_values(self, func: Any, args: Any, kwargs: Any, tensors: Any, made: Any) -> None:
        """Compute small whole numbers for real, too; what is drawn or depends on activations has no values."""
        fake = [x for x in made if isinstance(x, FakeTensor)]
        whole = all(not x.dtype.is_floating_point and x.numel() <= SMALL for x in fake)
        if not fake or not whole or any(_values(x) is None for x in tensors):
            for x in fake:
                x.__dict__.pop("values", None)
            return
        with contextlib.suppress(RuntimeError):
            found = [x for x in tree_leaves(self._compute(func, args, kwargs)) if isinstance(x, torch.Tensor)]
            for x, values in zip(fake, found, strict=True):
                x.__dict__["values"] = values

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, phase = storage._cdata, self.phase
        if tensor.device.type != "meta" or key in self._storages:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        if self.alive + size > self.total:
            raise torch.OutOfMemoryError(f"{self.alive:,} bytes are in use, and {size:,} more are wanted")
        self._storages.add(key)
        self.alive += size
        self.by_phase[phase] += size
        if self.alive > self.peak:
            self.peak, self.at_peak = self.alive, self.by_phase.copy()
        weakref.finalize(storage, self._free, key, size, phase)

    def _free(self, key: int, size: int, phase: str) -> None:
        self._storages.discard(key)
        self.alive -= size
        self.by_phase[phase] -= size

    def _wait(self, how: str) -> None:
        frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename and "fake_gpu" not in f.filename]
        self.waits[f"{how} in {Path(frames[-1].filename).name}:{frames[-1].name}"] += 1


def _apply(module: Any, change: Any, recurse: bool = True) -> Any:
    """As `Module._apply`, with new parameters: fake ones cannot be changed in place."""
    for child in module.children():
        child._apply(change)
    for name, weight in module._parameters.items():
        if weight is not None:
            module._parameters[name] = torch.nn.Parameter(change(weight.detach()), weight.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else change(buffer)
    return module


def _size(tensor: torch.Tensor) -> int:
    """Bytes of a tensor on the GPU; what is repeated by a stride of 0 is there once."""
    if tensor.device.type != "meta":
        return 0
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return math.prod(sizes) * tensor.dtype.itemsize


def _values(tensor: torch.Tensor) -> torch.Tensor | None:
    if isinstance(tensor, FakeTensor):
        return tensor.__dict__.get("values")
    return tensor if tensor.device.type == "cpu" else None


def _flops(func: Any, name: str, args: Any, kwargs: Any, result: Any, tensors: Any) -> int:
    if name in ("_varlen_attn", "_varlen_attn_backward"):
        backward = name.endswith("backward")
        query = tensors[1 if backward else 0]
        bounds = [x for x in tensors if x.dtype is torch.int32][:2]
        reals = [_values(each) for each in bounds]
        assert all(real is not None for real in reals), "bounds without values"
        with _disable_current_modes():
            queries, keys = (real.diff().long() for real in reals if real is not None)
            window = next((x for x in [*args, *kwargs.values()] if isinstance(x, list) and len(x) == 2), [-1, -1])
            unseen = queries * (queries - 1) // 2 if window == [-1, 0] else 0
            pairs = int((queries * keys - unseen).sum())
        return 4 * pairs * query.shape[1] * query.shape[2] * (5 if backward else 2) // 2
    count = flop_registry.get(func._overloadpacket)
    return 0 if count is None else int(count(*args, **kwargs, out_val=result))


@contextlib.contextmanager
def phases(gpu: FakeGpu, modules: dict[str, torch.nn.Module]) -> Iterator[None]:
    """Name the phase of what is allocated inside the forward pass of modules."""
    before: list[str] = []
    handles = []
    for name, module in modules.items():
        handles += [
            module.register_forward_pre_hook(lambda *_, name=name: (before.append(gpu.phase), _set(gpu, name))[0]),
            module.register_forward_hook(lambda *_: _set(gpu, before.pop())),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _set(gpu: FakeGpu, phase: str) -> None:
    gpu.phase = phase
