"""The line of scenes on a GPU: the same data and tasks, finer tokens of RGB, weights of the size that is shipped."""

import dataclasses

import open4m
from open4m import configs
from open4m.configs.scenes_gpu import WORKERS
from open4m.model.fourm import FourMTransformer
from open4m.train.config import FREE


def without_free(value):
    if dataclasses.is_dataclass(value):
        return {f.name: without_free(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name not in FREE}
    return [*map(without_free, value)] if isinstance(value, tuple) else value


def test_tokenizers_but_for_rgb_are_those_of_the_laptop_without_diffusion_decoders():
    gpu, laptop = configs.get("scenes-gpu"), configs.get("scenes")
    assert gpu.tokenizers.keys() == laptop.tokenizers.keys()
    for name, run in gpu.tokenizers.items():
        assert all(stage.diffusion is None and stage.train.workers == WORKERS for stage in run.stages)
        if name != "rgb":
            stages = tuple(stage for stage in laptop.tokenizers[name].stages if stage.diffusion is None)
            assert without_free(run) == without_free(dataclasses.replace(laptop.tokenizers[name], stages=stages))
    for part in ("data", "clip", "max_length", "text_vocab"):
        assert getattr(gpu, part) == getattr(laptop, part)


def test_the_shipped_model_is_of_this_configuration():
    config, model = configs.get("scenes-gpu"), open4m.FourM.from_pretrained("scenes")
    wanted = dataclasses.replace(config.pretrain.architecture, patch_embedding="linear")  # folded
    assert all(getattr(model.config, f.name) == getattr(wanted, f.name) for f in dataclasses.fields(wanted))
    assert tuple(model.config.keys) == config.pretrain.modalities
    run = config.tokenizers["rgb"]
    assert model.config.spec("rgb").grid == (16, 16) == 2 * (config.pretrain.image_size // run.patch_size,)
    assert model.config.spec("rgb").vocab_size == run.codebook_size
    budget = config.pretrain.masking.input_budget[1]
    assert budget == model.config.spec("caption").max_length + model.config.spec("rgb").length  # a text with an image
    assert 2 * sum(p.numel() for p in FourMTransformer(model.config).parameters()) < 20e6  # bytes in 16 bits
