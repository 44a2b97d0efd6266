"""What is applied to a model from outside: activation checkpointing, sharding among ranks, gathering.

The model's own code knows none of it, so that one file serves a laptop and a cluster. In a process that belongs to no
process group, everything here that speaks of ranks is that of one rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils.checkpoint import checkpoint

from open4m.model.fourm import FourMTransformer
from open4m.types import Open4MError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# FSDP and DTensor are imported where a model is sharded: the import takes seconds, and most runs do without.

ENTRANCES = ("encode", "context", "decode", "target_logits")
"""What is called on a whole model besides ``forward``."""


# ---- ranks
def rows_of_rank(batch_size: int) -> range:
    """The rows of a batch that this rank makes: equal parts, but for a remainder.

    Raises :class:`Open4MError`, on every rank, for a batch of fewer rows than there are ranks: a rank without rows
    would leave the others waiting.
    """
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if batch_size < ranks:
        raise Open4MError(f"batch_size {batch_size}: expected at least one row for each of {ranks} ranks")
    return range(rank * batch_size // ranks, (rank + 1) * batch_size // ranks)


def summed(numbers: Sequence[int]) -> Sequence[int]:
    """Each of these numbers of the host, added up over all ranks. Needs a process group with a CPU backend."""
    if not dist.is_initialized():
        return numbers
    total = torch.tensor(numbers)
    dist.all_reduce(total)
    return total.tolist()


# ---- blocks
def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The members of the model's outermost ``ModuleList`` instances: Transformer blocks and their like."""
    for module in model.children():
        yield from module if isinstance(module, nn.ModuleList) else blocks(module)


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only the input of each block, and recompute its activations in the backward pass (paper C.2).

    Blocks with buffers are left alone: their forward pass may change them, and must not run twice. Gradients stay the
    same, for about a third more work. To be called before :func:`shard`.
    """
    for block in blocks(model):
        if not any(True for _ in block.buffers()):
            # No block draws from the global generators, so their state need not be kept for the second pass.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


# ---- sharding
def shard(model: FourMTransformer, mesh: DeviceMesh) -> None:
    """Shard parameters, gradients and optimizer state of a model among the ranks of a mesh, in place (FSDP2).

    Each encoder and decoder block is gathered when it is used; the root keeps embeddings, output table and norms.
    Gradients are added up over the ranks, not averaged, as :meth:`open4m.train.task.Task.loss` gives parts of a loss.
    Of a model on the meta device, :func:`materialize` fills in the content afterwards. Build the optimizer afterwards
    too: parameters are new objects.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other reduction
    _gather_in(model, *ENTRANCES)
    for block in model.decoder:
        _gather_in(block, "keys_values")


def _gather_in(module: nn.Module, *names: str) -> None:
    """Have FSDP gather the module's parameters in these methods as in ``forward``, when they are called from outside.

    A call from within ``forward`` or another of the methods must not do so: at its end FSDP would free the parameters
    that its caller still needs. So nested calls reach the plain method.
    """
    from torch.distributed.fsdp import register_fsdp_forward_method

    depth = 0

    def enter(*_: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave, always_call=True)  # after an error too
    for name in names:
        plain = getattr(module, name)
        register_fsdp_forward_method(module, name)
        gathering = getattr(module, name)

        @wraps(plain)
        def call(_: nn.Module, *args: Any, plain: Callable = plain, gathering: Callable = gathering, **options: Any):
            if depth:
                return plain(*args, **options)
            enter()
            try:
                return gathering(*args, **options)
            finally:
                leave()

        setattr(module, name, MethodType(call, module))


@torch.no_grad()
def materialize(model: FourMTransformer, device: torch.device | str, state: Mapping[str, Tensor] | None) -> None:
    """Give a model from the meta device memory on a device, and content: ``state``, and buffers that it computes.

    ``state`` holds whole tensors. Of a sharded model only rank 0 needs it, the others may pass None.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    model.to_empty(device=device)
    model.reset_buffers()
    for name, own in model.state_dict().items():
        if isinstance(own, DTensor):
            whole = torch.empty(own.shape, dtype=own.dtype) if state is None else state[name]
            own.copy_(distribute_tensor(whole.to(device), own.device_mesh, own.placements))
        else:
            own.copy_(state[name])


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The ``state_dict`` of a model that may be sharded, with whole tensors. To be called on all ranks."""
    return {name: _whole(tensor) for name, tensor in model.state_dict().items()}


def whole_model(model: FourMTransformer, build: Callable[[], FourMTransformer]) -> FourMTransformer | None:
    """An unsharded copy on the CPU, which can be saved and generates; None on all ranks but the first.

    ``build`` makes another model of the same configuration. To be called on all ranks.
    """
    state = whole_state(model)
    if dist.is_initialized() and dist.get_rank():
        return None
    with torch.device("meta"):
        copy = build()
    materialize(copy, "cpu", state)
    return copy


def _whole(tensor: Tensor) -> Tensor:
    """The whole tensor of a DTensor, gathered from all ranks; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


# ---- gradients
def gradient_norm(model: nn.Module) -> Tensor:
    """The norm of the whole gradient: a scalar, equal on all ranks."""
    return _whole(get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))


def clip_gradient(model: nn.Module, limit: float, norm: Tensor) -> None:
    """Scale a gradient of norm ``norm`` down to a norm of at most ``limit``."""
    clip_grads_with_norm_(model.parameters(), limit, norm)
