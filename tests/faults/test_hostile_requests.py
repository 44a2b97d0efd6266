"""Faults 24 and 25: requests that make no sense, and inputs of any size."""

import io
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image
from small_model import image, model

from open4m.datasets import captions
from open4m.tokenizers import text as texts
from open4m.types import Open4MError

__all__ = ["image", "model"]

SENSELESS = {
    "an unknown modality": (["dpeth"], {}, "unknown modality 'dpeth'; did you mean depth"),
    "no target": ([], {}, "target"),
    "no steps": (["depth"], {"steps": 0}, "steps"),
    "a billion steps": (["depth"], {"steps": 10**9}, "steps"),
    "guidance that is no number": (["depth"], {"guidance": float("nan")}, "guidance"),
    "a negative temperature": (["depth"], {"temperature": -1.0}, "temperature"),
    "no samples": (["depth"], {"top_k": -3}, "top_k"),
    "a scheme that there is not": (["depth"], {"scheme": "rorr"}, "scheme"),
    "a seed that is none": (["depth"], {"seed": -1}, "seed"),
}


@pytest.mark.parametrize("name", SENSELESS)
def test_fault_24_the_error_names_the_field_and_what_is_allowed(model, image, name):
    targets, options, message = SENSELESS[name]
    with pytest.raises(Open4MError, match=message):
        model.generate({"rgb": image}, targets, **options)


def test_fault_24_a_direction_that_was_not_trained_is_refused(model, image):
    normals = model.generate({"rgb": image}, ["normals"], steps=1)["normals"]
    with pytest.raises(Open4MError, match=r"normals: this model was not trained to read it \(inputs: .*depth"):
        model.generate({"normals": normals}, ["depth"])


LIMITED = """
import resource, sys, time
import torch
from open4m.tokenizers.text import TextTokenizer

tokenizer = TextTokenizer.fit(["a red cube on a blue ball"], ["cube"], vocab_size=4500, sentinels=12)
text = {text}
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
ids = tokenizer.encode_text(text)
print(len(ids), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held, time.process_time() - began)
"""

LONG = {"words": '"red cube " * 2_500_000', "one word": '"a" * 20_000_000', "spaces": '" " * 20_000_000 + "red"'}


@pytest.mark.parametrize("kind", LONG)
def test_fault_25_a_text_of_20_mb_takes_bounded_memory_and_time(kind):
    code = LIMITED.format(text=LONG[kind])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    _, kib, seconds = map(float, done.stdout.split())
    assert kib < 256 << 10
    assert seconds < 10


def test_fault_25_a_text_is_read_up_to_the_same_place_everywhere(model):
    whole = "red cube " * (texts.MOST_CHARACTERS // 9 + 1)
    assert model.text.encode_text(whole + "blue ball" * 99) == model.text.encode_text(whole)
    (counted,) = {model.text.coverage([whole]).tokens}
    assert counted == len(model.text.encode_text(whole))


def test_fault_25_a_corpus_of_one_line_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(captions, "LONGEST_LINE", 11)
    (tmp_path / "corpus.txt").write_bytes("ein roter Würfel\r\nzwei".encode())
    parts = list(captions.read([tmp_path / "corpus.txt"]))
    assert parts == ["ein roter W", "ürfel", "zwei"]


@pytest.mark.parametrize("data", [b"a\n\xff\n", b"a\nb\xc3", b"a\nb\xc3\n", b"a\n" + b"b" * 20 + b"\xff"])
@pytest.mark.parametrize("length", [3, 1 << 24])
def test_fault_25_lines_that_are_no_text_are_named_wherever_they_are_cut(tmp_path, monkeypatch, data, length):
    monkeypatch.setattr(captions, "LONGEST_LINE", length)
    (tmp_path / "corpus.txt").write_bytes(data)
    with pytest.raises(Open4MError, match=r"corpus\.txt: line 2: not UTF-8 text"):
        list(captions.read([tmp_path / "corpus.txt"]))


def test_fault_25_a_small_file_that_claims_to_be_a_huge_image_is_refused_before_it_is_decoded(model):
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    small = buffer.getvalue()
    header = b"IHDR" + struct.pack(">II", 100_000, 100_000) + small[24:29]
    bomb = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    for name in ("rgb", "semseg"):
        with pytest.raises(Open4MError, match=rf"{name}: .*(100000x100000|10000000000) pixels"):
            model.modalities[name].read(bomb)
