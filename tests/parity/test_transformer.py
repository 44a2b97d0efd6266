"""The authors' transformers: the same logits and losses as their code."""

import json

import pytest
import torch
from reference_cases import REFERENCE, folder_of
from safetensors import safe_open
from safetensors.torch import load_file

from open4m.hub.ml4m import transformer
from open4m.model.fourm import FourMTransformer
from open4m.model.packing import pack
from open4m.train.losses import aggregate

NAMES = ("fourm7_gelu_bias", "fourm7_swiglu")
FURTHER = [at.parent for at in sorted(REFERENCE.glob("*/case.safetensors")) if at.parent.name not in NAMES]
"""Cases that are there and of which a clone has no copies."""


@pytest.mark.parametrize("name", [*NAMES, *(at.name for at in FURTHER if transformer.is_reference(at))])
def test_the_reference_cases_are_met(name):
    """Tolerances: of the cases' description, for float32."""
    folder = folder_of(name)
    imported = transformer.load(folder)
    case = load_file(folder / "case.safetensors")
    with safe_open(folder / "case.safetensors", "pt") as file:
        theirs = json.loads(file.metadata()["modalities"])
    content = {"pixels": {}, "vectors": {}}
    for name, value in case.items():
        kind, _, modality = name.partition("/")
        if kind in content:
            content[kind][imported.names[modality]] = value
    targets = case["target"][case["target"][:, 0].argsort(stable=True)]
    keys = [imported.names.get(name, name) for name in theirs]
    batch = pack(imported.config, case["input"].numpy(), targets.numpy(), modalities=keys, **content)
    model = FourMTransformer(imported.config)
    model.load_state_dict(imported.weights)
    with torch.no_grad():
        logits = model.target_logits(batch)
        loss, losses = aggregate(model(batch))
    for index, name in enumerate(theirs):
        if f"expected/logits/{name}" in case:
            order = case["target"][case["target"][:, 1] == index][:, 0].argsort(stable=True)
            expected, found = case[f"expected/logits/{name}"][order], logits[imported.names[name]]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
            assert losses[imported.names[name]].item() == pytest.approx(case[f"expected/loss/{name}"].item(), abs=1e-5)
    assert set(logits) == {imported.names[name.split("/")[-1]] for name in case if "expected/logits/" in name}
    assert loss.item() == pytest.approx(case["expected/loss"].item(), abs=1e-5)
