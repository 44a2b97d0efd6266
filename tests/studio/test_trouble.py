"""What goes wrong is said beside what caused it, with what to do; nobody is left out: keyboards, themes, readers."""

import base64
import json
import socket

import numpy as np
import pytest
from browsing import REQUIRED, SIZE, Studio, png, program
from serving import serving
from small_model import made

pytestmark = pytest.mark.xdist_group("browser")


def told(user, within=".notice"):
    user.page.wait_for_selector(within)
    return user.find(within).first.inner_text()


def test_a_file_that_is_no_picture_is_said_at_the_button_that_opens_files(user):
    user.drop("main", "notes.txt", b"nothing to see", "text/plain")
    text = told(user, ".topbar .notice")
    assert "notes.txt" in text
    assert "Choose a picture (PNG, JPEG, WebP)" in text
    assert user.use("rgb") == "made"  # nothing changed
    user.press("Dismiss")
    assert user.find(".notice").count() == 0
    user.errors.clear()  # Chromium logs every status of 400


def test_an_empty_file_is_said_to_be_empty(user):
    user.drop("main", "nothing.png", b"", "image/png")
    assert "nothing.png is empty." in told(user, ".topbar .notice")
    assert not [url for url in user.asked if url.endswith("/api/value")]


def test_of_several_files_it_is_said_which_was_opened(user):
    handle = user.page.evaluate_handle(
        """text => {
            const found = new DataTransfer();
            for (const name of ['one.png', 'two.png']) {
                found.items.add(new File([Uint8Array.from(atob(text), one => one.charCodeAt(0))], name));
            }
            return found;
        }""",
        base64.b64encode(png(np.zeros((32, 32, 3), dtype=np.uint8))).decode(),
    )
    user.find("main").dispatch_event("drop", {"dataTransfer": handle})
    assert "Only one.png was opened, the first of 2" in told(user, ".topbar .notice")
    assert user.use("rgb") == "given"


def test_what_went_wrong_is_scrolled_to_where_it_is_not_seen(user):
    user.page.set_viewport_size({"width": 400, "height": 500})
    user.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    user.drop("main", "nothing.png", b"", "image/png")
    told(user, ".topbar .notice")
    user.page.wait_for_function(
        """() => {
            const { top, bottom } = document.querySelector('.topbar .notice').getBoundingClientRect();
            return top >= 0 && bottom <= innerHeight;
        }"""
    )


def test_a_request_that_cannot_be_restored_is_said_beside_the_result(user):
    user.make()
    refused = {"status": 400, "content_type": "application/json", "body": '{"error": "it is not taken", "hint": ""}'}
    user.page.route("**/api/value", lambda route: route.fulfill(**refused))
    user.press("Restore")
    assert "it is not taken" in told(user, ".result .notice")
    user.errors.clear()


def test_a_file_that_the_server_has_forgotten_is_said_to_be_made_again_by_a_replay(user, service):
    """Browsers would save the refusal, or a file that failed, and not say why."""
    result = user.make()
    names = ("PNG", "Value", "All as ZIP", "Record", "Overview")

    def saved(name):
        with user.page.expect_download() as found:
            user.page.get_by_role("link", name=name, exact=True).click()
        return found.value.suggested_filename

    kept = ["rgb-0.png", "rgb.png", "ID.zip", "record.json", "ID.png"]
    assert [saved(name).replace(result["id"], "ID") for name in names] == kept
    service.ask("DELETE", f"/api/jobs/{result['id']}")
    for name in names:
        user.page.get_by_role("link", name=name, exact=True).click()
        assert "Press Replay" in told(user, ".result .notice")
        user.press("Dismiss")
    user.result_of(lambda: user.press("Replay"))
    assert saved("Value") == "rgb.png"
    user.errors.clear()


def test_what_other_weights_made_can_be_made_of_these(user):
    def of_others(route):
        answer = route.fetch()
        result = answer.json()
        result["recipe"]["request"]["fingerprint"] = "0123456789abcdef"
        route.fulfill(response=answer, json=result)

    user.page.route("**/result", of_others, times=1)
    user.make()
    user.press("Replay")
    assert "other weights" in told(user, ".result .notice")
    assert len(user.jobs) == 1
    user.press("Restore")
    user.page.wait_for_selector(".result .notice", state="detached")
    user.make()
    assert "fingerprint" not in user.jobs[-1]


def test_a_request_that_fails_is_said_at_the_button_that_makes(user):
    user.edit("caption")
    user.page.get_by_label("caption", exact=True).fill("word " * 400)
    user.find(".makebar .primary").click()
    text = told(user, ".makebar .notice")
    assert "caption" in text
    assert "less" in text
    user.page.get_by_label("caption", exact=True).fill("a red cone")
    user.make()
    assert user.find(".notice").count() == 0
    user.errors.clear()


def test_what_went_wrong_with_what_is_replaced_is_not_said_any_more(user):
    user.edit("caption")
    user.page.get_by_label("caption", exact=True).fill("word " * 400)
    user.find(".makebar .primary").click()
    told(user, ".makebar .notice")
    user.drop("main", "mine.png", png(np.zeros((32, 32, 3), dtype=np.uint8)), "image/png")
    user.page.wait_for_selector("[data-modality=rgb].given")
    assert user.find(".notice").count() == 0
    user.errors.clear()


def test_buttons_that_can_do_nothing_yet_say_why(user):
    user.tab("Explore")
    user.page.get_by_role("combobox", name="Of", exact=True).select_option("caption")
    probe, vary = (user.page.get_by_role("button", name=name, exact=True) for name in ("Probe", "Vary"))
    assert probe.is_disabled()
    assert "Write two texts" in user.find(".side").inner_text()
    user.page.get_by_label("One a line").fill("a cone\na ball")
    assert probe.is_enabled()
    user.page.get_by_role("checkbox", name="normals").uncheck()
    assert vary.is_disabled()
    assert "Check what they share" in user.find(".side").inner_text()
    user.page.get_by_role("checkbox", name="depth").check()
    assert vary.is_enabled()
    user.tab("How")
    user.page.get_by_label("Samples", exact=True).fill("1000")
    user.find(".makebar .primary").click()
    user.page.get_by_role("button", name="Cancel").wait_for()
    user.tab("Explore")
    assert all(button.is_disabled() for button in (probe, vary))  # one job at a time
    user.page.keyboard.press("Escape")
    user.page.get_by_role("button", name="Make").wait_for()
    assert probe.is_enabled()


def test_nothing_to_make_says_how_to_choose_something(user):
    user.turn("rgb", "unused")
    user.page.keyboard.press("Control+Enter")
    assert "Click the state of a modality" in told(user, ".makebar .notice")
    assert user.jobs == []


def test_what_is_no_json_is_said_in_the_editor_of_other_values_with_what_is_some(browser, symbols):
    user = Studio(browser, symbols.url).open()
    try:
        for name, text, hint in (("color_palette", "#ff0080", '["#ff0080", "#00a2ff"]'), ("metadata", "{", "width")):
            user.edit(name)
            field = user.page.get_by_label("As JSON")
            field.fill(text)
            user.press("Give it")
            assert "This is no JSON" in told(user, ".editor .notice")
            assert hint in told(user, ".editor .notice")
            field.fill(field.get_attribute("placeholder"))  # what it proposes is taken
            user.press("Give it") if name == "metadata" else user.edit("caption")  # or when it is left
            user.page.wait_for_selector(f"[data-modality={name}].given")
            assert user.find(".notice").count() == 0
        assert user.errors == []
    finally:
        user.close()


def test_a_full_service_is_asked_again_when_it_says(user):
    refusals = [1]

    def full(route):
        if route.request.method == "POST" and refusals:
            refusals.pop()
            body = json.dumps({"error": "32 jobs wait already", "hint": ""})
            return route.fulfill(
                status=503, headers={"retry-after": "1", "content-type": "application/json"}, body=body
            )
        return route.continue_()

    user.page.route("**/api/jobs?*", full)
    user.find(".makebar .primary").click()
    user.page.get_by_text("trying again in 1 s").wait_for()
    user.page.wait_for_selector("[data-test=result]")
    assert len(user.jobs) == 2
    user.errors.clear()


def test_a_model_that_knows_no_scenes_begins_with_an_empty_page_that_says_what_to_do(browser, context):
    with serving(made(words=64)) as service:
        user = Studio(browser, service.url, context)
        try:
            user.page.goto(service.url)
            user.page.wait_for_selector(".card")
            assert user.page.get_by_role("button", name="New scene").count() == 0
            assert "Open a picture" in user.status()
            assert "No rgb yet: open a file" in user.find(".editor").inner_text()
            user.edit("boxes")
            user.press("Add box")
            user.edit("caption")
            user.page.get_by_label("caption", exact=True).fill("a red cube")
            user.make()
            assert user.jobs[-1]["targets"] == ["rgb"]
            assert user.jobs[-1]["given"]["boxes"] == {"objects": [{"box": [0.35, 0.35, 0.65, 0.65], "label": "cube"}]}
            assert user.errors == []
        finally:
            user.close()


def test_a_link_whose_recipe_is_gone_says_so_and_shows_a_scene(browser, service):
    user = Studio(browser, service.url).open("#r=0123456789abcdef")
    try:
        assert "no longer has the recipe" in told(user, ".makebar .notice")
        user.page.wait_for_selector("[data-modality=boxes].given")
    finally:
        user.close()


def test_a_server_that_is_gone_is_waited_for_and_work_goes_on(browser, tiny):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serving(tiny, port=port) as service:
        user = Studio(browser, service.url).open()
        user.edit("rgb")
        user.click(0.5, 0.5)
        user.make()
    try:
        user.edit("depth")
        user.find(".makebar .primary").click()
        user.page.get_by_text("Server gone, retrying").wait_for()
        assert user.find(".makebar .primary").is_disabled()
        user.press("New scene")
        assert "The server is gone" in told(user, ".topbar .notice")
        user.turn("depth", "given")  # meanwhile everything else works
        with serving(tiny, port=port):
            user.page.get_by_text("The server is back").wait_for()
            assert user.find(".notice").count() == 0  # nothing still says that it is gone
            assert (user.use("rgb"), user.use("depth")) == ("in part", "given")
            user.make()
            assert user.jobs[-1]["given"].keys() == {"rgb", "depth", "caption", "boxes"}
            user.tab("History")
            assert user.find(".history button").count() == 2
    finally:
        user.close()


def test_a_job_that_a_restarted_server_does_not_know_can_be_sent_again(user, service):
    user.page.route("**/api/jobs/*/events", lambda route: route.fulfill(status=404, body="{}"))
    user.find(".makebar .primary").click()
    assert "no longer knows this job" in told(user, ".makebar .notice")
    user.page.unroute("**/api/jobs/*/events")
    user.make()
    assert user.find(".notice").count() == 0
    user.errors.clear()


def test_a_token_that_is_missing_is_asked_for(browser, tiny):
    with serving(tiny, token="open sesame") as service:
        user = Studio(browser, service.url)
        try:
            user.page.goto(f"{service.url}/?token=open%20sesame")
            user.page.wait_for_selector(".card")
            user.context.clear_cookies()  # as if the server had been started again
            user.press("New scene")
            user.page.get_by_text("needs its token").wait_for()
            user.page.get_by_label("Token").fill("open sesame")
            user.press("Enter")
            user.page.wait_for_selector(".card")
            assert "token" not in user.page.url
        finally:
            user.close()


def test_who_opens_a_studio_without_its_token_types_it(browser, tiny):
    with serving(tiny, token="open sesame") as service:
        user = Studio(browser, service.url)
        try:
            user.page.goto(service.url)
            for token, title in (("sesame", "needs its token"), ("open sesame", "another token")):
                user.page.get_by_role("heading", name=title).wait_for()
                user.page.keyboard.type(token)  # the field has the focus
                user.page.keyboard.press("Enter")
            user.page.wait_for_selector(".card")
            assert "token" not in user.page.url
        finally:
            user.close()


def test_everything_can_be_done_with_the_keyboard_alone(user):
    keys = user.page.keyboard

    def to(selector):
        """Press Tab until the focus is there, and seen."""
        for _ in range(60):
            keys.press("Tab")
            if user.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                style = user.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert style != "none", f"the focus on {selector} is not seen"
                return
        raise AssertionError(f"Tab never reaches {selector}")

    to("[data-modality=rgb] .look")
    keys.press("Enter")
    to(".canvas")
    for key in ("ArrowDown", "ArrowRight", " ", "ArrowRight", "ArrowRight", "ArrowRight", " "):
        keys.press(key)  # the brush is two cells wide, and the cursor stays in the grid
    user.page.wait_for_selector("[data-modality=rgb].part")
    user.result_of(lambda: keys.press("Control+Enter"))
    assert user.jobs[-1]["given"]["rgb"]["mask"]["cells"] == [5, 6, 7, 9, 10, 11]
    boxes = user.jobs[-1]["given"]["boxes"]["objects"]
    user.page.evaluate("document.activeElement.blur()")
    to("[data-modality=boxes] .look")
    keys.press("Enter")
    to(".canvas")
    right = boxes[0]["box"][0] + boxes[0]["box"][2] < 1
    keys.press("ArrowRight" if right else "ArrowLeft")
    keys.press("Shift+ArrowUp")
    user.result_of(lambda: keys.press("Control+Enter"))
    x0, y0, x1, y1 = boxes[0]["box"]
    dx = (1 if right else -1) / 32
    moved = user.jobs[-1]["given"]["boxes"]["objects"]
    assert np.allclose(moved[0]["box"], [x0 + dx, y0, x1 + dx, max(y1 - 1 / 32, y0 + 0.03)])
    assert moved[1:] == boxes[1:]
    keys.press("Delete")
    user.result_of(lambda: keys.press("Control+Enter"))
    assert user.jobs[-1]["given"]["boxes"]["objects"] == boxes[1:]


def test_every_control_has_a_name_and_every_picture_a_description(user):
    user.make()
    for tab in ("Conditions", "How", "Explore", "History"):
        user.tab(tab)
        nameless = user.page.evaluate(
            """() => {
                const named = one => one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length;
                const kinds = 'button, input, select, textarea, a, [role=application]';
                const controls = [...document.querySelectorAll(kinds)];
                return controls.filter(one => !one.hidden && !named(one)).map(one => one.outerHTML.slice(0, 120));
            }"""
        )
        assert nameless == [], tab
    assert user.page.eval_on_selector_all("img", "all => all.filter(one => !one.hasAttribute('alt')).length") == 0


def test_the_page_asks_nobody_but_its_own_service(user, service):
    user.make()
    assert {url.split("/")[0] + "//" + url.split("/")[2] for url in user.asked if not url.startswith("data:")} == {
        service.url
    }


def test_a_narrow_page_shows_whole_sentences_and_whole_marks(user):
    for width in (1280, 400):
        user.page.set_viewport_size({"width": width, "height": 800})
        user.press("rgb → all")
        cut = "all => all.filter(one => one.scrollWidth > one.clientWidth).length"
        assert user.page.eval_on_selector_all(".modalities p", cut) == 0
        mark = "all => all.map(one => getComputedStyle(one, '::before').width)"
        assert set(user.page.eval_on_selector_all(".card .use", mark)) == {"8px"}
        assert user.page.evaluate("document.documentElement.scrollWidth") == width
    user.page.set_viewport_size(SIZE)


CONTRASTS = """() => {
    const scale = color => color.startsWith('color(srgb') ? 255 : 1;  // as mixtures are said
    const numbers = color => color.match(/[0-9.]+/g).map((one, i) => i < 3 ? one * scale(color) : Number(one));
    const parts = color => [...numbers(color), 1].slice(0, 4);
    const over = ([r, g, b, a], below) => [r, g, b].map((one, i) => one * a + below[i] * (1 - a));
    const linear = part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const unseen = '.sr, script, noscript, option, :disabled';
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent.trim();
        const one = walker.currentNode.parentElement;
        if (!text || !one.checkVisibility() || one.closest(unseen)) continue;
        const above = [];
        for (let at = one; at; at = at.parentElement) above.unshift(getComputedStyle(at));
        const ground = above.reduce((below, style) => over(parts(style.backgroundColor), below), [255, 255, 255]);
        const [r, g, b, a] = parts(getComputedStyle(one).color);
        const ink = over([r, g, b, above.reduce((all, style) => all * style.opacity, a)], ground);
        const [low, high] = [light(ink), light(ground)].sort((x, y) => x - y);
        found.push([(high + 0.05) / (low + 0.05), text.slice(0, 40)]);
    }
    return found;
}"""
"""How much lighter one of letters and their ground is than the other, by the formula of WCAG 2, of all texts."""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_texts_are_readable_in_both_themes(browser, service, theme):
    """4.5 to 1, as WCAG 2 has it (level AA)."""
    user = Studio(browser, service.url, color_scheme=theme, reduced_motion="reduce").open()
    try:
        user.turn("caption", "made")
        user.edit("semseg")
        user.make()
        user.page.get_by_role("button", name="caption, seed 0").click()
        user.press("Uncertainty")
        for tab in ("Conditions", "How", "Explore", "History"):
            user.tab(tab)
            user.find(".makebar .primary").hover()
            found = user.page.evaluate(CONTRASTS)
            assert len(found) > 40
            assert [one for one in found if one[0] < 4.5] == [], tab
        user.press("Keys and help")
        assert [one for one in user.page.evaluate(CONTRASTS) if one[0] < 4.5] == []
    finally:
        user.close()


def test_it_is_dark_or_light_as_the_system_says_and_as_the_button_says(browser, service):
    def ground(user):
        color = user.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in color[4:-1].split(",")) / 3

    user = Studio(browser, service.url, color_scheme="dark").open()
    try:
        assert ground(user) < 60
        user.page.emulate_media(color_scheme="light")
        assert ground(user) > 200
        user.page.emulate_media(color_scheme="dark")
        user.page.get_by_role("button", name="Switch to the light theme").click()
        assert ground(user) > 200
        user.open()
        assert ground(user) > 200  # it is remembered
        user.page.get_by_role("button", name="Switch to the dark theme").click()
        assert ground(user) < 60
        assert user.errors == []
    finally:
        user.close()


def test_a_missing_chromium_is_an_error_where_it_is_required(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        program()
    monkeypatch.setenv(REQUIRED, "required")
    with pytest.raises(RuntimeError, match="apt-get install chromium"):
        program()


def test_a_reload_keeps_what_was_not_made(user):
    user.edit("caption")
    user.page.get_by_label("caption", exact=True).fill("two red cones")
    user.turn("boxes", "unused")
    uses = user.uses()
    user.page.reload()
    user.page.wait_for_selector(".card.selected[data-modality=caption]")
    assert user.page.get_by_label("caption", exact=True).input_value() == "two red cones"
    assert user.uses() == uses
    user.make()
    assert user.jobs[-1]["given"] == {"caption": {"text": "two red cones"}}


def test_a_reload_keeps_what_was_changed_after_the_result_of_the_address(user):
    user.make()
    user.edit("caption")
    user.page.get_by_label("caption", exact=True).fill("a blue cube")
    user.page.reload()
    user.page.wait_for_selector(".card.selected[data-modality=caption]")
    assert user.page.get_by_label("caption", exact=True).input_value() == "a blue cube"


def test_a_link_that_is_opened_in_the_same_tab_is_not_what_was_there_before(user):
    user.make()
    link = user.page.url
    user.edit("caption")
    user.page.get_by_label("caption", exact=True).fill("a blue cube")
    user.make()
    assert user.page.url != link
    user.page.goto("about:blank")
    user.page.goto(link)
    user.page.wait_for_selector("[data-modality=caption].given")
    user.edit("caption")
    assert user.page.get_by_label("caption", exact=True).input_value() != "a blue cube"


def test_where_the_browser_keeps_nothing_a_reload_begins_anew(user):
    user.page.add_init_script(
        "Object.defineProperty(window, 'sessionStorage', {get() { throw new Error('refused'); }})"
    )
    user.page.reload()
    user.page.wait_for_selector("[data-modality=boxes].given")
    user.turn("boxes", "unused")
    user.page.reload()
    user.page.wait_for_selector("[data-modality=boxes].given")
