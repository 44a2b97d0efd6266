"""What is seen while something is made, and what can be done with it: passes, cancelling, replays, links, exploring."""

import re

import numpy as np
import pytest
from browsing import Studio, picture_of
from serving import serving, wait
from small_upscaler import saved

from open4m.generate.pipeline import FourM
from open4m.hub.parts import Chosen

pytestmark = pytest.mark.xdist_group("browser")


def heavy(user, samples=1000):
    """Ask for so much that it ends only if it is stopped."""
    user.tab("How")
    user.page.get_by_label("Samples", exact=True).fill(str(samples))
    user.turn("depth", "made")


def key_of(user):
    return re.search(r"#r=(\w+)", user.page.url)[1]


def test_passes_arrive_one_by_one_and_unknown_cells_are_veiled(user):
    user.page.evaluate(
        """() => {
            window.veiled = [];
            new MutationObserver(() => {
                const veil = document.querySelector('.focus canvas.veil');
                if (!document.querySelector('.focus [data-test=pass]')) return;
                const data = veil ? veil.getContext('2d').getImageData(0, 0, veil.width, veil.height).data : [];
                window.veiled.push([...data].filter((one, i) => i % 4 === 3 && one > 0).length);
            }).observe(document.querySelector('.result'), {subtree: true, childList: true, attributes: true});
        }"""
    )
    user.tab("How")
    user.page.get_by_label("Steps", exact=True).fill("8")
    user.make()
    veiled = user.page.evaluate("window.veiled")
    assert veiled[0] > veiled[-1]
    assert sorted(veiled, reverse=True) == veiled  # what is known stays known
    assert user.find(".focus canvas.veil").count() == 0


def test_the_passes_of_a_result_can_be_seen_again(user):
    user.make()
    last = user.shot()
    user.page.get_by_label("Pass", exact=True).fill("0")
    assert user.find("[data-test=focus] canvas.veil").count() == 1
    assert not np.array_equal(user.shot(), last)
    user.press("Passes ▸")
    user.page.wait_for_selector("[data-test=result]")
    user.page.wait_for_timeout(50)
    assert np.array_equal(user.shot(), last)


def test_progress_is_said_to_those_who_do_not_see_it_in_place_of_the_first_hint(user):
    assert "Drag a box" in user.status()
    user.page.evaluate(
        """() => {
            window.said = [];
            new MutationObserver(() => {
                const status = document.querySelector('[role=status][aria-live=polite]');
                if (status) window.said.push(status.textContent);
            }).observe(document.querySelector('.result'), {subtree: true, childList: true, characterData: true});
        }"""
    )
    user.make()
    assert any(re.fullmatch(r"rgb: pass \d+ of \d+", line) for line in user.page.evaluate("window.said"))
    assert user.page.get_by_text("Drag a box, or paint").count() == 0


def test_escape_cancels_what_is_being_made(user, service):
    heavy(user)
    before = service.worker.status()["cancelled"]
    user.find(".makebar .primary").click()
    user.page.get_by_role("button", name="Cancel").wait_for()
    user.page.wait_for_function(
        "() => /pass|Started|Waiting/.test(document.querySelector('.result .status').textContent)"
    )
    user.page.keyboard.press("Escape")
    user.page.get_by_role("button", name="Make").wait_for()
    wait(lambda: service.worker.status()["cancelled"] == before + 1)
    wait(lambda: service.worker.status()["running"] == 0)
    assert user.find(".notice").count() == 0


def test_escape_closes_the_help_and_what_is_made_goes_on(user, service):
    heavy(user)
    before = service.worker.status()["cancelled"]
    user.find(".makebar .primary").click()
    user.press("Keys and help")
    user.page.keyboard.press("Escape")
    user.page.wait_for_selector("dialog", state="detached")
    assert user.page.get_by_role("button", name="Cancel").is_visible()
    user.page.keyboard.press("Escape")
    user.page.get_by_role("button", name="Make").wait_for()
    wait(lambda: service.worker.status()["cancelled"] == before + 1)


def test_escape_before_the_service_has_answered_leaves_no_job_behind(user, service):
    heavy(user)
    before = service.worker.status()["cancelled"]
    held = []
    user.page.route("**/api/jobs?*", lambda route: held.append(route))  # Playwright takes no built-in function
    user.find(".makebar .primary").click()
    wait(lambda: held or user.page.wait_for_timeout(10))
    user.page.keyboard.press("Escape")
    user.page.get_by_role("button", name="Make").wait_for()
    held[0].continue_()  # the service hears of it only now
    wait(lambda: user.page.wait_for_timeout(10) or service.worker.status()["cancelled"] == before + 1)
    assert service.worker.status()["running"] == 0
    assert user.find(".progress.on").count() == 0


def test_a_replay_is_the_same_picture_to_the_pixel(user):
    first = user.make()
    picture = user.shot()
    user.result_of(lambda: user.press("Another"))
    assert not np.array_equal(user.shot(), picture)
    user.tab("History")
    user.find(".history button").last.click()
    again = user.result_of(lambda: user.press("Replay"))
    assert user.jobs[-1] == first["recipe"]["request"]
    assert user.jobs[-1]["fingerprint"]
    user.page.wait_for_timeout(50)
    assert np.array_equal(user.shot(), picture)
    targets = [result["results"][0]["targets"]["rgb"] for result in (first, again)]
    assert targets[0]["tokens"] == targets[1]["tokens"]
    assert user.find(".history button").count() == 3


def test_a_link_opens_the_same_request(user, browser, service):
    user.edit("rgb")
    user.click(0.5, 0.5)
    user.page.get_by_label("Weigh caption").check()
    result = user.make()
    other = Studio(browser, service.url).open(f"#r={key_of(user)}")
    try:
        other.page.wait_for_selector("[data-modality=rgb].part")
        assert other.uses() == user.uses()
        again = other.make()
        assert other.jobs == [result["recipe"]["request"]]
        made = [one["results"][0]["targets"]["rgb"]["tokens"] for one in (result, again)]
        assert made[0] == made[1]
        assert np.array_equal(other.shot(), user.shot())
        other.page.get_by_label("Weigh caption").uncheck()  # from here on it is a request of its own
        other.make()
        assert "weights" not in other.jobs[-1]
        assert "fingerprint" not in other.jobs[-1]
        assert other.jobs[-1]["given"]["rgb"]["mask"] == user.jobs[-1]["given"]["rgb"]["mask"]
        assert other.errors == []
    finally:
        other.close()


def test_the_result_of_a_link_can_be_restored_after_other_work(user):
    user.edit("caption")
    user.page.get_by_label("caption", exact=True).fill("a red cone")
    user.make()
    user.page.get_by_label("caption", exact=True).fill("a blue ball")
    user.press("Restore")
    user.page.wait_for_function("() => document.querySelector('textarea')?.value === 'a red cone'")
    user.press("Undo")
    assert user.page.get_by_label("caption", exact=True).input_value() == "a blue ball"


def test_two_users_have_results_of_their_own(user, browser, service):
    other = Studio(browser, service.url).open()
    try:
        for one, text in ((user, "a red cone"), (other, "a blue ball")):
            one.edit("caption")
            one.page.get_by_label("caption", exact=True).fill(text)
        for one in (user, other):
            one.find(".makebar .primary").click()
        for one in (user, other):
            one.page.wait_for_selector("[data-test=result]")
            one.tab("History")
            assert one.find(".history button").count() == 1
        assert [one.jobs[0]["given"]["caption"]["text"] for one in (user, other)] == ["a red cone", "a blue ball"]
        assert key_of(user) != key_of(other)
        assert other.errors == []
    finally:
        other.close()


def test_uncertainty_lies_over_the_picture_with_what_its_colors_mean(user):
    result = user.make()
    plain = user.shot()
    user.press("Uncertainty")
    user.page.wait_for_selector("[data-test=heat]")
    numbers = np.array(result["results"][0]["targets"]["rgb"]["entropy"], dtype=float)
    assert f"{np.nanmax(numbers):.1f} nats" in user.find(".legend").inner_text()
    seen = user.page.evaluate(
        """() => { const one = document.querySelector('[data-test=heat]');
            return [one.width, one.height, ...one.getContext('2d').getImageData(0, 0, one.width, one.height).data]; }"""
    )
    assert seen[:2] == [4, 4]
    brightness = np.array(seen[2:]).reshape(4, 4, 4)[..., :3].sum(-1)
    assert brightness.flat[np.nanargmax(numbers)] == brightness.max()
    assert brightness.flat[np.nanargmin(numbers)] == brightness.min()
    assert not np.array_equal(user.shot(), plain)
    user.press("Uncertainty")
    assert np.array_equal(user.shot(), plain)


@pytest.mark.parametrize("name", ["caption", "boxes"])
def test_uncertainty_of_words_is_the_color_that_each_stands_on(user, name):
    user.turn("rgb", "unused")
    user.turn(name, "made")
    own = user.make()["results"][0]["targets"][name]
    user.press("Uncertainty")
    seen = user.page.eval_on_selector_all(
        ".focus .word",
        """all => all.map(one => [one.textContent, getComputedStyle(one).backgroundColor, getComputedStyle(one).color]
            .map((text, i) => i ? text.match(/[0-9.]+/g).map(Number) : text))""",
    )
    assert [word for word, _, _ in seen] == own["words"]
    numbers = np.array(own["entropy"], dtype=float)
    assert f"{np.nanmax(numbers):.1f} nats" in user.find(".legend").inner_text()
    assert [len(color) == 3 for _, color, _ in seen] == [not unsaid for unsaid in np.isnan(numbers)]  # or transparent
    brightness = np.array([sum(color) for _, color, _ in seen], dtype=float)
    brightness[np.isnan(numbers)] = np.nan
    assert brightness[np.nanargmax(numbers)] == np.nanmax(brightness)
    assert brightness[np.nanargmin(numbers)] == np.nanmin(brightness)
    assert all(abs(sum(color) - sum(ink)) > 200 for _, color, ink in seen if len(color) == 3)


def test_variations_share_what_was_chosen(user):
    user.tab("Explore")
    user.page.get_by_role("checkbox", name="normals").uncheck()
    user.page.get_by_role("checkbox", name="depth").check()
    user.page.get_by_label("samples", exact=True).fill("3")
    result = user.result_of(lambda: user.press("Vary"))
    own = user.jobs[-1]
    assert (own["verb"], own["by"], own["targets"], own["samples"]) == ("vary", ["depth"], ["rgb"], 3)
    assert own["given"].keys() == {"rgb"}
    assert len(result["results"]) == user.find(".strips .tile").count() == 3


def test_a_picture_is_made_larger_by_a_model_that_has_a_second_one(browser, tiny, tmp_path):
    saved(tiny, tmp_path)
    both = FourM.from_pretrained(tmp_path / "first", chosen=Chosen(super_resolution=tmp_path / "second"))
    with serving(both) as service:
        user = Studio(browser, service.url).open()
        try:
            user.tab("How")
            user.page.get_by_label("upscale: rgb@64", exact=False).check()
            user.turn("depth", "made")
            result = user.make()
            assert user.jobs[-1]["upscale"]
            targets = result["results"][0]["targets"]
            grids = {name: one["grid"] for name, one in targets.items()}
            assert grids == {"rgb": [4, 4], "depth": [4, 4], "rgb@64": [8, 8], "depth@64": [8, 8]}
            user.page.get_by_role("button", name="rgb at 64, seed 0").click()
            large = user.shot()
            user.press("Uncertainty")
            assert user.find("[data-test=heat]").evaluate("one => [one.width, one.height]") == [8, 8]
            again = user.result_of(lambda: user.press("Replay"))["results"][0]["targets"]
            assert {name: one["tokens"] for name, one in again.items()} == {
                name: one["tokens"] for name, one in targets.items()
            }
            assert picture_of(targets["rgb@64"]["value"]).shape == (64, 64, 3)
            assert large.std() > 1
            assert user.errors == []
        finally:
            user.close()


def test_a_picture_is_painted_beyond_its_edges(user):
    user.tab("Explore")
    user.page.get_by_label("size", exact=False).last.fill("0.5")
    result = user.result_of(lambda: user.press("Outpaint"))
    own = user.jobs[-1]
    assert (own["verb"], own["box"], own["targets"]) == ("outpaint", [0.25, 0.25, 0.75, 0.75], ["rgb"])
    before, after = picture_of(own["given"]["rgb"]), picture_of(result["results"][0]["targets"]["rgb"]["value"])
    small = before.reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(after[8:24, 8:24] - small).mean() < 5  # in the middle it is as it was
    assert np.abs(after[:8].astype(float) - after[:8].mean((0, 1))).mean() > 2
    user.press("Use as given")
    user.page.wait_for_selector("[data-modality=rgb].given")
    uses = user.uses()  # boxes and maps were those of the smaller picture
    assert {name for name, use in uses.items() if use == "given"} == {"rgb", "caption"}
    user.turn("depth", "made")
    user.make()
    assert user.jobs[-1]["given"].keys() == {"rgb", "caption"}


def test_another_of_restored_variations_is_variations_and_not_a_picture_of_nothing(user):
    user.tab("Explore")
    user.page.get_by_role("checkbox", name="normals").uncheck()
    user.page.get_by_role("checkbox", name="depth").check()
    user.result_of(lambda: user.press("Vary"))
    first = user.jobs[-1]
    user.press("Restore")
    user.page.get_by_text("Make the vary").wait_for()
    user.result_of(lambda: user.press("Another"))
    own = user.jobs[-1]
    assert (own["verb"], own["by"], own["samples"]) == ("vary", ["depth"], first["samples"])
    assert own["seed"] == first["seed"] + first["samples"]
    assert own["given"].keys() == {"rgb"}
    user.turn("depth", "made")  # what is no setting of it begins a request of another kind
    user.make()
    assert user.jobs[-1]["verb"] == "generate"


def test_a_setting_of_restored_variations_is_one_of_them_and_asks_for_nothing_else(user):
    """They were a picture made of nothing as soon as anything but the seed was said anew."""
    user.tab("Explore")
    user.page.get_by_role("checkbox", name="normals").uncheck()
    user.page.get_by_role("checkbox", name="depth").check()
    user.result_of(lambda: user.press("Vary"))
    user.press("Restore")
    user.page.get_by_text("Make the vary").wait_for()
    user.tab("How")
    user.page.get_by_label("Temperature", exact=True).fill("0.5")
    user.page.get_by_role("combobox", name="For", exact=True).select_option("rgb")
    user.page.get_by_label("Steps", exact=True).fill("2")
    user.tab("Conditions")
    user.press("Add")
    user.page.get_by_label("Avoid 1").fill("a ball")
    result = user.make()
    own = user.jobs[-1]
    assert (own["verb"], own["by"], own["given"].keys()) == ("vary", ["depth"], {"rgb"})
    assert own["options"] == {"temperature": 0.5, "rgb": {"steps": 2}}
    assert own["avoid"] == ["a ball"]
    step = result["results"][0]["targets"]["rgb"]["step"]
    assert (step["temperature"], step["steps"]) == (0.5, 2)


def test_a_probe_runs_through_places_weights_classes_and_texts(user):
    user.tab("Explore")
    choose = lambda name, value: user.page.get_by_role("combobox", name=name, exact=True).select_option(value)  # noqa: E731
    choose("Of", "boxes")
    user.page.get_by_label("Steps").fill("3")
    user.result_of(lambda: user.press("Probe"))
    sweep = user.jobs[-1]["sweep"]
    lefts = [box[0] for box in sweep["to"]]
    rights = [box[2] for box in sweep["to"]]
    assert (user.jobs[-1]["of"], len(lefts)) == ("boxes", 3)
    assert np.allclose([lefts[0], rights[-1]], [0, 1])
    assert np.allclose(np.diff(lefts)[0], np.diff(lefts)[1])
    assert user.find(".strips .tile").count() == 3
    choose("Along", "weights")
    user.result_of(lambda: user.press("Probe"))
    assert user.jobs[-1]["sweep"] == {"weights": [0, 2, 4]}
    choose("Of", "caption")
    choose("Along", "texts")
    user.page.get_by_label("One a line").fill("a red cone\n\n a blue ball ")
    user.result_of(lambda: user.press("Probe"))
    assert user.jobs[-1]["sweep"] == {"values": [{"text": "a red cone"}, {"text": "a blue ball"}]}
    choose("Of", "semseg")
    choose("Of which", "floor")
    user.page.get_by_label("Steps").fill("2")
    user.result_of(lambda: user.press("Probe"))
    assert user.jobs[-1]["sweep"]["swap"] == "floor"
    assert user.jobs[-1]["sweep"]["to"][0] == "floor"  # the first is the map as it is


def test_everything_that_can_be_saved_is_there(user):
    result = user.make()
    links = user.page.eval_on_selector_all(".result a[download]", "all => all.map(one => one.href)")
    kinds = {user.page.request.get(link).headers["content-type"] for link in links}
    assert kinds == {"application/octet-stream", "image/png", "application/zip", "application/json"}
    command = user.page.get_by_role("button", name="Command line", exact=True)
    assert "All as ZIP" in command.get_attribute("title")  # the boxes are in a file
    user.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for name, expected in (
        ("Copy link", f"#r={result['recipe']['key']}"),
        ("Python", result["recipe"]["python"]),
        ("Command line", "open4m generate"),
    ):
        user.press(name)
        wait(lambda expected=expected: expected in user.page.evaluate("navigator.clipboard.readText()"))
