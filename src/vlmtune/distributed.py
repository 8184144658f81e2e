"""Several processes that train one adapter, one per GPU, started by torchrun; one alone where nobody started more.

The only place that knows of torch.distributed. Small things travel between CPUs, gradients between GPUs.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from vlmtune.errors import EnvironmentProblem, VlmtuneError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PATIENCE = timedelta(hours=24)
"""How long a rank waits for another: the first one checks data alone. torchrun ends all where one has died."""


def started() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `world`. The first one alone writes, and speaks."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, make: Callable[[], T]) -> T:
        """What the first rank makes, on all of them. Where it fails with an error of ours, the others end with it."""
        if self.world == 1:
            return make()
        import torch.distributed as dist

        made: list[Any] = [None, None]
        failed: VlmtuneError | None = None
        if self.first:
            try:
                made[0] = make()
            except VlmtuneError as error:
                failed, made[1] = error, int(error.exit_code)
        with _others_there():
            dist.broadcast_object_list(made, src=0, device=_cpu())
        if failed is not None:
            raise failed
        if made[1] is not None:
            sys.exit(made[1])
        value: T = made[0]
        return value

    def add_up(self, tensors: "Sequence[torch.Tensor]") -> None:
        """Sum tensors of one type and device over all ranks, in place, in one message."""
        if self.world == 1 or not tensors:
            return
        import torch
        import torch.distributed as dist

        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _others_there():
            dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def leave(self) -> None:
        """Take leave of the others; every rank has done its part."""
        if self.world > 1:
            import torch.distributed as dist

            with _others_there():
                dist.barrier()
            dist.destroy_process_group()


ALONE = Ranks()


def join() -> Ranks:
    """Meet the other processes that torchrun started; takes this process' GPU."""
    if started() == 1:
        return ALONE
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    return Ranks(dist.get_rank(), dist.get_world_size())


@contextmanager
def _others_there() -> Iterator[None]:
    """What torch raises when another rank is gone, as an error of ours.

    Raises:
        EnvironmentProblem: one of the others has ended.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise EnvironmentProblem(
            f"another rank has ended, or cannot be reached ({str(error).splitlines()[0]:.200}). If it said why, mend "
            "that; then run the same command again: it goes on from the last checkpoint"
        ) from None


def _cpu() -> "torch.device":
    import torch

    return torch.device("cpu")
