"""Generation: fill the canvas in, target after target (paper A.3, Figure 3).

Every pass encodes what is visible and decodes only what is asked for. With guidance the conditional and the
unconditional pass are one batch. What is finished conditions what follows: chained generation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from open4m.generate.canvas import Canvas
from open4m.generate.plan import Step
from open4m.generate.sampling import Draws, guide, sample
from open4m.generate.schemes import SCHEMES
from open4m.model.fourm import Context, FourMTransformer
from open4m.types import MaskedBatch, Open4MError


class Engine:
    """Generates with one model.

    ``start``, ``ends`` and ``eos`` are token ids of the text tokenizer: the first sentinel, which a sequence is
    generated after, the ids that end it ([EOS] and the sentinels), and [EOS].
    """

    def __init__(self, model: FourMTransformer, start: int = 0, ends: Sequence[int] = (), eos: int | None = None):
        self.model = model.eval()
        self.config = model.config
        self.start, self.ends, self.eos = start, torch.tensor(sorted(ends), dtype=torch.int64), eos

    @property
    def device(self) -> torch.device:
        return self.model.embeddings.mask_token.device

    @torch.inference_mode()
    def run(self, canvas: Canvas, plan: Sequence[Step], seeds: Sequence[int]) -> Canvas:
        """Fill in the plan's targets. ``seeds``: one a sample; a sample's result depends on its own seed only."""
        if len(seeds) != canvas.size:
            raise Open4MError(f"expected one seed a sample, got {len(seeds)} for {canvas.size} samples")
        draws = Draws(list(seeds))
        for step in plan:
            canvas.start(step.target)
            if self.config.spec(step.target).family == "sequence":
                self._sequence(canvas, step, draws)
            else:
                self._grid(canvas, step, draws)
        return canvas

    def _grid(self, canvas: Canvas, step: Step, draws: Draws) -> None:
        scheme = SCHEMES[step.scheme]
        known, ids = canvas.known[step.target], canvas.grids[step.target]
        total = (~known).sum(1)  # (B,)
        order = draws.uniform(known.shape[1])  # (B, L)
        for done in range(step.steps):
            left = torch.tensor([step.remaining(done + 1, int(n)) for n in total])
            count = (~known).sum(1) - left
            queried = scheme.query(~known, order, count)  # (B, L)
            uniform = draws.uniform(known.shape[1])  # a number a cell, used or not: no other sample matters
            if not queried.any():
                continue
            width = int(queried.sum(1).max())
            position = (~queried).int().argsort(dim=1, stable=True)[:, :width]  # (B, Q): queried cells first
            valid = queried.gather(1, position)
            logits = self._grid_logits(canvas, step, position, valid)  # (B, Q, V)
            token, confidence = sample(logits, uniform.gather(1, position), step.temperature, step.top_k, step.top_p)
            scores = torch.full(known.shape, -torch.inf).scatter_(
                1, position, confidence.masked_fill(~valid, -torch.inf)
            )
            answers = ids.scatter(1, position, torch.where(valid, token, ids.gather(1, position)))
            kept = scheme.commit(queried, scores, count)
            ids = torch.where(kept, answers, ids)
            known = known | kept
            canvas.grids[step.target], canvas.known[step.target] = ids, known

    def _grid_logits(self, canvas: Canvas, step: Step, position: Tensor, valid: Tensor) -> Tensor:
        context, copies = self._context(canvas, step)
        batch = self._queries(step.target, torch.zeros_like(position), position, valid, copies)
        hidden = self.model.decode(context, batch)
        return self._guided(self.model.logits(hidden, step.target), step)

    def _sequence(self, canvas: Canvas, step: Step, draws: Draws) -> None:
        """Left to right, from the first sentinel to [EOS], with keys and values cached."""
        longest = self.config.spec(step.target).max_length
        longest = min(step.steps, longest) if step.steps else longest
        context, copies = self._context(canvas, step)
        caches: list[dict[str, Tensor]] = [{} for _ in self.model.decoder]
        token = torch.full((canvas.size, 1), self.start)
        rows: list[list[int]] = [[] for _ in range(canvas.size)]
        open_rows = torch.ones(canvas.size, dtype=torch.bool)
        uniform = draws.uniform(longest)  # all at once: how many are used depends on the other samples
        for n in range(longest):
            if not open_rows.any():
                break
            position = torch.full_like(token, n)
            batch = self._queries(step.target, token, position, torch.ones_like(token, dtype=torch.bool), copies)
            hidden = self.model.decode(context, batch, caches)
            logits = self._guided(self.model.logits(hidden, step.target), step)
            token, _ = sample(logits, uniform[:, n : n + 1], step.temperature, step.top_k, step.top_p)
            for b in open_rows.nonzero()[:, 0].tolist():
                rows[b].append(int(token[b, 0]))
            open_rows &= ~torch.isin(token[:, 0], self.ends)
        if self.eos is not None:  # whatever ended it here, what conditions further targets ends as in training
            ends = set(self.ends.tolist())
            rows = [[*[i for i in row if i not in ends][: longest - 1], self.eos] for row in rows]
        canvas.sequences[step.target] = rows

    def _context(self, canvas: Canvas, step: Step) -> tuple[Context, int]:
        """The encoded canvas; with guidance also without its conditions, as further rows of the same batch."""
        shown = [canvas.keys()]
        if step.guidance != 1:
            shown.append([step.target])  # without conditions: only what is known of the target itself
        parts = [canvas.visible(keys, self.device) for keys in shown]
        width = max(part["input_id"].shape[1] for part in parts)
        fields = {
            name: torch.cat([_pad(part[name], width) for part in parts])
            for name in ("input_id", "input_modality", "input_position", "input_valid")
        }
        dense = {
            kind: {key: torch.cat([part[kind][key] for part in parts]) for key in parts[0][kind]}
            for kind in ("pixels", "vectors")
        }
        nothing = torch.zeros(len(fields["input_id"]), 0, dtype=torch.int64, device=self.device)
        batch = MaskedBatch(
            **fields, **dense, target_id=nothing, target_modality=nothing, target_position=nothing,
            query_id=nothing, target_valid=nothing.bool(),
        )  # fmt: skip
        return self.model.encode(batch), len(parts)

    def _queries(self, key: str, token: Tensor, position: Tensor, valid: Tensor, copies: int) -> MaskedBatch:
        token, position, valid = (t.repeat(copies, 1).to(self.device) for t in (token, position, valid))
        nothing = torch.zeros(len(token), 0, dtype=torch.int64, device=self.device)
        return MaskedBatch(
            input_id=nothing, input_modality=nothing, input_position=nothing, input_valid=nothing.bool(),
            target_id=torch.zeros_like(token), target_modality=torch.full_like(token, self.config.index(key)),
            target_position=position, query_id=token, target_valid=valid,
        )  # fmt: skip

    def _guided(self, logits: Tensor, step: Step) -> Tensor:
        logits = logits.float().cpu()
        if step.guidance == 1:
            return logits
        conditional, unconditional = logits.chunk(2)
        return guide(unconditional, conditional, step.guidance)


def _pad(tensor: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]))
