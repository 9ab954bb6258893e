"""The page is worked by keys alone, goes with a running training, fits a narrow window, passes axe in light and dark, and
shows what is hostile as text."""

import json
from urllib.parse import quote

import pytest
from page_looks import NARROW, until
from page_runs import HOSTILE, LONG_TOKENS, append_step, make_run

GROUP = "/runs/alpha/group/rl_000001-digits?name=rl_000001"
VIEWS = {
    "runs": "/",
    "run": "/runs/alpha?smooth=0.6",
    "tasks": "/runs/alpha/tasks?name=rl_000001",
    "episodes": "/runs/alpha/tasks?name=rl_000001&rows=episodes&ability=perception",
    "group": GROUP,
    "tokens": "/runs/alpha/tokens/rl_000001-digits-0?name=rl_000001&colour=logprob",
    "advantage": "/runs/alpha/tokens/rl_000001-digits-0?name=rl_000001&colour=advantage",
    "item": "/runs/alpha/item/digits?name=rl_000001",
    "compare": "/compare?a=alpha&b=beta&task=sum",
    "hostile": "/runs/alpha/group/hostile?name=hostile",
    "nowhere": "/runs/nosuch",
}
HOSTILE_TASK = f"hostile{HOSTILE}".replace("/", "")


def focused(page):
    return page.evaluate("document.activeElement.textContent")


def test_keys_lead_from_the_runs_to_the_tokens_and_back(look):
    page = look.open("/")
    names = page.locator("tbody th a").all_inner_texts()
    for _ in range(names.index("alpha") + 1):
        page.keyboard.press("j")
    assert focused(page) == "alpha"
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="alpha").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert focused(page) == "rl_000000"
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="rl_000000").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("digit")
    page.wait_for_url("**q=digit**")
    page.keyboard.press("Escape")
    page.get_by_text("1–1 of 1").wait_for()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.locator(".columns").wait_for()
    for key in ("j", "j", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    page.keyboard.press("t")
    page.get_by_role("heading", name="rl_000000-digits-1").wait_for()
    page.keyboard.press("Escape")
    page.locator(".columns").wait_for()
    page.keyboard.press("Escape")
    page.locator(".filters").wait_for()
    assert look.address == "/runs/alpha/tasks?name=rl_000000&q=digit"
    until(page, "document.activeElement.textContent === 'What digit is on the plate?'")


def test_the_keys_are_listed(look):
    page = look.open("/")
    page.keyboard.press("?")
    assert "next row or episode" in page.get_by_role("dialog", name="Keys").inner_text()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    assert look.address == "/"


def test_a_running_training_is_followed_without_losing_the_place(look):
    make_run(look.runs / "begun", 2, finished=False)
    page = look.open("/")
    look.hurry()
    page.get_by_role("link", name="begun").wait_for()
    page = look.open("/runs/begun?smooth=0.5")
    page.get_by_text("Live", exact=True).wait_for()
    page.locator(".table-box a", has_text="rl_000001").focus()
    page.evaluate("scrollTo(0, 300)")
    chart = page.locator(".chart").first.element_handle()
    append_step(look.runs / "begun", 2)
    page.locator(".table-box a", has_text="rl_000002").wait_for()
    until(page, "document.querySelector('.plot').getAttribute('aria-valuemax') === '2'")
    assert page.evaluate("one => one.isConnected", chart)
    assert page.evaluate("scrollY") == 300
    assert focused(page) == "rl_000001"
    assert look.address == "/runs/begun?smooth=0.5"
    (look.runs / "begun" / "progress.json").write_text(json.dumps({"cold_start": True, "rl": True}))
    append_step(look.runs / "begun", 3)
    page.get_by_text("Live", exact=True).wait_for(state="detached")


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_accessible_in_light_and_dark_and_fits_a_narrow_window(look, view):
    page = look.open(VIEWS[view])
    if view == "nowhere":
        look.complaints.clear()
    found = look.violations()
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    found += look.violations("color-contrast")
    assert found == []
    page.set_viewport_size(NARROW)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]


def test_colours_are_switched_and_kept(look):
    page = look.open("/")
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    button = page.get_by_role("button", name="Colours")
    for _ in range(2):
        button.click()
    assert button.inner_text() == "Colours: dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != back
    page = look.open("/runs/alpha")
    assert button.inner_text() == "Colours: dark"
    button.click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == back


def test_hostile_texts_are_shown_and_do_nothing(look):
    page = look.open("/runs/alpha/group/hostile?name=hostile")
    shown = page.locator(".episode").first.inner_text()
    assert "<script>document.title='broken'</script>" in shown
    assert "ESC[31mredESC[0m aU+202EbU+200Bc" in shown
    assert page.locator("main script, main img[src=x], main b b").count() == 0
    page.get_by_text("image missing 000000000000").wait_for()
    assert "broken" not in page.title().split(" · ")[0]
    assert page.evaluate("getComputedStyle(document.querySelector('.foreign')).unicodeBidi") == "plaintext"
    for address in ("/", "/runs/alpha/tasks?name=hostile", f"/runs/alpha/item/{quote(HOSTILE_TASK, safe='')}"):
        page = look.open(address)
        assert page.locator("main .hidden-mark").count() > 0
        assert page.locator("main script, main img[src=x]").count() == 0


def test_a_huge_output_is_cut_and_shown_piece_by_piece(look):
    page = look.open("/runs/alpha/group/hostile?name=hostile")
    output = page.locator(".observation .foreign").nth(1)
    assert len(output.inner_text()) < 5_000
    more = page.get_by_role("button", name="Show all of this output")
    more.click()
    page.get_by_role("button", name="Show 100,000 of 9,").wait_for()
    assert 100_000 < len(output.inner_text()) < 110_000
    assert page.locator("main b > b").count() == 0


def test_thirty_thousand_tokens_are_scrolled(look):
    name = quote(f"hostile-{HOSTILE_TASK}-2", safe="")
    page = look.open(f"/runs/alpha/tokens/{name}?name=hostile&colour=logprob")
    page.locator(".token-text .token").first.wait_for()
    assert page.locator(".token-text .token").count() < LONG_TOKENS / 5
    page.locator(".token-text").focus()
    page.keyboard.press("End")
    page.locator(f'[data-t="{LONG_TOKENS - 1}"].at').wait_for()
    assert page.locator(".readout").inner_text().startswith("Token 29,999:")
    until(page, "!document.querySelector('[data-t=\"0\"]')")
