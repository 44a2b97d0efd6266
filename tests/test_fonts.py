"""Letters in pictures: which font a text is drawn with, and what becomes of letters that no font has."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from open4m import fonts, modalities
from open4m.fonts import lettered, wrapped
from open4m.modalities import caption
from open4m.modalities.boxes import draw_boxes
from open4m.types import Boxes, Open4MError


@pytest.fixture
def bare(monkeypatch):
    """A machine with no other font than Pillow's own."""
    monkeypatch.setattr(fonts, "_names", lambda: iter([""]))
    fonts._say_missing.cache_clear()


def drawn(text, font):
    image = Image.new("L", (400, 40))
    ImageDraw.Draw(image).text((4, 4), text, fill=255, font=font)
    return np.asarray(image)


def test_a_text_of_ascii_keeps_the_font_of_all_pictures():
    text, font = lettered("a red cone (5%)", 16)
    assert text == "a red cone (5%)"
    assert font.getname() == lettered("other words", 16)[1].getname()


@pytest.mark.parametrize("text", ["naïve café", "größer – 3€", "Ракета на старте", "→ ≥ ×", "\n é \n"])
def test_letters_are_drawn_that_the_usual_font_lacks(text):
    said, font = lettered(text, 16)
    assert said == text
    letters = sorted(set(text) - {" ", "\n"})
    assert len({drawn(letter, font).tobytes() for letter in letters}) == len(letters)
    assert all(drawn(letter, font).tobytes() != drawn(fonts.NO_LETTER, font).tobytes() for letter in letters)


def test_without_another_font_letters_are_spelled_without_accents_or_stand_as_boxes(bare, caplog):
    caplog.set_level("WARNING", logger="open4m")
    assert lettered("naïve café, größer — Ærø → 3€\u200d", 16)[0] == "naive cafe, grosser - AEro -> 3EUR"
    assert not caplog.messages
    text, font = lettered("ぬ cat", 16)
    assert text == "ぬ cat"
    assert (drawn("ぬ", font) == drawn(fonts.NO_LETTER, font)).all()
    assert lettered("ぬね", 16)[0] == "ぬね"
    assert caplog.messages == [
        "pictures: no font here has HIRAGANA letters: name a file of one that does, OPEN4M_FONT=FONT.ttf"
    ]


def test_a_font_of_the_users_is_the_first_and_has_to_be_one(monkeypatch, tmp_path):
    chosen = fonts._bundled()
    monkeypatch.setenv(fonts.VARIABLE, chosen)
    assert lettered("a red cone", 16)[1].path == chosen
    (tmp_path / "no.ttf").write_text("no font")
    monkeypatch.setenv(fonts.VARIABLE, str(tmp_path / "no.ttf"))
    with pytest.raises(Open4MError, match=r"OPEN4M_FONT=.*no\.ttf: not a font"):
        lettered("a", 16)


@pytest.mark.parametrize("text", ["words of a caption in lines", "cats_01-b8a4c6f2_long_key", "網膜の写真" * 9])
def test_lines_fit_and_lose_nothing(text):
    lines, font = wrapped(text, 14, 90)
    assert len(lines.split("\n")) > 1
    assert all(font.getlength(line) <= 90 for line in lines.split("\n"))
    assert "".join(lines.split()) == "".join(text.split())


def test_what_users_write_is_drawn_wherever_it_stands(monkeypatch):
    """Captions, classes of boxes and of maps: none of them asks for letters that its font lacks."""
    asked = []
    spy = fonts.lettered
    for module in ("open4m.fonts", "open4m.pictures", "open4m.modalities.boxes"):
        monkeypatch.setattr(f"{module}.lettered", lambda text, points: asked.append(text) or spy(text, points))
    boxes = Boxes(np.array([[0.1, 0.1, 0.9, 0.9]], np.float32), ("Fußgänger",))
    modalities.get("boxes").render(boxes, 64)
    modalities.get("caption").render("naïve", 64)
    semseg = modalities.get("semseg")
    semseg.legend(semseg.style([np.zeros((8, 8), np.uint8)], ("Straße",), ()), 64)
    assert {"Fußgänger", "naïve", "Straße"} <= set(asked)


def test_a_label_of_a_box_at_the_edge_stays_in_the_picture():
    """As much of it is above its box as elsewhere, however far to the right the box begins."""
    amounts = []
    for left in (0.2, 0.95):
        box = Boxes(np.array([[left, 0.5, left + 0.04, 0.9]], np.float32), ("space shuttle",))
        drawn = np.asarray(draw_boxes(Image.new("RGB", (200, 100), "white"), box))
        amounts.append(int((drawn[:50] != 255).any(-1).sum()))
    assert amounts[0] == amounts[1] > 500


@pytest.mark.parametrize("size", [96, 1024])
@pytest.mark.parametrize("text", ["a b " * 32_000, "x" * 130_000])
def test_a_picture_of_a_text_without_end_is_laid_out_a_few_times(monkeypatch, text, size):
    """Anyone may send one to the service: it costs what a page of letters does."""
    laid_out = []

    def counted(words, *how):
        laid_out.append(len(words))
        return fonts.wrapped(words[:100], *how)

    monkeypatch.setattr(caption, "wrapped", counted)
    assert caption.draw_text(text, size).size == (size, size)
    assert sum(laid_out) <= 10 * caption.MOST_DRAWN


def test_a_picture_of_a_text_has_the_largest_letters_that_fit(monkeypatch):
    points = []

    def seen(words, size, width):
        points.append(size)
        return fonts.wrapped(words, size, width)

    monkeypatch.setattr(caption, "wrapped", seen)
    for words in ("a", "a red cube " * 4, "a red cube " * 40):
        image = np.asarray(caption.draw_text(words, 256))
        chosen = points[-1]
        assert (image[:, 241:] == 255).all()
        assert (image[241:] == 255).all()
        larger = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        lines, font = fonts.wrapped(words, chosen + 1, 256 - 32)
        assert chosen == 25 or larger.multiline_textbbox((16, 16), lines, font=font)[3] > 240
