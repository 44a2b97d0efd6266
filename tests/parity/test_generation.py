"""Generation with the authors' transformers: the same tokens as their code, greedily, and the same logits.

The cases are those of a whole tiny public hub, ``pipeline``: from pixels and from a caption, with and without guidance,
in chains, and by the model of super-resolution.
"""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from reference_cases import folder_of
from safetensors.torch import load_file

from open4m import modalities
from open4m.generate import engine as engines
from open4m.generate.canvas import Canvas
from open4m.generate.engine import Engine
from open4m.generate.pipeline import FourM
from open4m.generate.plan import Step, make
from open4m.generate.presets import PRESETS
from open4m.hub.ml4m import text as texts
from open4m.hub.ml4m import transformer
from open4m.modalities.given import InForm
from open4m.model.fourm import FourMTransformer

ONCE = {"scheme": "roar", "steps": 1, "temperature": 0.0}
WORDS = {"scheme": "left_to_right", "steps": 32, "temperature": 0.0}
DENSE = ("tok_clip@224", "tok_depth@224", "tok_normal@224", "tok_semseg@224")
LOGITS = 2e-3
"""What the cases allow; the worst one here was 5e-4, with guidance 2."""


class Hub:
    """The models of the cases, what is given, and what is expected."""

    def __init__(self):
        self.folder = folder_of("pipeline")
        self.case = load_file(self.folder / "case.safetensors")
        self.about = json.loads((self.folder / "case.json").read_text())
        self.text = texts.load(self.folder / "text_tokenizer_4m_wordpiece.json")
        self.models = {name: self._model(self.about["repositories"][name]) for name in ("fm", "sr")}

    def _model(self, repository):
        imported = transformer.load(self.folder / repository)
        model = FourMTransformer(imported.config)
        model.load_state_dict(imported.weights)
        return Engine(model, self.text.sentinels[0], [self.text.eos, *self.text.sentinels], self.text.eos), imported

    def step(self, name, domain, **options):
        spec = self.models[name][1].config.spec(self.models[name][1].names[domain])
        return Step(target=spec.key, **{**(WORDS if spec.is_causal else ONCE), **options})

    def canvas(self, name, **given):
        """Known tokens by domain; pixels by theirs."""
        imported = self.models[name][1]
        canvas = Canvas(imported.config, 1)
        for domain, content in given.items():
            key = imported.names[domain]
            canvas.start(key)
            canvas.put(key, 0, content)
            if key in canvas.known:
                canvas.known[key][:] = True
        return canvas

    def photo(self):
        value = np.asarray(Image.open(self.folder / "rgb.png").convert("RGB"))
        return {"rgb@224": torch.from_numpy(modalities.get("rgb_pixels").pixels(value))}

    def caption(self):
        return {"caption": self.text.encode_text(self.about["caption"], marked=True)}

    def made(self, name, steps, given, monkeypatch):
        """(Ids by domain, logits by domain): of grids and sequences."""
        engine, imported = self.models[name]
        drawn, keys = [], {key: domain for domain, key in imported.names.items()}
        own = engines.sample
        with monkeypatch.context() as patch:
            patch.setattr(engines, "sample", lambda logits, *how: (drawn.append(logits), own(logits, *how))[1])
            canvas = self.canvas(name, **given)
            engine.run(canvas, steps, [0])
        found = {}
        for step in steps:
            key = step.target
            found[keys[key]] = canvas.sequences[key][0] if key in canvas.sequences else canvas.grids[key][0].tolist()
        return found, drawn


@pytest.fixture(scope="module")
def hub():
    return Hub()


def check(hub, name, found):
    for domain, ids in found.items():
        expected = hub.case[f"{name}/{domain}"].tolist()
        assert ids[: len(expected)] == expected, (name, domain)
        assert len(ids) - len(expected) in (0, 1), (name, domain)  # [EOS], where theirs does not end


@pytest.mark.parametrize("guidance", [1, 2])
def test_dense_targets_from_pixels(hub, guidance, monkeypatch):
    for domain in DENSE:
        steps = [hub.step("fm", domain, guidance=float(guidance))]
        found, [logits] = hub.made("fm", steps, hub.photo(), monkeypatch)
        check(hub, f"rgb_g{guidance}", found)
        expected = hub.case[f"logits/rgb_g{guidance}/{domain}"]
        torch.testing.assert_close(logits[::28], expected, rtol=0, atol=LOGITS)


@pytest.mark.parametrize("domain", ["caption", "det"])
@pytest.mark.parametrize(
    ("name", "guidance", "announced"),
    [("rgb_g1", 1, True), ("rgb_text_g2", 2, True), ("rgb_bare_g1", 1, False), ("rgb_bare_g2", 2, False)],
)
def test_texts_from_pixels(hub, name, guidance, announced, domain, monkeypatch):
    steps = [hub.step("fm", domain, guidance=float(guidance), announced=announced)]
    check(hub, name, hub.made("fm", steps, hub.photo(), monkeypatch)[0])


def test_chains(hub, monkeypatch):
    dense = [hub.step("fm", domain, guidance=2.0) for domain in DENSE]
    chain = [*dense, *(hub.step("fm", domain) for domain in ("caption", "det"))]
    check(hub, "chain", hub.made("fm", chain, hub.photo(), monkeypatch)[0])
    demo = [*dense, *(hub.step("fm", domain, announced=True, open_end=True) for domain in ("caption", "det"))]
    found = hub.made("fm", demo, hub.photo(), monkeypatch)[0]
    check(hub, "chain_demo", found)
    assert len(found["caption"]) == 32  # without an end


@pytest.mark.parametrize("guidance", [1, 3])
def test_pictures_from_a_caption(hub, guidance, monkeypatch):
    """Guidance by a text: the model was shown one sentinel where it was to see nothing of the text."""
    name = f"caption_g{guidance}"
    found, [logits] = hub.made(
        "fm", [hub.step("fm", "tok_rgb@224", guidance=float(guidance))], hub.caption(), monkeypatch
    )
    check(hub, name, found)
    torch.testing.assert_close(logits[::28], hub.case[f"logits/{name}/tok_rgb@224"], rtol=0, atol=LOGITS)
    name = f"caption_order_g{guidance}"
    order = {"order": hub.case[f"order/{name}"].tolist(), "tokens": hub.about["counts"][name]}
    steps = [hub.step("fm", "tok_rgb@224", guidance=float(guidance), **order)]
    check(hub, name, hub.made("fm", steps, hub.caption(), monkeypatch)[0])


def small(hub):
    depth, rgb = (hub.case[name].long().flatten() for name in ("chain/tok_depth@224", "tokens/rgb"))
    return {**hub.caption(), "tok_depth@224": depth, "tok_rgb@224": rgb}


@pytest.mark.parametrize("guidance", [1, 2])
def test_super_resolution(hub, guidance, monkeypatch):
    steps = [hub.step("sr", domain, guidance=float(guidance)) for domain in ("tok_depth@448", "tok_rgb@448")]
    check(hub, f"sr_g{guidance}", hub.made("sr", steps, small(hub), monkeypatch)[0])


def test_super_resolution_in_an_order(hub, monkeypatch):
    name = "sr_order_g2"
    order = {"order": hub.case[f"order/{name}"].tolist(), "tokens": hub.about["counts"][name]}
    check(
        hub, name, hub.made("sr", [hub.step("sr", "tok_depth@448", guidance=2.0, **order)], small(hub), monkeypatch)[0]
    )


def test_the_preset_of_their_demo_makes_its_chain(hub, monkeypatch):
    """Greedily, texts of at most 32 tokens: the rest is the preset's, the order of targets included."""
    domains, config = ("det", "caption", *reversed(DENSE)), hub.models["fm"][1].config
    keys = [hub.models["fm"][1].names[domain] for domain in domains]
    demo, most = PRESETS["demo"], {"steps": 32}
    said = {"temperature": 0.0, "caption": most, "boxes": most}
    steps = make(config, demo.ordered(keys), said, demo.defaults(keys, from_photo=True))
    check(hub, "chain_demo", hub.made("fm", steps, hub.photo(), monkeypatch)[0])


def test_their_schedules(hub):
    """Tokens a pass, and the temperatures of ``onex`` schedules to the six digits that the case has."""
    kinds, seen = {"cosine": "bell", "linear": "even"}, set()
    for name, expected in hub.about["schedules"].items():
        *temperatures, kind, passes, total = name.split("_")
        step = Step(target="rgb", scheme="roar", steps=int(passes), schedule=kinds[kind])
        seen.add(bool(temperatures))
        if not temperatures:
            left = [step.remaining(done, int(total)) for done in range(int(passes) + 1)]
            assert [before - after for before, after in pairwise(left)] == expected, name
        else:
            way, first, last, _ = temperatures
            step = replace(step, temperature=(float(first), float(last)), cooling=way)
            found = [step.temperature_at(done, int(total)) for done in range(int(passes))]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=name)
    assert seen == {True, False}


def test_values_in_and_tokens_out():
    """Their demo's chain and guidance by a caption as a user asks for them: of a picture, of words, with tokenizers."""
    folder = folder_of("pipeline")
    case, model = load_file(folder / "case.safetensors"), FourM.from_pretrained(folder / "EPFL-VILAB/4M-7_B_CC12M")
    most = {"steps": 32}
    targets = ["boxes", "caption", "semseg", "normals", "depth", "clip"]
    *_, last = model.passes(folder / "rgb.png", targets, preset="demo", temperature=0.0, caption=most, boxes=most)
    for key, domain in zip(targets, ("det", "caption", *reversed(DENSE)), strict=True):
        made = last.canvas.sequences[key][0] if key in last.canvas.sequences else last.canvas.grids[key][0].tolist()
        assert made == case[f"chain_demo/{domain}"].tolist()
    words = json.loads((folder / "case.json").read_text())["caption"]
    for caption in (words.removesuffix(" [EOS]"), InForm(words, "marked")):
        *_, last = model.passes({"caption": caption}, "rgb", guidance=3.0, steps=1, temperature=0.0)
        assert last.canvas.grids["rgb"][0].tolist() == case["caption_g3/tok_rgb@224"].tolist()
