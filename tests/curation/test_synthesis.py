"""Teachers demonstrate, against a real server on loopback: what is right and without a failed call is kept, all else is kept apart
with the reason; whatever form a teacher speaks in, what is learned is in the student's tokens; costs are counted and bounded."""

import json
from collections import Counter

import pytest
from openai_server import asking
from PIL import Image
from rollout_fakes import Bytes
from synthesis_school import CHAT, rows, school, sum_of, teach, write_sums

from curation.recorded import read_demonstrations
from envs.errors import UsageError
from rollout.config import EpisodeConfig
from rollout.store import Store
from rollout.tokens.chat_format import ChatFormat

BUDGETS = EpisodeConfig(max_tokens=20000, max_action_tokens=2000)


def test_what_is_right_is_kept_and_all_else_kept_apart_with_the_reason(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", "right", "wrong", "failing", "malformed", "refused", "chatty", "direct")
    report = school(tmp_path, gpt=serve(teach).url).run()
    assert sorted(row["metadata"]["task_id"] for row in rows(tmp_path)) == ["sums-1", "sums-7"]
    reasons = {row["metadata"]["task_id"]: row["reason"] for row in rows(tmp_path, "rejected")}
    assert reasons == {
        "sums-2": "wrong_answer",
        "sums-3": "failed_call",
        "sums-4": "malformed_turn",
        "sums-5": "refused",
        "sums-6": "no_answer",
    }
    line = report.teachers["gpt"]
    assert (line.asked, line.kept, sum(line.rejected.values())) == (7, 2, 5)
    (refused,) = [row for row in rows(tmp_path, "rejected") if row["reason"] == "refused"]
    assert "content management policy" in refused["detail"]


class Shows(Bytes):
    """A tokenizer whose chat template shows the tools."""

    def apply_chat_template(self, messages, add_generation_prompt, tokenize, tools=()):
        return f"{json.dumps(tools)}\n" + super().apply_chat_template(messages, add_generation_prompt, tokenize)


class Thinks(Bytes):
    """A tokenizer whose chat template begins each turn of the model with its thoughts."""

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        return super().apply_chat_template(messages, add_generation_prompt, tokenize) + "<think>\n"


def require_same_tokens(place, chat, config=BUDGETS):
    """What a cold start with the same budgets learns is exactly what was recorded."""
    (played,) = Store(place / "out").read("episodes")
    (read,) = read_demonstrations(place / "out/demonstrations.jsonl", chat, config, count=1, seed=0)
    for name in ("token_ids", "loss_mask", "images", "answer", "abilities"):
        assert getattr(read.trajectory, name) == getattr(played.trajectory, name), name
    return played.trajectory


@pytest.mark.parametrize(
    ("protocol", "tool_calls", "template"),
    [
        ("deepeyes", "false", Bytes),
        ("deepeyes", "true", Thinks),
        ("hermes", "false", Shows),
        ("hermes", "true", Bytes),
        ("{hermes: {answer: tag}}", "true", Thinks),
        ("native", "false", Shows),
    ],
)
def test_demonstrations_of_any_form_become_the_students_tokens_again(tmp_path, serve, protocol, tool_calls, template):
    write_sums(tmp_path / "sums.jsonl", "right", ability=["sums"])
    server, chat = serve(teach), ChatFormat(template())
    settings = [f"+options.protocol={protocol}", f"+teachers.gpt.tool_calls={tool_calls}"]
    school(tmp_path, *settings, chat=chat, gpt=server.url).run()
    assert all(("tools" in body) == (tool_calls == "true" or protocol == "native") for body in server.requests)
    assert [turn.tool for turn in require_same_tokens(tmp_path, chat).turns] == ["add", None]


@pytest.mark.parametrize("protocol", ["deepeyes", "hermes"])
def test_pictures_of_questions_and_tools_are_in_the_rows(tmp_path, serve, chat, protocol):
    write_sums(tmp_path / "sums.jsonl", "right", images=[["a.png"]], ability=["seeing"])
    Image.new("RGB", (84, 56), "blue").save(tmp_path / "a.png")
    server = serve(asking(("look", {"corner": "left"})), "<answer>5</answer>")
    settings = ["+options.tools=[synthesis_school:look]", f"+options.protocol={protocol}", "+teachers.gpt.tool_calls=true"]
    school(tmp_path, *settings, chat=chat, gpt=server.url).run()
    assert len(require_same_tokens(tmp_path, chat).images) == 2
    content = rows(tmp_path)[0]["messages"][2]["content"]
    assert "the left corner &lt;answer>" in content[1]["text"]
    assert (tmp_path / "out" / content[0]["image"]).is_file()


def test_another_student_is_told_of_the_tools_in_its_own_way(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", "right")
    school(tmp_path, gpt=serve(teach).url).run()
    config = EpisodeConfig(max_tokens=20000, system_prompt="protocol")
    (read,) = read_demonstrations(tmp_path / "out/demonstrations.jsonl", CHAT, config, count=1, seed=0)
    assert "To use add" in CHAT.decode(read.trajectory.token_ids[: read.trajectory.prompt_length])


THINKING = {"content": "<answer>5</answer>", "reasoning_content": "It is </think> five."}


@pytest.mark.parametrize(
    ("thoughts", "reply", "turn"),
    [
        ("keep", THINKING, "<think>\nIt is  five.\n</think>\n<answer>5</answer>"),
        ("text", THINKING, "<answer>5</answer>"),
        ("drop", THINKING, "<answer>5</answer>"),
        ("keep", "<think>Five.</think><answer>5</answer>", "<think>Five.</think><answer>5</answer>"),
        ("text", "<think>Five.</think><answer>5</answer>", "<think>Five.</think><answer>5</answer>"),
        ("drop", "<think>Five.</think><answer>5</answer>", "<answer>5</answer>"),
    ],
)
def test_thoughts_are_kept_or_dropped(tmp_path, serve, thoughts, reply, turn):
    write_sums(tmp_path / "sums.jsonl", "direct")
    school(tmp_path, f"thoughts={thoughts}", gpt=serve(reply).url).run()
    assert rows(tmp_path)[0]["messages"][-1]["content"] == turn


def test_what_a_teacher_says_beside_its_calls_are_thoughts(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", "right")
    calls = asking(("add", {"a": 0, "b": 5}), ("add", {"a": 9, "b": 9}), text="I add.")
    server = serve({**calls, "reasoning": "Sums."}, "5")
    school(tmp_path, "+teachers.gpt.tool_calls=true", gpt=server.url).run()
    _, call, result, answer = rows(tmp_path)[0]["messages"]
    assert call["content"].startswith('<think>\nSums.\n\nI add.\n</think>\n<tool_call>{"name": "add"')
    assert call["content"].count("<tool_call>") == 1  # one call a turn, in this student's protocol
    assert "Only your first action" in server.requests[1]["messages"][-1]["content"]
    assert (result["role"], answer["content"]) == ("user", "<answer>5</answer>")


@pytest.mark.parametrize(
    "trouble",
    [(429, {"message": "slow down"}, {"Retry-After": "0"}), 500, "garbage", "late"],
    ids=["429 with Retry-After", "500", "garbage", "slow"],
)
def test_a_reply_that_fails_once_is_asked_again(tmp_path, serve, trouble):
    write_sums(tmp_path / "sums.jsonl", "direct")
    failed = []

    def reply(body):
        if not failed:
            failed.append(body)
            return "slow" if trouble == "late" else trouble
        return teach(body)

    settings = ["+teachers.gpt.timeout_s=0.3"] if trouble == "late" else []
    report = school(tmp_path, *settings, gpt=serve(reply).url).run()
    assert (report.all.kept, report.spending["gpt"].requests) == (1, 1)


def test_a_reply_that_ends_inside_an_emoji_is_counted_and_known_again(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", "direct")
    server = serve("<answer>5</answer>\ud83d")
    report = school(tmp_path, gpt=server.url).run()
    assert (report.all.kept, report.spending["gpt"].requests, len(server.requests)) == (1, 1, 1)
    assert school(tmp_path, "resume=true", gpt=server.url).run().spending == report.spending


def test_words_that_were_cut_off_are_no_answer(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", "direct")
    settings = ["+teachers.gpt.tool_calls=true", "rollout.episode.max_turns=2"]
    assert school(tmp_path, *settings, gpt=serve(("5", "length")).url).run().all.rejected == {"no_answer": 1}


def test_a_demonstration_has_no_turn_that_was_cut_off(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", "direct")
    report = school(tmp_path, "+options.protocol=hermes", gpt=serve(("I add 2", "length"), "5").url).run()
    assert report.all.rejected == {"malformed_turn": 1}


def test_an_answer_without_a_verdict_is_judged_again_and_not_asked_again(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", "direct", scoring=[{"kind": "judge"}])
    teacher, judge = serve("<answer>cinq</answer>"), serve("Hm.")
    settings = (f"+options.judge={{url: '{judge.url}', model: m, attempts: 1}}",)
    assert school(tmp_path, *settings, gpt=teacher.url).run().all.rejected == {"unjudged": 1}
    judge.reply('{"correct": true}')
    assert school(tmp_path, *settings, "resume=true", gpt=teacher.url).run().all.kept == 1
    assert len(teacher.requests) == 1


def test_an_endpoint_that_never_answers_leaves_its_questions_for_another_time(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", "direct")
    settings = ["+teachers.gpt.attempts=1", "rollout.attempts=1"]
    report = school(tmp_path, *settings, gpt=serve(500).url).run()
    assert report.all.rejected == {"failed": 1}
    assert school(tmp_path, *settings, "resume=true", gpt=serve(teach).url).run().all.kept == 1
    assert rows(tmp_path, "rejected") == []


def test_teachers_have_their_shares_and_are_counted_apart(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", *["right", "direct"] * 4)
    settings = ["+teachers.big.share=3", "+teachers.big.price_in=2", "+teachers.big.price_out=10"]
    report = school(tmp_path, *settings, big=serve(teach).url, small=serve({"content": "<answer>0</answer>"}).url).run()
    assert {name: line.asked for name, line in report.teachers.items()} == {"big": 6, "small": 2}
    big, small = report.spending["big"], report.spending["small"]
    assert (big.tokens_in, big.tokens_out) == (100 * big.requests, 10 * big.requests)
    assert big.cost == pytest.approx(big.requests * (100 * 2 + 10 * 10) / 1e6)
    assert (small.uncounted, small.cost) == (2, 0) and small.tokens_in > 0
    assert any("without a count of tokens" in note for note in report.notes)
    stored = json.loads((tmp_path / "out/synthesis.json").read_text())
    assert stored["teachers"]["small"]["rejected"] == {"wrong_answer": 2}
    assert "| big | m-big | 6 | 6 | 100% |" in (tmp_path / "out/synthesis.md").read_text()


def test_a_budget_stops_it_and_everything_is_kept(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", *["right"] * 6)
    server = serve(teach)
    settings = ["+teachers.gpt.concurrent=1", "rollout.episode.max_action_tokens=50"]
    report = school(tmp_path, "token_budget=1200", *settings, gpt=server.url).run()
    used = report.spending["gpt"]
    assert used.tokens_in + used.tokens_out <= 1200
    assert 0 < report.all.kept < 6 and "token_budget=1,200 are spent" in (report.stopped or "")
    asked = len(server.requests)
    assert asked == used.requests
    report = school(tmp_path, "resume=true", "token_budget=99999", *settings, gpt=server.url).run()
    assert (report.all.kept, report.stopped) == (6, None)
    assert len(server.requests) == report.spending["gpt"].requests == 12, "nothing is asked twice"


def test_what_the_tools_take_of_a_prompt_is_in_the_budget(tmp_path, serve):
    """The question alone has some 300 of this student's tokens, the declaration of the tool as many again."""
    write_sums(tmp_path / "sums.jsonl", "right")
    server, settings = serve(teach), ["rollout.episode.max_action_tokens=50", "token_budget=450", "+teachers.gpt.tool_calls=true"]
    report = school(tmp_path, *settings, gpt=server.url).run()
    assert server.requests == [] and "token_budget=450 are spent" in (report.stopped or "")


def test_a_budget_in_money_needs_prices(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", *["right"] * 4)
    with pytest.raises(UsageError, match="no teacher has a price"):
        school(tmp_path, "budget=1", gpt="http://x")
    price = ["+teachers.gpt.price_in=1000", "+teachers.gpt.price_out=1000", "rollout.episode.max_action_tokens=50"]
    report = school(tmp_path, "budget=0.8", "+teachers.gpt.concurrent=1", *price, gpt=serve(teach).url).run()
    assert 0 < report.cost <= 0.8 and report.stopped


def test_equal_demonstrations_are_kept_once(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", "right")
    report = school(tmp_path, "samples=3", one=serve(teach).url, other=serve("<answer>5</answer>").url).run()
    assert {row["metadata"]["teacher"] for row in rows(tmp_path)} == {"one", "other"}
    assert report.all.rejected == {"duplicate": 1}


def test_the_prompt_of_a_file_surrounds_the_instructions(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", "direct")
    (tmp_path / "before.md").write_text("You teach.\n")
    (tmp_path / "around.md").write_text("Rules:\n{instructions}\nBe brief.")
    one, other = serve(teach), serve(teach)
    prompts = [f"+teachers.one.prompt={tmp_path}/before.md", f"+teachers.other.prompt={tmp_path}/around.md"]
    school(tmp_path, "samples=2", *prompts, one=one.url, other=other.url).run()
    first, second = (server.requests[0]["messages"][0]["content"] for server in (one, other))
    assert first.startswith("You teach.\n\nAnswer the question.")
    assert second.startswith("Rules:\nAnswer the question.") and second.endswith("Be brief.")
    assert [message["role"] for message in rows(tmp_path)[0]["messages"]] == ["user", "assistant"], "the student is not told"


COLUMNS = {"ability": ["sums", "sums", "sums", "chat"], "difficulty": ["low", "low", "high", "low"]}


@pytest.mark.parametrize(
    ("settings", "kept", "short"),
    [
        (["balance.cap=1"], {"sums/low": 1, "sums/high": 1, "chat/low": 1}, []),
        (["demonstrations=2"], None, []),
        (["demonstrations=2", "balance.abilities={sums: 1, chat: 1}"], {"sums": 1, "chat": 1}, []),
        (["demonstrations=4", "balance.abilities={sums: 1, chat: 1}"], {"sums": 2, "chat": 1}, [("chat", None, 2, 1)]),
        (["demonstrations=2", "balance.difficulties={high: 1}"], {"sums/high": 1}, [(None, "high", 2, 1)]),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_kept_is_balanced_and_what_is_short_is_said(tmp_path, serve, settings, kept, short):
    write_sums(tmp_path / "sums.jsonl", *["direct"] * 4, **COLUMNS)
    server = serve(teach)
    report = school(tmp_path, *settings, "+teachers.gpt.concurrent=1", gpt=server.url).run()
    got = Counter()
    for row in rows(tmp_path):
        got[row["ability"]] += 1
        got[f"{row['ability']}/{row['metadata']['difficulty']}"] += 1
    if kept is None:
        assert len(rows(tmp_path)) == 2
    else:
        assert {name: got[name] for name in kept} == kept
    assert [(one.ability, one.difficulty, one.wanted, one.kept) for one in report.short] == short
    assert len(server.requests) == report.all.asked == report.all.kept, "nothing is asked that is not wanted"
    assert all(f"{one.kept} of {one.wanted} demonstrations" in (tmp_path / "out/synthesis.md").read_text() for one in report.short)


def test_the_script_of_the_tasks_is_a_teacher(tmp_path, serve):
    settings = ["tasks=toolwise/Basics-v0", "+options.tools=[code]", "episodes=4", "rollout.sandboxes_per_worker=0"]
    write_sums(tmp_path / "sums.jsonl", "right")
    synthesis = school(tmp_path, *settings, "+options.kind=sums", expert="expert")
    assert synthesis.run().teachers["expert"].kept == 4


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ([], r"there is no teacher: write \+teachers\.NAME\.url="),
        (["+teachers.a.url=ftp://x"], "write the address of an endpoint, or expert"),
        (["+teachers.a.url=http://x"], r"write \+teachers\.a\.model=NAME"),
        (["+teachers.a.url=expert", "+teachers.a.speed=1"], r"teachers\.a\.speed: a teacher's settings are url, model"),
        (["+teachers.a.url=expert", "+teachers.a.share=0"], "every teacher has share=0"),
        (["+teachers.a.url=expert", "+teachers.a.prompt=no.md"], r"prompt=no\.md: there is no such file"),
        (["+teachers.a.url=expert", "balance.abilities={x: 1}"], "write demonstrations= as well"),
        (["+teachers.a.url=expert", "rollout.workers=2"], "runs in one process"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, settings, answer):
    write_sums(tmp_path / "sums.jsonl", "right")
    with pytest.raises(UsageError, match=answer) as error:
        school(tmp_path, *settings)
    assert "\n" not in str(error.value)


def test_what_is_there_is_not_overwritten_and_goes_on_as_it_began(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", "direct")
    server = serve(teach)
    school(tmp_path, gpt=server.url).run()
    with pytest.raises(UsageError, match="holds demonstrations already: write resume=true"):
        school(tmp_path, gpt=server.url)
    with pytest.raises(UsageError, match="was begun with seed=0"):
        school(tmp_path, "resume=true", "seed=1", gpt=server.url)
    with pytest.raises(UsageError, match="was begun with difficulty=None"):  # what is done has its difficulty already
        school(tmp_path, "resume=true", "difficulty=level", gpt=server.url)
    assert school(tmp_path, "resume=true", gpt=server.url).run().all.kept == 1
    assert len(server.requests) == 1


def test_a_refused_key_is_the_users_mistake_and_what_was_there_is_kept(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", *["direct"] * 3)
    server = serve(teach, 401)
    with pytest.raises(UsageError, match="401"):
        school(tmp_path, "+teachers.gpt.concurrent=1", gpt=server.url).run()
    assert len(rows(tmp_path)) == 1


def test_no_question_that_can_be_put_is_the_users_mistake(tmp_path, serve):
    write_sums(tmp_path / "sums.jsonl", "refused", "refused")
    with pytest.raises(UsageError, match="no question could be put to the teachers; the first of 2"):
        school(tmp_path, gpt=serve(teach).url).run()


def test_the_share_of_a_teacher_that_refuses_all_goes_to_the_others(tmp_path, serve):
    """Eight questions, four each: after two refusals the other two of its share are put to the other teacher."""
    write_sums(tmp_path / "sums.jsonl", *["direct"] * 8)
    refusing = serve((400, {"message": "filtered by the content management policy", "code": "content_filter"}))
    settings = ["rollout.max_consecutive_failures=2", "+teachers.bad.concurrent=1"]
    report = school(tmp_path, *settings, good=serve(teach).url, bad=refusing.url).run()
    assert (report.teachers["good"].kept, report.teachers["bad"].asked, report.not_asked) == (6, 2, 0)
    (note,) = report.notes
    assert note.startswith("bad refused all of 2 questions (")
    assert note.endswith("and was asked no more: the rest of its share went to the others")
    assert note in (tmp_path / "out/synthesis.md").read_text()


def test_the_requests_of_a_session_are_the_teachers_own(tmp_path, serve, monkeypatch):
    monkeypatch.setenv("LOCAL_KEY", "secret")
    write_sums(tmp_path / "sums.jsonl", "right")
    server = serve(teach)
    school(
        tmp_path,
        "+teachers.gpt.temperature=0.25",
        "+teachers.gpt.extra={top_p: 0.9}",
        "+teachers.gpt.key=LOCAL_KEY",
        gpt=server.url,
    ).run()
    assert set(server.keys) == {"Bearer secret"}
    assert "secret" not in (tmp_path / "out/config.yaml").read_text()
    assert {(body["temperature"], body["top_p"], body["model"]) for body in server.requests} == {(0.25, 0.9, "m-gpt")}
    assert [sum_of(body)[2] for body in server.requests] == [0, 1]
