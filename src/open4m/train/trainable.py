"""Which weights of a model are trained: all, some blocks, the embeddings of some modalities, low-rank adapters.

It is applied to a model from outside, after it has its first weights and before its optimizer is made.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from open4m.model.fourm import FourMTransformer
from open4m.nn.adapters import add_low_rank, is_plain, plain_state, train_rows
from open4m.ranges import Length, Positive, check_ranges
from open4m.types import Open4MError

logger = logging.getLogger("open4m")


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank adapters of linear layers in blocks that are frozen (https://arxiv.org/abs/2106.09685).

    ``rank``: of what is added to a weight; 0: none. It is scaled by ``alpha / rank``. ``layers``: by their names in the
    blocks, such as ``qkv`` (queries, keys and values as one layer), ``q``, ``kv``, ``proj``, ``gate_up``, ``up``,
    ``down``; empty: all.
    """

    rank: Length = 0
    alpha: Positive = 16.0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """What is trained of a model; by default all of it.

    ``embeddings``: the modalities whose embeddings and output layers are trained; None: those of all, and the mask and
    register tokens. ``encoder``, ``decoder``: how many blocks, from the last one; None: all, 0: none. The norm at the
    end of either is trained if a block is, and the projection between them with the decoder. ``norms``: the norms of
    frozen blocks too. ``lora``: adapters of the frozen blocks.
    """

    embeddings: tuple[str, ...] | None = None
    encoder: Length | None = None
    decoder: Length | None = None
    norms: bool = False
    lora: LoRA = field(default=LoRA())

    def __post_init__(self) -> None:
        check_ranges(self)


EVERYTHING = Trainable()


def restrict(model: FourMTransformer, chosen: Trainable, generator: torch.Generator) -> None:
    """Freeze what is not ``chosen``, and add its adapters, which ``generator`` draws.

    Raises :class:`Open4MError` for modalities, blocks and layers that the model does not have, for adapters without a
    frozen block, and if nothing is left to train.
    """
    if chosen == EVERYTHING:
        return
    frozen: list[nn.Module] = []
    for name, trained, others in (
        ("encoder", chosen.encoder, (model.encoder_norm,)),
        ("decoder", chosen.decoder, (model.decoder_norm, model.context_proj)),
    ):
        blocks = getattr(model, name)
        if (trained or 0) > len(blocks):
            raise Open4MError(f"trainable.{name}: expected at most {len(blocks)} blocks, got {trained}")
        frozen += [] if trained is None else blocks[: len(blocks) - trained]
        for module in others if trained == 0 else ():
            module.requires_grad_(False)
    for block in frozen:
        block.requires_grad_(False)
    if chosen.norms:
        norms = [m for block in frozen for m in block.modules() if isinstance(m, nn.LayerNorm)]
        for module in (*norms, model.encoder_norm, model.decoder_norm):
            module.requires_grad_(True)
    if chosen.embeddings is not None:
        _embeddings_of(model, chosen.embeddings)
    if chosen.lora.rank:
        _adapt(frozen, chosen.lora, generator)
    trained, total = (sum(map(Tensor.numel, parameters)) for parameters in (_trained(model), model.parameters()))
    if not trained:
        raise Open4MError("trainable: nothing is left to train; name embeddings, blocks, norms or lora.rank")
    logger.info("trained: %.2fM of %.2fM parameters", trained / 1e6, total / 1e6)


def plain(model: FourMTransformer) -> FourMTransformer:
    """The ordinary model that computes the same, with adapters merged into its weights; itself if it has none."""
    if is_plain(model):
        return model
    weight = model.embeddings.mask_token
    copy = FourMTransformer(model.config).to(weight.device, weight.dtype)
    copy.load_state_dict(plain_state(model))
    return copy.train(model.training)


def _trained(model: nn.Module) -> Iterable[Tensor]:
    """The parameters that change; of a table of which some rows do, all of it."""
    return (p for p in model.parameters() if p.requires_grad)


def _adapt(blocks: Sequence[nn.Module], lora: LoRA, generator: torch.Generator) -> None:
    """Add adapters to the linear layers of blocks."""
    if not blocks:
        raise Open4MError(
            "trainable.lora adapts frozen blocks, and none is frozen: set trainable.encoder=0 trainable.decoder=0"
        )
    named = [(path.rpartition(".")[2], m) for block in blocks for path, m in block.named_modules()]
    layers = [(name, module) for name, module in named if isinstance(module, nn.Linear)]
    known = dict.fromkeys(name for name, _ in layers)
    if unknown := [name for name in lora.layers if name not in known]:
        raise Open4MError(f"trainable.lora.layers: no {', '.join(unknown)} in the blocks (layers: {', '.join(known)})")
    for name, layer in layers:
        if not lora.layers or name in lora.layers:
            add_low_rank(layer, lora.rank, lora.alpha, generator)


def _embeddings_of(model: FourMTransformer, keys: Sequence[str]) -> None:
    """Train the embeddings of these modalities only: their rows of the tables, and their own layers."""
    embeddings = model.embeddings
    chosen = {model.config.index(key) for key in keys}
    embeddings.requires_grad_(False)
    if not chosen:
        return
    tables = [(embeddings.inputs, "weight", "inputs"), (embeddings.outputs, "weight", "outputs")]
    tables += [(embeddings.queries, "weight", "queries")] if embeddings.queries is not None else []
    tables += [(embeddings.learned_positions, side, "positions") for side in embeddings.learned_positions]
    for module, name, kind in tables:
        _train_slices(module, name, [embeddings.slices[kind][index] for index in chosen])
    _train_slices(embeddings.modality, "weight", [slice(index, index + 1) for index in chosen])
    own = {id(t) for key in keys for t in embeddings.of(key).values() if isinstance(t, nn.Parameter)}
    for parameter in embeddings.parameters():
        if id(parameter) in own:
            parameter.requires_grad_(True)


def _train_slices(module: nn.Module, name: str, slices: Iterable[slice]) -> None:
    """Train these rows of a module's parameter, if they are any."""
    table = getattr(module, name)
    rows = torch.zeros(len(table), dtype=torch.bool)
    for part in slices:
        rows[part] = True
    if rows.any():
        table.requires_grad_(True)
        train_rows(module, name, rows)
