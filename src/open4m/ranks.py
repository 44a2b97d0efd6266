"""The processes that share a training ("ranks"): who they are, what they add up, what the first does for all of them.

``torchrun`` starts them, :func:`joined` makes a group of them. A process that belongs to no group is the only rank, and
nothing here costs it anything.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from open4m.types import Open4MError, OtherRank, Preempted

logger = logging.getLogger("open4m")

TIMEOUT = 1800.0
"""After so many seconds in which a rank is not heard of, the others end with an error."""

PATIENCE = 30 * 24 * 3600.0
"""How long ranks wait for work that the first does alone: tokens of a whole data set may take days."""

_alone: ContextVar[bool] = ContextVar("alone", default=False)
_patient: list[Any] = []  # the group in which ranks wait for long work, while there is one


@contextlib.contextmanager
def joined(device: str = "cpu", timeout: float = TIMEOUT) -> Iterator[str]:
    """A context in which this process is a rank of the run that ``torchrun`` started; gives the rank's own device.

    Without ``torchrun`` the process is the only rank, on the device that is given. With it, each process of a machine
    has a GPU of its own, or all have the CPU. Ranks other than the first say only what went wrong.
    Raises :class:`Open4MError` if a machine has fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or dist.is_initialized():
        yield device
        return
    local = int(os.environ.get("LOCAL_RANK", 0))
    kind = torch.device(device).type
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise Open4MError(
                f"process {local} of this machine: expected a GPU for each, got {torch.cuda.device_count()}"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    seconds = datetime.timedelta(seconds=timeout)
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=seconds)
    _patient.append(dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=PATIENCE)))
    if not is_first():
        logger.setLevel(logging.ERROR)
    try:
        yield device
    finally:
        _patient.clear()
        dist.destroy_process_group()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """A context in which this process is the only rank, whatever group it belongs to."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def count() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() and not _alone.get() else 1


def rank() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the rank that writes what all ranks have in common."""
    return rank() == 0


def rows_of_rank(batch_size: int) -> range:
    """The rows of a batch that this rank makes: equal parts, but for a remainder.

    Raises :class:`Open4MError`, on every rank, for a batch of fewer rows than there are ranks: a rank without rows
    would leave the others waiting.
    """
    if batch_size < count():
        raise Open4MError(f"batch_size {batch_size}: expected at least one row for each of {count()} ranks")
    return range(rank() * batch_size // count(), (rank() + 1) * batch_size // count())


# ---- what they add up
def summed(numbers: Sequence[float]) -> list[float]:
    """Each of these numbers of the host, added up over all ranks; whole numbers stay whole."""
    if count() == 1:
        return list(numbers)
    total = torch.tensor(numbers, dtype=torch.int64 if all(isinstance(n, int) for n in numbers) else torch.float64)
    dist.all_reduce(total)
    return total.tolist()


def largest(number: int) -> int:
    """The largest of the ranks' numbers."""
    if count() == 1:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one device by their sums over all ranks, in place."""
    if count() == 1 or not tensors:
        return
    for dtype in {tensor.dtype for tensor in tensors}:
        chosen = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in chosen])
        dist.all_reduce(flat)
        for tensor, part in zip(chosen, flat.split([tensor.numel() for tensor in chosen]), strict=True):
            tensor.copy_(part.view_as(tensor))


def share_first(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by those of the first rank, in place."""
    for tensor in tensors if count() > 1 else ():
        dist.broadcast(tensor, 0)


def gathered(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all ranks, one after another in the order of the ranks; n may differ between them."""
    if count() == 1:
        return rows
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(count())]
    dist.all_gather(lengths, torch.tensor([len(rows)]))
    longest = max(map(int, lengths))
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])]).contiguous()
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)])


def another_group() -> Any:
    """Another group of all ranks, for what a thread says to those of other ranks; it waits as long as the first one."""
    backend = dist.group.WORLD._get_backend(torch.device("cpu"))
    return dist.new_group(backend="gloo", timeout=backend.options._timeout)


# ---- what the first does for all
def on_first(action: Callable[[], Any], long: bool = False) -> Any:
    """Have the first rank do something as if it were alone, while the others wait; all get what it returns.

    If it raises :class:`Open4MError` or :class:`Preempted`, all of them do. ``long``: it may take days, so that nobody
    gives up waiting. What it returns must be small.
    """
    if count() == 1:
        return action()
    said: list[Any] = [None]
    raised: BaseException | None = None
    if is_first():
        try:
            with alone():
                said = [("done", action())]
        except BaseException as error:  # the others must not wait for what will never come
            raised, said = error, [("stopped" if isinstance(error, Preempted) else "failed", str(error))]
    dist.broadcast_object_list(said, 0, group=_patient[0] if long and _patient else None)
    if raised is not None:
        raise raised
    outcome, result = said[0]
    if outcome == "stopped":
        raise Preempted(result)
    if outcome == "failed":
        raise OtherRank(f"the first rank failed: {result}")
    return result
