"""CLIP: dense feature maps (paper B.1), CLIP scores and image features (paper F.2).

One class serves every CLIP: those of the Hugging Face hub and the small one that
:mod:`open4m.train.tasks.clip` trains on the scenes. All are ``transformers`` folders: ``config.json``,
``model.safetensors``, ``tokenizer.json``, ``preprocessor_config.json``.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import normalize

from open4m import checksums, files, modalities, weights
from open4m.labellers.base import Labeller, Settings
from open4m.labellers.checkpoints import check_config
from open4m.ranges import Layers, Size, check_ranges
from open4m.tokenizers import word_files
from open4m.types import Open4MError

if TYPE_CHECKING:
    from transformers.models.clip.configuration_clip import CLIPConfig
    from transformers.models.clip.modeling_clip import CLIPModel

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[SOS]", "[EOS]")  # ids 0 to 3; CLIPModel has a legacy mode for an [EOS] of 2
PREPROCESSOR = "preprocessor_config.json"
FILES = ("config.json", "model.safetensors", "tokenizer.json", PREPROCESSOR)

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images, on the [0, 1] scale
STD = (0.26862954, 0.26130258, 0.27577711)
BATCH = 64  # images or texts per forward pass
POSITION_GAIN = 10
"""Factor of CLIP's initial position embeddings (std 0.02): with it, small CLIPs need a third of the steps to learn to
tell left from right (measured)."""

MAX_LISTED_WEIGHTS = 3
"""Missing weights that an error lists."""

MAX_REASON = 300
"""Characters of another library's error message that are shown."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class CLIPLabeller(Labeller):
    """A CLIP model with its text tokenizer and image normalization.

    Images are resized to the model's input without cropping, so that a feature map covers exactly its image, as the
    other modalities of the sample do. All results are float32 NumPy arrays unless a method says otherwise.
    """

    modality = "clip"
    source = "rgb"
    square = True
    is_default = False

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: Tokenizer,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ):
        self.model = model
        self.mean, self.std = tuple(mean), tuple(std)
        self._rgb = modalities.get(self.source)
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())  # a copy, whose truncation and padding are set below
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(model.config.text_config.max_position_embeddings)
        self._check_tokenizer()

    @classmethod
    def load(
        cls, model: str | Path, device: str = "cpu", settings: Settings | None = None, modality: str = ""
    ) -> CLIPLabeller:
        """The CLIP in a folder, or that of a hub name such as ``openai/clip-vit-base-patch16``, from safetensors only.

        Raises :class:`Open4MError` if there is none, if it is incomplete, or if ``transformers`` is not installed.
        """
        _, model_class = _transformers()
        local = Path(model).is_dir()
        if not local and not _HUB_NAME.fullmatch(str(model)):
            raise Open4MError(f"{model}: no such folder (expected a folder with a CLIP, or a name on the hub)")
        if local:
            checksums.check(Path(model), *FILES)
        try:
            where = f"{model}/{FILES[0]}"
            check_config(files.parse_json(_text(model, FILES[0], default="{}"), where), where)
            with _no_progress_bar():
                network, loaded = model_class.from_pretrained(
                    model,
                    local_files_only=local,
                    use_safetensors=True,
                    output_loading_info=True,
                    attn_implementation="sdpa",  # a configuration may name a kernel that would be downloaded
                )
            tokenizer = word_files.parse(_text(model, "tokenizer.json"), f"{model}/tokenizer.json")
            mean, std = _normalization(_text(model, PREPROCESSOR, default="{}"), f"{model}/{PREPROCESSOR}")
        except Open4MError:
            raise
        except Exception as error:  # of damaged files, transformers raises anything
            reason = " ".join(str(error).split())[:MAX_REASON]
            raise Open4MError(
                f"{model}: holds no CLIP that can be loaded (config.json, model.safetensors, tokenizer.json): {reason}"
                + (
                    ""
                    if local
                    else f"; without a connection: hf download {model} --local-dir FOLDER elsewhere, and name FOLDER"
                )
            ) from error
        if missing := sorted(loaded["missing_keys"]):
            raise Open4MError(f"{model}: not a complete CLIP, weights are missing: {missing[:MAX_LISTED_WEIGHTS]}")
        if unused := sorted(key for key in loaded["unexpected_keys"] if not key.endswith("position_ids")):
            raise Open4MError(
                f"{model}: {FILES[0]} describes a smaller CLIP than that of the weights, which also have "
                f"{unused[:MAX_LISTED_WEIGHTS]} ({len(unused)} in all)"
            )
        return cls(network.float().eval().to(device), tokenizer, mean, std)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a ``transformers`` folder that :meth:`load` reads, with weights in ``dtype``."""
        folder = Path(folder)
        files.make_folder(folder)
        with _no_progress_bar():
            copy.deepcopy(self.model).to("cpu", dtype).save_pretrained(folder)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        size = self.image_size
        preprocessor = {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": size},
            "resample": int(Image.Resampling.BICUBIC),
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        files.write_text(folder / PREPROCESSOR, json.dumps(preprocessor, indent=2) + "\n")
        checksums.seal(folder, FILES)

    # ---- what it is
    @property
    def image_size(self) -> int:
        """Height and width of the input, in pixels."""
        return self.model.config.vision_config.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of a feature map."""
        side = self.image_size // self.model.config.vision_config.patch_size
        return side, side

    @property
    def dim(self) -> int:
        """D, the number of channels of a feature map."""
        return self.model.config.vision_config.hidden_size

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.logit_scale.device

    @property
    def fingerprint(self) -> str:
        return weights.fingerprint(self.model.state_dict(), {"mean": self.mean, "std": self.std})

    # ---- what goes in
    def images(self, values: Sequence[np.ndarray]) -> Tensor:
        """uint8 (B, 3, H, W) at the model's size from uint8 images (H, W, 3) of any sizes."""
        size = self.image_size
        resized = []
        for value in values:
            value = self._rgb.convert(value)
            if value.shape[:2] != (size, size):
                value = np.asarray(Image.fromarray(value).resize((size, size), Image.Resampling.BICUBIC))
            resized.append(value)
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()

    def normalize(self, scaled: Tensor) -> Tensor:
        """Images (B, 3, H, W) normalized for the image encoder, from images on the [0, 1] scale."""
        mean, std = scaled.new_tensor(self.mean), scaled.new_tensor(self.std)
        return (scaled - mean[:, None, None]) / std[:, None, None]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids, int64 (B, L): long texts are truncated before their [EOS], short ones padded at the end.

        Padding has no effect: the text encoder is causal, and its output is taken at the first [EOS].
        """
        rows = [torch.tensor(encoding.ids) for encoding in self.tokenizer.encode_batch(list(texts))]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.padding)

    @property
    def padding(self) -> int:
        """The id that :meth:`tokenize` pads with."""
        return self.model.config.text_config.pad_token_id or 0

    # ---- what comes out
    def label(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A feature map (h, w, D) of each image: the patches of the last Transformer layer's output, row by row."""
        if not len(values):
            return []
        maps = self._vision(values, lambda output: output.last_hidden_state[:, 1:])  # (B, L, D); 0 is the class token
        return list(maps.reshape(len(maps), *self.grid, self.dim))

    def image_embedding(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Image embeddings (B, E) of unit length, in the space that images and texts share."""
        return self._vision(
            values, lambda output: normalize(self.model.visual_projection(output.pooler_output), dim=-1)
        )

    def text_embedding(self, texts: Sequence[str]) -> np.ndarray:
        """Text embeddings (B, E) of unit length, in the space that images and texts share. Needs at least one text."""
        if not len(texts):
            raise Open4MError("CLIP: expected at least one text, got none")
        with torch.inference_mode():
            parts = []
            for start in range(0, len(texts), BATCH):
                ids = self.tokenize(texts[start : start + BATCH]).to(self.device)
                pooled = self.model.text_model(input_ids=ids).pooler_output  # (B, D)
                parts.append(normalize(self.model.text_projection(pooled).float(), dim=-1).cpu().numpy())
        return np.concatenate(parts)

    def clip_score(self, values: Sequence[np.ndarray], texts: Sequence[str]) -> float:
        """Mean of :meth:`clip_scores` (paper Table 32)."""
        return float(self.clip_scores(values, texts).mean())

    def clip_scores(self, values: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """100·max(cosine, 0) of each image and its text, in [0, 100]: (B,)."""
        if len(values) != len(texts) or not len(values):
            raise Open4MError(f"CLIP score: expected one text per image, got {len(values)} images, {len(texts)} texts")
        cosine = (self.image_embedding(values) * self.text_embedding(texts)).sum(-1)
        return 100 * np.maximum(cosine, 0)

    def features(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Pooled image features before projection, float64 (B, D), for a Fréchet distance."""
        return self._vision(values, lambda output: output.pooler_output).astype(np.float64)

    def feature_distance(self, first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
        """The perceptual distance of each image of ``first`` and its partner in ``second``: float64 (B,), from 0 to 4.

        The vectors of patches after each Transformer layer are scaled to unit length. The squared distance of those of
        the same patch, 2 - 2·cosine, is averaged over patches and layers. LPIPS (Zhang et al., 2018) is defined so too,
        but for a convolutional network, with weights of its channels that were fitted to people's judgments; here all
        channels and layers have equal weight. Values of two CLIPs are not comparable.
        """
        if len(first) != len(second):
            raise Open4MError(f"CLIP: expected pairs of images, got {len(first)} and {len(second)}")
        distances = [np.zeros(0)]
        for start in range(0, len(first), BATCH):
            a, b = (self._layers(values[start : start + BATCH]) for values in (first, second))
            distances.append(np.square(a - b).sum(-1, dtype=np.float64).mean((1, 2)))
        return np.concatenate(distances)

    def _layers(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The vectors of patches after each Transformer layer, scaled to unit length: (B, layers, h·w, D)."""

        def select(output) -> Tensor:
            return torch.stack([normalize(state[:, 1:].float(), dim=-1) for state in output.hidden_states[1:]], 1)

        return self._vision(values, select, output_hidden_states=True)

    def _vision(self, values: Sequence[np.ndarray], select: Callable, **options: bool) -> np.ndarray:
        """``select`` of the image encoder's output, for all images."""
        if not len(values):
            raise Open4MError("CLIP: expected at least one image, got none")
        with torch.inference_mode():
            parts = []
            for start in range(0, len(values), BATCH):
                scaled = self.images(values[start : start + BATCH]).to(self.device).float() / 255
                parts.append(select(self.model.vision_model(self.normalize(scaled), **options)).float().cpu().numpy())
        return np.concatenate(parts)

    def _check_tokenizer(self) -> None:
        config = self.model.config.text_config
        ids = self.tokenizer.encode("a").ids
        # CLIPModel takes the output at the first eos_token_id, or with the legacy value 2 at the largest id.
        end = max(ids, default=0) if config.eos_token_id == 2 else config.eos_token_id
        if self.tokenizer.get_vocab_size() > config.vocab_size or ids[-1:] != [end] or end in ids[:-1]:
            raise Open4MError(
                f"CLIP: the tokenizer does not fit the model: expected at most {config.vocab_size} tokens, texts "
                f"that end with id {end}; got {self.tokenizer.get_vocab_size()} tokens, texts like {ids}"
            )


# ---- a small CLIP


@dataclass(frozen=True, kw_only=True)
class SmallCLIP:
    """The size of a CLIP that trains on a CPU in minutes: 1.4 M parameters with a vocabulary of 1024."""

    image_size: Size = 128  # pixels
    patch_size: Size = 16
    width: Size = 128  # D
    layers: Layers = 4
    heads: Layers = 4
    projection: Size = 128  # E
    text_width: Size = 96
    text_layers: Layers = 3
    text_heads: Layers = 4
    text_length: Size = 64  # tokens, [SOS] and [EOS] included

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.width % self.heads or self.text_width % self.text_heads or self.image_size % self.patch_size:
            raise Open4MError(
                "SmallCLIP: expected widths that are multiples of their heads, and an image_size that is one of "
                f"patch_size, got {self}"
            )


def small_clip(tokenizer: Tokenizer, config: SmallCLIP = SmallCLIP(), seed: int = 0) -> CLIPModel:
    """An untrained ``CLIPModel`` for the tokenizer of :func:`fit_text_tokenizer`; ``seed`` determines its weights."""
    config_class, model_class = _transformers()
    padding, _, start, end = (tokenizer.token_to_id(token) for token in SPECIAL_TOKENS)
    text = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": config.text_width,
        "intermediate_size": 4 * config.text_width,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": config.text_heads,
        "max_position_embeddings": config.text_length,
        "projection_dim": config.projection,
        "pad_token_id": padding,
        "bos_token_id": start,
        "eos_token_id": end,
    }
    vision = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "projection_dim": config.projection,
    }
    with torch.random.fork_rng(devices=[]):  # modules initialize themselves from the global generator: give it back
        torch.manual_seed(seed)
        model = model_class(config_class(text_config=text, vision_config=vision, projection_dim=config.projection))
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.weight.mul_(POSITION_GAIN)
    return model


def fit_text_tokenizer(captions: Iterable[str], vocabulary: int = 1024) -> Tokenizer:
    """A lower-case WordPiece tokenizer of captions with at most ``vocabulary`` tokens: [SOS] pieces [EOS].

    Its pieces are all characters of the captions, which spell unknown words, then the most frequent words. Equal
    captions give equal tokenizers, which the trainers of the library ``tokenizers`` do not guarantee.
    """
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(caption)))
    letters = sorted(set("".join(counts)))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    pieces = list(dict.fromkeys([*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), *words]))
    vocab = {piece: index for index, piece in enumerate(pieces[:vocabulary])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    ends = [(token, vocab[token]) for token in ("[SOS]", "[EOS]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[SOS] $A [EOS]", special_tokens=ends)
    return tokenizer


def _transformers() -> tuple[type[CLIPConfig], type[CLIPModel]]:
    """The two classes of ``transformers`` that we use, without importing all of it, which would take seconds."""
    try:
        from transformers.models.clip.configuration_clip import CLIPConfig
        from transformers.models.clip.modeling_clip import CLIPModel
    except ImportError as error:
        raise Open4MError(f"CLIP needs transformers ({error}); install it: pip install 'open4m[labellers]'") from error
    return CLIPConfig, CLIPModel


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep ``transformers`` from drawing a progress bar while it reads or writes a file."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _normalization(text: str, where: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of the three colors, from the JSON of a preprocessor; CLIP's own where it says none."""
    found = files.parse_json(text, where)
    if not isinstance(found, dict):
        raise Open4MError(f"{where}: expected an object, got {type(found).__name__}")
    mean, std = (found.get(name, own) for name, own in (("image_mean", MEAN), ("image_std", STD)))
    for numbers in (mean, std):
        if not isinstance(numbers, list | tuple) or len(numbers) != 3 or not all(map(_is_finite, numbers)):
            raise Open4MError(f"{where}: expected three numbers as image_mean and three as image_std")
    if min(std) <= 0:
        raise Open4MError(f"{where}: image_std is above 0, got {min(std)}")
    return mean, std


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and math.isfinite(number)


def _text(source: str | Path, name: str, default: str | None = None) -> str:
    """The text of a model's file, in a folder or on the hub; ``default`` if the model has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = Path(source) / name if Path(source).is_dir() else Path(hf_hub_download(str(source), name))
    except EntryNotFoundError:
        path = Path(source) / name
    if path.exists():
        return files.read_bytes(path, word_files.LARGEST).decode()
    if default is None:
        raise Open4MError(f"{source}: this CLIP has no {name}")
    return default


LABELLER = CLIPLabeller
