"""Noise and solvers against formulas written out in float64."""

import sys

import pytest
import torch

from open4m.tokenizers.diffusion import DiffusionConfig, add_noise, alphas_cumprod, draw_steps, sample
from open4m.types import Open4MError

CONFIG = DiffusionConfig()


def alphas(zero_terminal_snr=True):
    """ᾱ of 1000 linear steps from 0.0001 to 0.02, scaled so that √ᾱ ends at 0 (Lin et al., 2023, algorithm 1)."""
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    if not zero_terminal_snr:
        return kept
    root = kept.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def network(noised, timesteps):
    """Something that depends on both."""
    return torch.tanh(0.7 * noised + timesteps.view(-1, 1, 1, 1) / 1000 - 0.3)


def noise(n=3, seed=0):
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("zero", [True, False])
def test_the_strength_of_the_noise(zero):
    found = alphas_cumprod(DiffusionConfig(zero_terminal_snr=zero))
    torch.testing.assert_close(found.double(), alphas(zero), atol=1e-6, rtol=0)
    assert (found[-1] == 0) == zero


def test_noised_images_are_a_weighted_sum_each_with_its_own_step():
    clean, drawn, kept = noise(seed=1), noise(seed=2), torch.tensor([1.0, 0.36, 0.0])
    found = add_noise(clean, drawn, kept)
    torch.testing.assert_close(found, torch.stack([clean[0], 0.6 * clean[1] + 0.8 * drawn[1], drawn[2]]))


def test_training_steps_are_uniform_but_for_the_share_of_pure_noise():
    for share in (0.0, 0.25, 1.0):
        drawn = draw_steps(DiffusionConfig(pure_noise=share), 40_000, torch.Generator().manual_seed(0), "cpu")
        assert (drawn == 999).float().mean().item() == pytest.approx(share + (1 - share) / 1000, abs=0.01)
        rest = drawn[drawn < 999].float()
        if len(rest):
            assert rest.min() == 0
            assert rest.mean().item() == pytest.approx(499, abs=6)
    with pytest.raises(Open4MError, match="pure_noise: expected at most 1"):
        DiffusionConfig(pure_noise=1.5)


@pytest.mark.parametrize("steps", [1, 2, 4, 25])
@pytest.mark.parametrize("clip", [True, False])
def test_ddim_is_its_formula(steps, clip):
    """Song et al., 2021, equation 12, with σ = 0, on evenly spaced steps that end at the first."""
    kept, x = torch.cat([torch.ones(1).double(), alphas()]), noise().double()
    loud = lambda noised, timesteps: 1.5 * network(noised, timesteps)  # noqa: E731
    stride = 1000 // steps
    for step in range(1000, 0, -stride):  # counted from 1; kept[0] is an image without noise
        predicted = loud(x, torch.full((len(x),), step - 1))
        drawn = (x - kept[step].sqrt() * predicted) / (1 - kept[step]).sqrt()
        shown = predicted.clamp(-1, 1) if clip else predicted
        before = kept[step - stride]
        x = before.sqrt() * shown + (1 - before).sqrt() * drawn
    found = sample(loud, noise(), DiffusionConfig(clip=clip), "ddim", steps)
    torch.testing.assert_close(found, x.float(), atol=2e-5, rtol=0)  # measured below 4e-6


@pytest.mark.parametrize("solver", ["ddim", "dpm++", "unipc", "ddpm"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 25])
def test_every_solver_ends_at_the_answer_of_a_network_that_knows_it(solver, steps):
    answer = noise(seed=5).clamp(-0.9, 0.9)
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    found = sample(lambda _noised, _steps: answer, noise(), CONFIG, solver, steps, generators)
    assert torch.equal(found, answer)


@pytest.mark.parametrize("solver", ["ddim", "dpm++", "unipc", "ddpm"])
def test_an_image_does_not_depend_on_the_batch_it_is_in(solver):
    def run(start, seeds):
        return sample(network, start, CONFIG, solver, 5, [torch.Generator().manual_seed(s) for s in seeds])

    together = run(noise(), (7, 8, 9))
    for i, seed in enumerate((7, 8, 9)):
        torch.testing.assert_close(run(noise()[i : i + 1], [seed])[0], together[i], atol=1e-6, rtol=0)


def test_settings_are_the_configurations_unless_given():
    calls = []

    def counting(noised, timesteps):
        calls.append(int(timesteps[0]))
        return network(noised, timesteps)

    few = DiffusionConfig(steps=4)
    torch.testing.assert_close(sample(counting, noise(), few), sample(network, noise(), CONFIG, "ddim", 4))
    assert calls == [999, 749, 499, 249]


@pytest.mark.parametrize("solver", ["ddim", "dpm++", "unipc"])
def test_clipped_predictions_stay_in_range(solver):
    loud = lambda noised, timesteps: 5 * network(noised, timesteps)  # noqa: E731
    for steps in (1, 4):
        assert sample(loud, noise(), CONFIG, solver, steps).abs().max() <= 1 + 1e-5
        assert sample(loud, noise(), DiffusionConfig(clip=False), solver, steps).abs().max() > 1.5


def test_errors_say_what_is_allowed(monkeypatch):
    with pytest.raises(Open4MError, match="unknown solver 'euler' \\(solvers: ddim, "):
        sample(network, noise(), CONFIG, "euler")
    for steps in (0, -1, 1001):
        with pytest.raises(Open4MError, match=f"expected 1 to 1000 decoding steps, got {steps}"):
            sample(network, noise(), CONFIG, steps=steps)
    with pytest.raises(Open4MError, match="steps is from 1 to 10"):
        DiffusionConfig(train_steps=10, steps=11)
    monkeypatch.setitem(sys.modules, "diffusers.schedulers", None)
    with pytest.raises(Open4MError, match=r"pip install 'open4m\[diffusion\]'"):
        sample(network, noise(), CONFIG)
    assert sample(network, noise(), CONFIG, steps=1).shape == noise().shape  # one step needs no solver
