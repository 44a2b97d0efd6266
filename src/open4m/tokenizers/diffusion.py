"""Diffusion as the decoder of a tokenizer (paper B.3): the network predicts the clean image from a noised one.

Training adds noise at one of 1000 timesteps. Decoding uses the solvers of the ``diffusers`` library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from open4m.ranges import Share, Size, check_ranges
from open4m.types import Open4MError

Solver = Literal["ddim", "dpm++", "unipc", "ddpm"]
_CLASSES = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "ddpm": "DDPMScheduler",
}
_CLIPPING = ("ddim", "ddpm")  # solvers that clip predictions themselves, after computing the noise from them


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The noise schedule of training, and the solver of decoding."""

    train_steps: Size = 1000
    schedule: Literal["linear", "squaredcos_cap_v2"] = "linear"
    zero_terminal_snr: bool = True  # the last timestep is noise only (Lin et al., 2023)
    clip: bool = True  # clip predictions to [-1, 1] while decoding
    solver: Solver = "ddim"
    steps: Size = 25  # of decoding: calls of the network
    pure_noise: Share = 0.0  # share of training images at the last timestep, from which decoding starts

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.steps > self.train_steps:
            raise Open4MError(f"DiffusionConfig: steps is from 1 to {self.train_steps} (train_steps), got {self.steps}")


def alphas_cumprod(config: DiffusionConfig) -> torch.Tensor:
    """ᾱ, the share of the image's variance that is left at each timestep: (train_steps,)."""
    return _scheduler(config, "ddim").alphas_cumprod


def draw_steps(config: DiffusionConfig, size: int, generator: torch.Generator | None, device: Any) -> torch.Tensor:
    """The timesteps (size,) int64 of training images: uniform, but a share ``pure_noise`` has the last one."""
    steps = torch.randint(config.train_steps, (size,), generator=generator, device=device)
    last = torch.rand(size, generator=generator, device=device) < config.pure_noise
    return steps.masked_fill(last, config.train_steps - 1)


def add_noise(clean: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """√ᾱ·clean + √(1 - ᾱ)·noise, for images (B, C, H, W) and ᾱ (B,) at their timesteps."""
    alphas = alphas.view(-1, 1, 1, 1)
    return alphas.sqrt() * clean + (1 - alphas).sqrt() * noise


def sample(
    network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    noise: torch.Tensor,
    config: DiffusionConfig,
    solver: Solver | None = None,
    steps: int | None = None,
    generators: list[torch.Generator] | None = None,
) -> torch.Tensor:
    """Denoise ``noise`` (B, C, H, W) to images of that shape.

    ``network(noised, timesteps)`` predicts clean images. ``solver`` and ``steps`` are the configuration's unless given.
    ``generators``, one per image, are for the solver "ddpm", which draws noise at every step.

    Raises :class:`Open4MError` for an unknown solver, a number of steps out of range, or if ``diffusers`` is missing.
    """
    solver, steps = solver or config.solver, config.steps if steps is None else steps
    if solver not in _CLASSES:
        raise Open4MError(f"unknown solver {solver!r} (solvers: {', '.join(_CLASSES)})")
    if not 1 <= steps <= config.train_steps:
        raise Open4MError(f"expected 1 to {config.train_steps} decoding steps, got {steps}")
    x, last = noise, torch.tensor(config.train_steps - 1)
    if steps > 1:
        scheduler = _scheduler(config, solver)
        scheduler.set_timesteps(steps, device=noise.device)
        last = scheduler.timesteps[-1]
        drawn = {"generator": generators} if solver == "ddpm" else {}
        for step in scheduler.timesteps[:-1]:
            clean = network(x, step.expand(len(x)))
            if config.clip and solver not in _CLIPPING:
                clean = clean.clamp(-1, 1)
            x = scheduler.step(clean, step, x, return_dict=False, **drawn)[0]
    clean = network(x, last.to(x.device).expand(len(x)))  # the last step of every solver is the prediction itself
    return clean.clamp(-1, 1) if config.clip else clean


def _scheduler(config: DiffusionConfig, solver: Solver) -> Any:
    try:
        import diffusers.schedulers as library
    except ImportError as error:
        raise Open4MError("a diffusion decoder needs the extra: pip install 'open4m[diffusion]'") from error
    clips = {"clip_sample": config.clip} if solver in _CLIPPING else {}
    return getattr(library, _CLASSES[solver])(
        num_train_timesteps=config.train_steps,
        beta_schedule=config.schedule,
        prediction_type="sample",
        rescale_betas_zero_snr=config.zero_terminal_snr,
        timestep_spacing="trailing",
        **clips,
    )
