"""What is applied to a model from outside: activation checkpointing, compilation, sharding among ranks, gathering.

The model's own code knows none of it, so that one file serves a laptop and a cluster.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from open4m import ranks
from open4m.model.fourm import FourMTransformer
from open4m.nn.adapters import is_plain
from open4m.types import Open4MError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from open4m.train.config import TrainConfig

# FSDP and DTensor are imported where a model is sharded: the import takes seconds, and most runs do without.

ENTRANCES = ("encode", "context", "decode", "target_logits")
"""What is called on a whole model besides ``forward``."""


def applied(model: nn.Module, config: TrainConfig) -> nn.Module:
    """The model with all that a training's configuration asks for, in place; ranks then hold equal weights.

    Raises :class:`Open4MError` if it is to be sharded, and is no 4M.
    """
    with torch.no_grad():
        ranks.share_first([*model.parameters(), *model.buffers()])
    if config.activation_checkpointing:
        checkpoint_activations(model, selective=config.activation_checkpointing == "selective")
    if config.compile:
        compile_blocks(model)
    if config.sharding != "none" and ranks.count() > 1:
        if not isinstance(model, FourMTransformer):
            raise Open4MError(f"sharding: {config.sharding} is for 4M; models as small as this one are not sharded")
        if not is_plain(model):
            raise Open4MError(f"sharding: {config.sharding} is for models without adapters; use sharding=none")
        mesh = mesh_of(next(model.parameters()).device, config.shards)
        dtype = torch.bfloat16 if config.precision == "bf16" else None
        shard(model, mesh, gather_once=config.sharding == "zero2", dtype=dtype)
    return model


# ---- blocks
def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The members of the model's outermost ``ModuleList`` instances: Transformer blocks and their like."""
    for module in model.children():
        yield from module if isinstance(module, nn.ModuleList) else blocks(module)


def checkpoint_activations(model: nn.Module, selective: bool = False) -> None:
    """Keep only the input of each block, and recompute its activations in the backward pass (paper C.2).

    ``selective``: keep the results of matrix products and attention too, so that only what is cheap is computed again.
    Blocks with buffers are left alone: their forward pass may change them, and must not run twice. Gradients stay the
    same, for about a third more work; selectively for a few percent. To be called before :func:`compile_blocks` and
    :func:`shard`.
    """
    contexts = {"context_fn": partial(create_selective_checkpoint_contexts, costly_operations())} if selective else {}
    for block in blocks(model):
        if not any(True for _ in block.buffers()):
            # No block draws from the global generators, so their state need not be kept for the second pass.
            block.forward = partial(
                checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False, **contexts
            )


def costly_operations() -> list[Any]:
    """Matrix products and attention."""
    names = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu")
    names += tuple(f"_scaled_dot_product_{kind}_attention" for kind in ("flash", "efficient", "cudnn"))
    packets = (getattr(torch.ops.aten, name, None) for name in names)
    return [packet.default for packet in packets if packet is not None]


def compile_blocks(model: nn.Module) -> None:
    """Have ``torch.compile`` compile each block, in place, at its first pass: equal blocks share their code.

    It takes a minute, and is worth it on GPUs only. To be called before :func:`shard`.
    """
    for block in blocks(model):
        block.compile()


# ---- sharding
def mesh_of(device: torch.device, shards: int | None = None) -> DeviceMesh:
    """The ranks as a mesh: of one dimension, or of two if only ``shards`` of them have a copy in common (HSDP)."""
    from torch.distributed.device_mesh import init_device_mesh

    count = ranks.count()
    if shards in (None, count):
        return init_device_mesh(device.type, (count,), mesh_dim_names=("shard",))
    return init_device_mesh(device.type, (count // shards, shards), mesh_dim_names=("replicate", "shard"))


def shard(
    model: FourMTransformer, mesh: DeviceMesh, *, gather_once: bool = False, dtype: torch.dtype | None = None
) -> None:
    """Shard parameters, gradients and optimizer state of a model among the ranks of a mesh, in place (FSDP2).

    Each encoder and decoder block is gathered when it is used; the root keeps embeddings, output table and norms.
    ``gather_once``: it stays gathered until its backward pass (ZeRO-2) instead of being gathered again (ZeRO-3).
    ``dtype``: of the weights of blocks while they are gathered, such as bfloat16; gradients are added up in float32 in
    any case. Gradients are added up over the ranks, not averaged, as parts of a loss are.
    Of a model on the meta device, :func:`materialize` fills in the content afterwards. Build the optimizer afterwards
    too: parameters are new objects.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    # The model's costs are slices of one tensor. Only work in place on them would be wrong, and there is none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    reduced = {"param_dtype": dtype, "reduce_dtype": torch.float32, "cast_forward_inputs": False} if dtype else {}
    for block in blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=not gather_once, mp_policy=MixedPrecisionPolicy(**reduced))
    fully_shard(model, mesh=mesh, reshard_after_forward=False)  # its backward pass begins with what was used last
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
    return {name: whole(tensor) for name, tensor in model.state_dict().items()}


def whole_model(model: FourMTransformer, build: Callable[[], FourMTransformer]) -> FourMTransformer | None:
    """An unsharded copy on the CPU, which can be saved and generates; None on all ranks but the first.

    ``build`` makes another model of the same configuration. To be called on all ranks.
    """
    state = whole_state(model)
    if not ranks.is_first():
        return None
    with torch.device("meta"):
        copy = build()
    materialize(copy, "cpu", state)
    return copy


def usable(model: nn.Module, build: Callable[[], nn.Module]) -> nn.Module | None:
    """The model as one process uses it: itself, or of a sharded one :func:`whole_model` on the device that it is on."""
    if not is_sharded(model):
        return model
    copy = whole_model(model, build)
    return None if copy is None else copy.to(next(model.parameters()).device).eval()


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor of a DTensor, gathered from all ranks; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, not copied: of a DTensor its part, of any other all of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def own_part(values: Tensor, like: Tensor) -> Tensor:
    """The part of whole ``values`` that :func:`local` gives of a tensor of their shape."""
    if not hasattr(like, "to_local"):
        return values
    return values[own_slices(like)]


def own_slices(tensor: Tensor) -> tuple[slice, ...]:
    """Which part of a DTensor this rank holds."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, begin = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(slice(start, start + length) for start, length in zip(begin, shape, strict=True))


@contextlib.contextmanager
def root_gathered(model: nn.Module) -> Iterator[None]:
    """A context in which embeddings and output table of a sharded model are at hand, whatever part of it is called.

    They are those of its beginning: no weight may change meanwhile.
    """
    if not is_sharded(model):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether :func:`shard` was applied to a model."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


# ---- gradients
def add_up_gradients(model: nn.Module) -> None:
    """Add up the gradients of a model that every rank has whole; those of a sharded one are added up already."""
    if not is_sharded(model):
        ranks.add_up([p.grad for p in model.parameters() if p.grad is not None])


def gradient_norm(model: nn.Module) -> Tensor:
    """The norm of the whole gradient: a scalar, equal on all ranks."""
    return whole(get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))


def clip_gradient(model: nn.Module, limit: float, norm: Tensor) -> None:
    """Scale a gradient of norm ``norm`` down to a norm of at most ``limit``."""
    clip_grads_with_norm_(model.parameters(), limit, norm)
