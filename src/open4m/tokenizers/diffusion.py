"""Diffusion as the decoder of a tokenizer (paper B.3): the clean image is predicted, from 1000 linear steps of noise.

The schedulers are those of the ``diffusers`` library, so that any of its solvers decodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from open4m.types import Open4MError

Solver = Literal["ddim", "dpm++", "unipc", "ddpm"]
_CLASSES = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "ddpm": "DDPMScheduler",
}
_CLIPPING = ("ddim", "ddpm")  # those that clip by themselves, and take the noise from what was not clipped


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The noise of training and the solver of decoding."""

    train_steps: int = 1000
    schedule: Literal["linear", "squaredcos_cap_v2"] = "linear"
    zero_terminal_snr: bool = True  # Lin et al., 2023: the last step holds nothing of the image
    clip: bool = True  # predictions to [-1, 1], while decoding
    solver: Solver = "ddim"
    steps: int = 25  # network calls of a decoding
    pure_noise: float = 0.0  # share of the training images that are all noise, where every decoding starts

    def __post_init__(self) -> None:
        if not 0 <= self.pure_noise <= 1:
            raise Open4MError(f"DiffusionConfig: pure_noise is from 0 to 1, got {self.pure_noise}")
        if not 1 <= self.steps <= self.train_steps:
            raise Open4MError(f"DiffusionConfig: steps is from 1 to {self.train_steps} (train_steps), got {self.steps}")


def alphas_cumprod(config: DiffusionConfig) -> torch.Tensor:
    """How much of an image's variance each of the steps keeps (train_steps,)."""
    return _scheduler(config, "ddim").alphas_cumprod


def draw_steps(config: DiffusionConfig, size: int, generator: torch.Generator | None, device: Any) -> torch.Tensor:
    """The steps (size,) int64 at which training images are noised: uniform, but for the ``pure_noise``."""
    steps = torch.randint(config.train_steps, (size,), generator=generator, device=device)
    last = torch.rand(size, generator=generator, device=device) < config.pure_noise
    return steps.masked_fill(last, config.train_steps - 1)


def add_noise(clean: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """√ᾱ·clean + √(1 - ᾱ)·noise, for images (B, C, H, W) and their steps' ᾱ (B,)."""
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
    """Images (B, C, H, W) from noise of that shape.

    ``network(noised, timesteps)`` gives clean images. ``solver`` and ``steps`` are the configuration's unless given.
    ``generators``, one an image, are for the solver "ddpm", which draws noise at every step.

    Raises :class:`Open4MError` for an unknown solver, a number of steps out of range, or where ``diffusers`` is absent.
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
    clean = network(x, last.to(x.device).expand(len(x)))  # where every solver ends
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
