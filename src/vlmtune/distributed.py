"""Data-parallel training: several processes, one per GPU, started by torchrun. Without torchrun, a single process.

Python objects travel between CPUs, gradients between GPUs. How a model is divided is in `training.sharding`.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from vlmtune.errors import EnvironmentProblem, VlmtuneError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

MESSAGE_BYTES = 2**30
"""Size from which a message is sent: an adapter fits into one, and a model in training leaves little room for more."""

SIGNS_OF_A_LOST_PEER = ("gloo", "NCCL", "onnection")
"""One of them is in every message of torch about another process that is gone."""

TIMEOUT = timedelta(hours=24)
"""How long a process waits for another: the main one checks the data alone. torchrun ends all if one dies."""


def launched_world_size() -> int:
    """Number of processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process among `world_size`. Only the main one, rank 0, writes files and reports progress."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def broadcast(self, compute: Callable[[], T]) -> T:
        """Compute a value in the main process and return it in all. If that fails, the others exit with its code.

        Raises:
            VlmtuneError: what `compute` raised; in the main process.
            SystemExit: in the others.
            EnvironmentProblem: another process has ended.
        """
        if self.world_size == 1:
            return compute()
        import torch
        import torch.distributed as dist

        message: list[Any] = [None, None]  # the value, and the exit code of a failure
        failure: VlmtuneError | None = None
        if self.is_main:
            try:
                message[0] = compute()
            except VlmtuneError as error:
                failure, message[1] = error, int(error.exit_code)
        with _translate_peer_errors():
            dist.broadcast_object_list(message, src=0, device=torch.device("cpu"))
        if failure is not None:
            raise failure
        if message[1] is not None:
            sys.exit(message[1])
        value: T = message[0]
        return value

    def all_reduce(self, tensors: "Sequence[torch.Tensor]") -> None:
        """Sum tensors of one dtype and device over all processes, in place, in messages of about `MESSAGE_BYTES`.

        Raises:
            EnvironmentProblem: another process has ended.
        """
        if self.world_size == 1 or not tensors:
            return
        import torch
        import torch.distributed as dist

        for group in _messages(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            with _translate_peer_errors():
                dist.all_reduce(flat)
            for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def broadcast_tensor(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Copy a tensor on the CPU from the main process into those of the same shape and type in all others."""
        if self.world_size > 1:
            import torch.distributed as dist

            with _translate_peer_errors():
                dist.broadcast(tensor, src=0)
        return tensor

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in each of them."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world_size
        with _translate_peer_errors():
            dist.all_gather_object(values, value)
        return values

    def refuse_differences(self, versions: Mapping[str, str]) -> None:
        """Check that all processes have the same versions: others compute something else, or wait for each other.

        Raises:
            EnvironmentProblem: names the processes and versions.
        """
        everywhere = self.gather(versions)
        for rank, here in enumerate(everywhere):
            for name in (name for name, one in here.items() if one != everywhere[0][name]):
                raise EnvironmentProblem(
                    f"process {rank} has {name} {here[name]}, and process 0 has {name} {everywhere[0][name]}; install "
                    "the same versions on all machines"
                )

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Turn what torch raises anywhere in this block when another process is gone into an `EnvironmentProblem`.

        Raises:
            EnvironmentProblem: another process has ended.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not any(sign in str(error) for sign in SIGNS_OF_A_LOST_PEER):
                raise
            raise _lost_peer(error) from None

    def destroy(self) -> None:
        """Wait for all processes, then destroy the process group."""
        if self.world_size > 1:
            import torch.distributed as dist

            with _translate_peer_errors():
                dist.barrier()
            dist.destroy_process_group()


def _messages(tensors: "Sequence[torch.Tensor]") -> "Iterator[list[torch.Tensor]]":
    """Tensors in groups, each as large as a message or a little larger."""
    group: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        group.append(tensor)
        size += tensor.nbytes
        if size >= MESSAGE_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


SINGLE_PROCESS = ProcessGroup()


def init_process_group() -> ProcessGroup:
    """Join the process group that torchrun started, and select this process' GPU."""
    if launched_world_size() == 1:
        return SINGLE_PROCESS
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=TIMEOUT)
    return ProcessGroup(dist.get_rank(), dist.get_world_size())


@contextmanager
def _translate_peer_errors() -> Iterator[None]:
    """Turn what torch raises when another process is gone into an `EnvironmentProblem`.

    Raises:
        EnvironmentProblem: another process has ended.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise _lost_peer(error) from None


def _lost_peer(error: RuntimeError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"another process has ended or cannot be reached ({str(error).splitlines()[0]:.200}). Fix the cause it "
        "reported, then run the same command again: it resumes from the last checkpoint"
    )
