"""How samples are masked: strategies, their mixture, and token budgets (paper C.1, Table 20)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from open4m import modalities
from open4m.config import LATER, Duration
from open4m.model.config import Direction, ModalitySpec
from open4m.ranges import Length, Positive, Range, check_ranges
from open4m.types import Open4MError

Concentration = Annotated[float, Range(0, math.inf, above=True)]
"""α of a Dirichlet distribution; infinite: equal shares."""

Share = Annotated[float, Range(0, 1, above=True)]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One way to mask a sample.

    ``input_alpha``, ``target_alpha``: α by modality key: the Dirichlet concentration, one per modality (``inf``: equal
    shares). A modality without an α is not shown, or not predicted.
    ``input_budget``, ``target_budget``: the fewest and the most tokens per sample, drawn uniformly (paper A.1, A.2);
    None: those of the :class:`MaskingConfig`.
    ``unmasked``: sequences that are shown whole as far as their budget allows (p_mask = 0, paper A.2).
    ``leftover``: what happens to the input budget that sequences are too short to use. The grids get none of it
    ("none"; their budget is an upper bound, paper C.1), all of it ("all"), or a uniformly drawn part ("uniform"): then
    inputs range from a text alone to a text with nearly all of an image, as generation from a text passes through them.
    ``overlap``: whether a grid may be predicted at a place where another grid is shown (paper E.8).
    ``hole``: the least and the most area, as a share of the image, of a rectangle that is drawn for each sample, with
    sides in a ratio of up to 2. The grids that are predicted are predicted in it alone. They are shown outside of it
    first, and what their budget leaves shows a part of it, as in later passes of in-painting (paper section 4, A.2).
    What is shown and not predicted is shown anywhere. None: cells are drawn one by one.
    ``weight``: the share of samples that are masked this way, relative to the other strategies; ``final_weight``: the
    one after a curriculum (:class:`MaskingConfig`), if it is another.
    """

    name: str
    input_alpha: dict[str, Concentration]
    target_alpha: dict[str, Concentration]
    input_budget: tuple[Length, Length] | None = None
    target_budget: tuple[Length, Length] | None = None
    unmasked: tuple[str, ...] = ()
    leftover: Literal["none", "all", "uniform"] = "none"
    overlap: bool = True
    hole: tuple[Share, Share] | None = field(default=None, metadata=LATER)
    weight: Positive = 1.0
    final_weight: Positive | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        check_ranges(self, f"strategy {self.name}")


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Token budgets per sample, and the mixture of strategies (paper Table 20).

    A budget is the fewest and the most tokens, or one number for both; batches are as wide as the most.
    ``curriculum``: the lengths of training between which the weights of strategies move to their final ones, evenly:
    what is learned fast, such as predictions from pixels, can come first. Tokens seen are counted by the first weights.
    """

    input_budget: Length | tuple[Length, Length]
    target_budget: Length | tuple[Length, Length]
    strategies: tuple[Strategy, ...]
    curriculum: tuple[Duration, Duration] | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        check_ranges(self)

    def at(self, progress: float) -> MaskingConfig:
        """The mixture of strategies at this part of the curriculum, from 0 to 1."""
        if progress <= 0 or self.curriculum is None:
            return self
        part = min(progress, 1.0)
        strategies = tuple(
            s
            if s.final_weight is None
            else dataclasses.replace(s, weight=s.weight + part * (s.final_weight - s.weight))
            for s in self.strategies
        )
        return dataclasses.replace(self, strategies=strategies)

    def alone(self, strategy: Strategy) -> MaskingConfig:
        """All samples masked by one of the strategies, whose weight does not matter then."""
        one = dataclasses.replace(strategy, weight=1.0, final_weight=None)
        return dataclasses.replace(self, strategies=(one,), curriculum=None)

    def input_range(self, strategy: Strategy) -> tuple[int, int]:
        """The fewest and the most input tokens of a sample that is masked by ``strategy``."""
        return _range(strategy.input_budget or self.input_budget)

    def target_range(self, strategy: Strategy) -> tuple[int, int]:
        """The fewest and the most target tokens of a sample that is masked by ``strategy``."""
        return _range(strategy.target_budget or self.target_budget)

    @property
    def widest_input(self) -> int:
        """N: the most input tokens of a sample."""
        return max(self.input_range(strategy)[1] for strategy in self.strategies)

    @property
    def widest_target(self) -> int:
        """M: the most target tokens of a sample."""
        return max(self.target_range(strategy)[1] for strategy in self.strategies)

    @property
    def tokens_per_sample(self) -> float:
        """The mean input plus target budget per sample, which converts tokens seen into samples (paper E.5)."""
        total = sum(strategy.weight for strategy in self.strategies)
        ranges = [(s.weight, (*self.input_range(s), *self.target_range(s))) for s in self.strategies]
        return sum(weight * sum(ends) / 2 for weight, ends in ranges) / total

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions that the strategies train, one per strategy; empty if one strategy trains any target from
        any input."""
        found = [Direction(inputs=tuple(s.input_alpha), targets=tuple(s.target_alpha)) for s in self.strategies]
        inputs, targets = ({key for d in found for key in getattr(d, side)} for side in ("inputs", "targets"))
        if any(inputs == {*d.inputs} and targets == {*d.targets} for d in found):
            return ()
        return tuple(dict.fromkeys(found))

    def check(self, specs: tuple[ModalitySpec, ...], sentinels: int) -> None:
        """Raise :class:`Open4MError` if a strategy cannot work with these modalities, or the text tokenizer has too
        few ``sentinels`` for them."""
        if not self.strategies:
            raise Open4MError("masking: needs at least one strategy")
        if any(s.final_weight is not None for s in self.strategies) != (self.curriculum is not None):
            raise Open4MError(
                "masking: a curriculum needs strategies with a final_weight, and these a curriculum, such as "
                "curriculum=['1M samples', '2M samples']"
            )
        for strategy in self.strategies:
            where = f"strategy {strategy.name}"
            low, high = self.input_range(strategy)
            if low > high or high < 1:
                raise Open4MError(f"{where}: input budget must be 0 <= fewest <= most, got {low}, {high}")
            low, high = self.target_range(strategy)
            if not 1 <= low <= high:
                raise Open4MError(f"{where}: target budget must be 1 <= fewest <= most, got {low}, {high}")
            for side, alphas in (("input", strategy.input_alpha), ("target", strategy.target_alpha)):
                if not alphas:
                    raise Open4MError(f"{where}: needs at least one input and one target modality")
                allowed = [s.key for s in specs if (s.is_input if side == "input" else s.is_target)]
                for key in alphas:
                    if key not in allowed and key in [s.key for s in specs]:
                        raise Open4MError(f"{where}: {side}_alpha allows {', '.join(allowed)}, got {key}; leave it out")
                    if key not in allowed:
                        raise modalities.unknown(key, allowed)
            if strategy.hole is not None:
                if strategy.hole[0] > strategy.hole[1]:
                    raise Open4MError(f"{where}: hole is the least and the most area, got {strategy.hole}")
                if not any(s.has_places for s in specs if s.key in strategy.target_alpha):
                    raise Open4MError(f"{where}: a hole is in grids, and none is predicted; leave hole out, or add one")
                pixels = {s.key: modalities.get(s.key).source for s in specs if s.content == "pixels"}
                if seen := [key for key in strategy.input_alpha if pixels.get(key, "") in strategy.target_alpha]:
                    raise Open4MError(f"{where}: {seen[0]} shows the hole of {pixels[seen[0]]}; leave one of them out")
            for key in strategy.unmasked:
                if key not in strategy.input_alpha:
                    raise modalities.unknown(key, list(strategy.input_alpha))
            grids = {
                s.key: s.grid
                for s in specs
                if s.key in {**strategy.input_alpha, **strategy.target_alpha} and s.has_places
            }
            if not strategy.overlap and len(set(grids.values())) > 1:
                sizes = ", ".join(f"{key} {h}x{w}" for key, (h, w) in grids.items())
                raise Open4MError(
                    f"{where}: overlap=False is defined for grids of one size, got {sizes}; name those of one size, "
                    "or allow overlap"
                )
        for spec in specs:
            # every other token may be a span of its own, and a final sentinel follows the last one
            if spec.is_causal and (needed := (spec.max_length + 1) // 2 + 1) > sentinels:
                raise Open4MError(f"{spec.key}: {needed} sentinels may be needed, the text tokenizer has {sentinels}")


def _range(budget: int | tuple[int, int]) -> tuple[int, int]:
    return budget if isinstance(budget, tuple) else (budget, budget)
