"""Each view shows what the files say: runs, curves, evaluations, tasks with every filter, groups, tokens, items, two runs. A link
restores a view. Chromium shows it; any error of its console fails the test, and so does a request to anything but the server."""

import re

import pytest
from page_looks import until
from page_runs import EPISODES, TASKS, step_of


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def rows(page):
    return page.locator("tbody tr")


def wait_rows(page, count):
    until(page, "n => document.querySelectorAll('.results tbody tr').length === n", arg=count)


def test_runs_are_listed_and_two_are_chosen_to_compare(look):
    page = look.open("/")
    alpha = rows(page).filter(has=page.get_by_role("link", name="alpha"))
    assert (
        re.sub(r"\s+", " ", alpha.inner_text())
        .strip()
        .startswith("alpha rl 4 / 8 57 1 line unreadable 1 file left out: hidden, or without a printable name base rl page")
    )
    assert "Live" in rows(page).filter(has=page.get_by_role("link", name="growing")).inner_text()
    button = page.get_by_role("button", name="Compare two runs")
    assert button.is_disabled()
    for name in ("alpha", "beta"):
        page.get_by_role("checkbox", name=f"Compare {name}", exact=True).check()
    button.click()
    page.get_by_role("heading", name="Compare").wait_for()
    assert look.address == "/compare?a=alpha&b=beta"


def test_a_run_shows_its_evaluation_and_its_curves(look):
    page = look.open("/runs/alpha")
    table = page.get_by_role("group", name="Evaluation")
    assert "75.0% 69.0%–81.0%" in table.inner_text()
    row = re.sub(r"\s+", " ", rows(table).nth(1).inner_text())
    assert row == "rl 1.0 200 75.0% 69.0%–81.0% 0.50, 0.25 90.0% 10.0% 55.0% 95.0% 75.0%"
    titles = texts(page, ".chart-title bdi")
    expected = ["Reward", "Accuracy", "Calls per episode", "Use of tools", "Tools", "Failed calls", "Sampled tokens"]
    assert [title for title in titles if title in expected] == expected
    assert {"Sampler − learner", "Time"} < set(titles)
    assert "The alarm of collapse rang at step 2" in page.locator(".warn").inner_text()
    assert page.get_by_text("Steps count from 0").is_visible()
    page.get_by_text("metrics.jsonl: 1 line unreadable, the last line half-written").wait_for()
    left_out = "1 line unreadable · 1 file left out: hidden, or without a printable name · 1 episode with texts"
    page.get_by_text(f"rl: 4 of 8 steps · 57 episodes · {left_out}").wait_for()
    assert page.locator(".chart").first.locator(".alarm").count() == 1
    assert page.locator(".band").count() == 1
    # A value that is no number is a gap.
    entropy = page.locator(".chart", has_text="Entropy").locator(".line")
    assert entropy.get_attribute("d").count("M") == 2


def test_a_run_by_itself_offers_no_comparison_in_the_line_of_its_name(look):
    def alone(route):
        answer = route.fetch()
        route.fulfill(response=answer, json={"runs": [run for run in answer.json()["runs"] if run["id"] == "alpha"]})

    look.page.route("**/api/runs", alone)
    try:
        page = look.open("/runs/alpha")
        page.get_by_role("group", name="Evaluation").wait_for()
        assert page.locator(".view-head").inner_text() == "alpha"
    finally:
        look.page.unroute("**/api/runs")


def test_the_choices_of_curves_are_in_the_link(look):
    page = look.open("/runs/alpha")
    page.get_by_role("slider", name="Smoothing").fill("0.5")
    page.get_by_role("combobox", name="Metric to add").fill("actor/entropy")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Remove the curve actor/entropy").wait_for()
    assert look.address == "/runs/alpha?smooth=0.5&m=actor%2Fentropy"
    page = look.open(look.address)
    assert page.get_by_role("slider", name="Smoothing").input_value() == "0.5"
    assert page.locator(".raw").count() > 5
    page.get_by_role("button", name="Remove the curve actor/entropy").click()
    page.get_by_role("button", name="cold_start").click()
    page.locator(".chart-title", has_text="Loss").wait_for()
    assert look.address == "/runs/alpha?smooth=0.5&stage=cold_start"


def test_a_curve_reads_a_step_and_opens_its_tasks(look):
    page = look.open("/runs/alpha")
    chart = page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    box = chart.locator(".plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 50)
    assert chart.locator(".chart-step").inner_text() == "step 3"
    assert "0.9" in chart.locator(".legend").inner_text()
    page.mouse.click(box["x"] + box["width"] - 12, box["y"] + 50)
    page.get_by_role("heading", name="rl_000003").wait_for()
    page.go_back()
    plot = page.get_by_role("slider", name="Reward by step")
    plot.focus()
    for key in ("End", "ArrowLeft"):
        page.keyboard.press(key)
    assert plot.get_attribute("aria-valuetext").startswith("step 2: all episodes 0.725")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="rl_000002").wait_for()


EPISODES_OF = [one.trajectory for one in step_of(1)]
FILTERS = {
    "ability=perception": lambda one: "perception" in one.abilities,
    "tool=code": lambda one: any(turn.tool_calls for turn in one.turns),
    "status=exception": lambda one: any(call.status == "exception" for turn in one.turns for call in turn.tool_calls),
    "need=not_needed": lambda one: not one.needed_tools,
    "used=no": lambda one: not any(turn.tool_calls for turn in one.turns),
    "stop=TURN_LIMIT": lambda one: one.stop_reason == "TURN_LIMIT",
    "correct=yes": lambda one: one.reward_parts["accuracy"] == 1,
    "reward_min=0.5": lambda one: one.reward >= 0.5,
    "reward_max=0.13": lambda one: one.reward <= 0.13,
    "q=imge": lambda one: any("imge" in turn.observation for turn in one.turns),
    "task=sum": lambda one: one.task_id == "sum",
    "ability=perception&used=yes&correct=no": lambda one: one.task_id == "digits" and not one.reward_parts["accuracy"],
}


@pytest.mark.parametrize("query", FILTERS)
def test_a_filter_in_the_link_leaves_the_episodes_that_match(look, query):
    page = look.open(f"/runs/alpha/tasks?name=rl_000001&rows=episodes&{query}")
    wait_rows(page, sum(map(FILTERS[query], EPISODES_OF)))
    assert texts(page, ".results tbody th a") == [one.episode_id for one in EPISODES_OF if FILTERS[query](one)]


def test_filters_are_chosen_by_hand_and_kept_in_the_link(look):
    page = look.open("/runs/alpha/tasks?name=rl_000001")
    wait_rows(page, len(TASKS))
    assert f"50% of {EPISODES}" in rows(page).first.inner_text()
    page.get_by_label("Ability").select_option("perception")
    wait_rows(page, 2)
    page.get_by_label("Needs a tool").select_option("not_needed")
    wait_rows(page, 1)
    page.get_by_label("Text").fill("sky")
    page.wait_for_url("**q=sky**")
    assert look.address == "/runs/alpha/tasks?name=rl_000001&ability=perception&need=not_needed&q=sky"
    page = look.open(look.address)
    wait_rows(page, 1)
    assert [page.get_by_label(name).input_value() for name in ("Ability", "Needs a tool", "Text")] == [
        "perception",
        "not_needed",
        "sky",
    ]
    assert page.get_by_label("Effect of what was taken away").is_hidden()
    page.get_by_label("Text").fill("nothing like it")
    page.get_by_text("Nothing matches these filters.").wait_for()
    page.get_by_role("button", name="Clear filters").click()
    wait_rows(page, len(TASKS))
    page.get_by_role("button", name="Next name").click()
    page.get_by_role("heading", name="rl_000002").wait_for()
    page = look.open("/runs/alpha/tasks?name=episodes")
    page.get_by_label("Effect of what was taken away").select_option("blank:either way")
    wait_rows(page, 1)
    assert look.address == "/runs/alpha/tasks?name=episodes&effect=blank%3Aeither+way"


def test_rows_are_sorted_by_their_headings_and_paged(look):
    page = look.open("/runs/alpha/tasks?name=rl_000001")
    heading = page.get_by_role("columnheader", name="Reward")
    for sort, order in (("-reward", "descending"), ("reward", "ascending")):
        heading.get_by_role("button").click()
        until(page, "order => document.querySelector('th[aria-sort]')?.getAttribute('aria-sort') === order", arg=order)
        assert look.address == f"/runs/alpha/tasks?name=rl_000001&sort={sort}"
        rewards = [float(text.split()[0]) for text in texts(page, ".results tbody td:nth-child(5)")]
        assert rewards == sorted(rewards, reverse=sort.startswith("-"))
    page = look.open("/runs/alpha/tasks?rows=episodes")
    page.get_by_text("1–50 of 57").wait_for()
    page.get_by_role("button", name="Next", exact=True).click()
    page.get_by_text("51–57 of 57").wait_for()
    assert "offset=50" in look.address


def test_a_group_stands_side_by_side(look):
    page = look.open("/runs/alpha/group/rl_000001-digits?name=rl_000001")
    assert page.locator(".question-box").inner_text() == "What digit is on the plate?"
    columns = page.locator(".episode")
    assert columns.count() == EPISODES
    assert page.locator(".facts").nth(1).inner_text().startswith("2 of 4 right · reward 0.48 · 1.5 calls")
    assert texts(page, ".overview-item .dot") == ["✓\n1", "✓\n2", "✗\n1", "✗\n2"]
    lefts = [columns.nth(number).bounding_box()["x"] for number in range(2)]
    assert lefts[1] > lefts[0] + 300
    first, third = columns.nth(0).inner_text(), columns.nth(2).inner_text()
    for said in (
        "✓ right",
        "1989 · 0.92 · 1 call",
        "Advantage",
        "accuracy 1.00",
        "format 1.00",
        "answered",
        "0.25 s",
        "model 0.40 s",
    ):
        assert said in first
    assert "exception" in third
    assert "NameError: name 'imge' is not defined" in third
    assert texts(columns.nth(0), ".code-comment") == ["# the product"]
    assert texts(columns.nth(0), ".code-call") == ["print"]
    page.get_by_role("button", name="Episode 4: wrong").click()
    assert look.address.endswith("&episode=rl_000001-digits-3")
    page = look.open(look.address)
    until(page, "document.activeElement?.dataset.episode === 'rl_000001-digits-3'")


def test_an_image_is_enlarged_and_escape_closes_it(look):
    page = look.open("/runs/alpha/group/rl_000001-digits?name=rl_000001")
    page.get_by_role("button", name="Image 1 of the question").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("32 × 32 pixels").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert "/group/" in look.address


def test_tokens_are_coloured_by_each_figure(look):
    page = look.open("/runs/alpha/tokens/rl_000001-digits-0?name=rl_000001")
    sampled = EPISODES_OF[0].loss_mask
    until(page, "n => document.querySelectorAll('.token-text .token').length === n", arg=len(sampled))
    assert page.locator(".token-text .plus-2").count() == sum(sampled)
    figures = {
        "Log-probability": (r"log-probability −?\d", ".token-text [class*=level-]"),
        "Advantage": (r"advantage \+\d", ".token-text [class*=plus-]"),
        "Policy version": ("policy version 1", ".token-text .level-1"),
    }
    for name, (said, coloured) in figures.items():
        page.get_by_role("button", name=name).click()
        until(page, "selector => document.querySelectorAll(selector).length > 0", arg=coloured)
        assert page.locator(coloured).count() == sum(sampled)
        page.locator(".token-text .token").nth(sampled.index(1)).hover()
        assert re.search(said, page.locator(".readout").inner_text())
    assert look.address.endswith("colour=version")
    page = look.open(look.address)
    assert page.get_by_role("button", name="Policy version").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Sampler − learner").click()
    page.get_by_text("The learner's log-probabilities are not recorded for this episode.").wait_for()


def test_tokens_are_read_with_the_keyboard_and_the_group_is_near(look):
    page = look.open("/runs/alpha/tokens/rl_000001-digits-0?name=rl_000001")
    page.locator(".token-text").focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert re.match(r'Token 1: ".*", id \d+, not sampled', page.locator(".readout").inner_text())
    page.get_by_role("heading", name="rl_000001-digits-0").click()
    page.keyboard.press("j")
    page.get_by_role("heading", name="rl_000001-digits-1").wait_for()
    page.keyboard.press("g")
    page.locator(".columns").wait_for()
    assert look.address == "/runs/alpha/group/rl_000001-digits?name=rl_000001&episode=rl_000001-digits-1"


def test_an_item_is_followed_across_checkpoints_and_ablations(look):
    page = look.open("/runs/alpha/group/rl_000001-digits?name=rl_000001")
    page.get_by_role("link", name="This task elsewhere").click()
    page.get_by_role("columnheader", name="Effect of the tools").wait_for()
    table = {cells[0]: cells for cells in (re.split(r"\s*\t\s*", text) for text in rows(page).all_inner_texts())}
    assert [table[f"rl_00000{step}"][3] for step in range(4)] == ["25%", "50%", "75%", "100%"]
    assert (table["blank"][1], table["blank"][3], table["episodes"][3]) == ("blank", "0%", "100%")
    assert (table["blank"][6], page.locator("td .tag[title]").count()) == ("gained", 1)
    assert texts(page, "tr.here th") == ["rl_000001"]
    page.locator("tr.here .dots a").nth(2).click()
    page.locator(".columns").wait_for()
    assert look.address.startswith("/runs/alpha/group/rl_000001-digits?name=rl_000001&episode=rl_000001-digits-2")


def test_two_runs_are_compared(look):
    page = look.open("/compare?a=alpha&b=beta")
    evaluation = page.get_by_role("group", name="Evaluation of both runs")
    assert texts(evaluation, "tbody th") == ["alpha · base", "alpha · rl", "beta · base", "beta · rl"]
    reward = page.locator(".chart").first
    assert texts(reward, ".legend bdi") == ["alpha: all episodes", "beta: all episodes"]
    assert reward.locator(".line.dashed").count() == 1
    assert "of beta calculated from the episodes" in page.locator(".chart", has_text="Use of tools").inner_text()
    shared = page.get_by_role("group", name="Tasks that both met")
    assert "beta is better at 0, worse at 3, equal at 0" in page.locator(".facts").inner_text()
    assert re.sub(r"\s+", " ", rows(shared).first.inner_text()).endswith("100% of 1 1.00 episodes 50% of 4 0.00 rl_000001 −50")
    rows(page).filter(has_text="sum").get_by_role("link").click()
    page.locator(".side").nth(1).wait_for()
    assert [side.split("\n")[0] for side in texts(page, ".side h3")] == ["alpha episodes", "beta rl_000001"]
    assert look.address == "/compare?a=alpha&b=beta&task=sum"
    look.open(look.address)
    page.locator(".side").nth(1).wait_for()


def test_a_legend_names_the_step_of_a_value_if_its_curve_ends_before_the_others(look):
    page = look.open("/compare?a=alpha&b=beta")
    reward = page.locator(".chart").first
    assert texts(reward, ".legend .entry") == ["alpha: all episodes\n0.900", "beta: all episodes\n0.550\nat step 1"]
    plot = page.get_by_role("slider", name="Reward by step")
    assert plot.get_attribute("aria-valuetext") == "step 3: alpha: all episodes 0.900, beta: all episodes 0.550 at step 1"
    plot.focus()
    page.keyboard.press("ArrowLeft")
    assert reward.locator(".chart-step").inner_text() == "step 2"
    assert texts(reward, ".legend .entry") == ["alpha: all episodes\n0.725", "beta: all episodes\n–"]


def test_one_run_is_compared_with_itself_at_another_step(look):
    page = look.open("/compare?a=alpha&b=alpha&name_a=rl_000000&task=digits")
    page.get_by_label("Episodes of the second run").select_option("rl_000003")
    page.get_by_text("the second is better at 3, worse at 0, equal at 0").wait_for()
    assert texts(page.locator(".chart").first, ".legend bdi") == ["alpha: all episodes"]
    page.get_by_label("Order of tasks").select_option("difference")
    page.get_by_role("heading", name="alpha rl_000003").wait_for()
    assert look.address == "/compare?a=alpha&b=alpha&name_a=rl_000000&task=digits&name_b=rl_000003&sort=difference"


def test_what_tools_are_worth_is_shown_with_the_evaluation(look):
    page = look.open("/runs/alpha")
    shown = {
        "Necessity: tools taken away": "without code needed 3 50.0% 25.0% to 50.0% 25.0% 12.5% to 25.0% 0.0% 0.0% to 0.0% 12.5%",
        "Causal use: outputs taken away": "blank all 3 66.7% 33.3% to 66.7% 100.0% 50.0% to 100.0% 33.3%",
        "MED: what each checkpoint gained": "step_3 3 25.0% 12.5% to 50.0% +25.0% +12.5% to +50.0%",
    }
    for name, row in shown.items():
        assert re.sub(r"\s+", " ", rows(page.get_by_role("group", name=name)).inner_text()).startswith(row)
    page.get_by_text("40.0% of the change is due to tools.").wait_for()
    recorded = re.split(r"\s*\t\s*", rows(page.get_by_role("group", name="Recorded episodes")).nth(1).inner_text())
    assert recorded[-2:] == ["50.0%", "1.00"]


def test_use_by_need_is_calculated_if_the_run_did_not_record_it(look):
    page = look.open("/runs/beta")
    use = page.locator(".chart", has_text="Use of tools")
    assert "calculated from the episodes" in use.inner_text()
    assert texts(use, ".legend .entry") == ["tool needed\n1", "not needed\n0"]
    assert "calculated" not in look.open("/runs/alpha").locator(".chart", has_text="Use of tools").inner_text()


def test_what_the_learner_recorded_colours_the_tokens(look):
    page = look.open("/runs/alpha/tokens/rl_000003-digits-1?name=rl_000003&colour=gap")
    sampled = step_of(3)[1].trajectory.loss_mask
    token = page.locator(".token-text .token").nth(sampled.index(1))
    token.hover()
    assert "+0.50" in page.locator(".readout").inner_text()
    page.get_by_role("button", name="Advantage").click()
    until(page, "document.querySelectorAll('.token-text [class*=minus-]').length > 0")
    assert page.locator(".token-text [class*=plus-]").count() > 0
    look.open("/runs/alpha/group/rl_000003-digits?name=rl_000003")
    page.locator(".episode").first.get_by_text("+0.13").wait_for()
    assert "calculated" not in page.locator(".episode").first.inner_text()
