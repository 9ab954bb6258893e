"""A row of each form asks for the rule that its authors mean: the row's truth and its other spellings are right, as a model writes
them plainly, in Markdown, in a box or in a sentence; another value is wrong in each."""

import pytest
from rows_of_the_field import read, verl

from envs.scoring import is_right

FORMS = ("{}", "**{}**", "\\boxed{{{}}}", "The answer is {}.")
ROWS = [  # a row, `columns`, right answers, wrong ones
    ({"query": "Q", "label": ["14"]}, {"answer": "label"}, ["14", "14.0", "**14**"], ["15", "1", "14 or 15"]),
    ({"query": "Q", "label": ["14", "Yes"]}, {"answer": "label"}, ["14", "yes"], ["15", "no"]),
    (
        {"question_id": 0, "label": "A", "text": "What color?\n(A) red\n(B) blue", "image": "a.png"},
        {"question": "text", "answer": "label"},
        ["A", "(A)", "red", "A. red"],
        ["B", "blue", "A or B", "A. blue"],
    ),
    ({"question": "Q", "answer": "true"}, None, ["true", "True", "yes", "Yes"], ["false", "no"]),
    ({"question": "Q", "answer": False}, None, ["false", "no", "No."], ["true", "yes"]),
    ({"question": "Q", "answer": "Yes"}, None, ["yes", "Yes.", "**Yes**"], ["no", "yes and no"]),
    ({"question": "Q", "answer": "72,000"}, None, ["72,000", "72000"], ["72", "72,001"]),
    ({"question": "Q", "answer": "x\n#### 72,000"}, None, ["72,000", "72000", "\\boxed{72000}"], ["72", "72001"]),
    ({"question": "Q", "answer": "12.5%"}, None, ["12.5%", "12.5 %"], ["12%", "1.25%"]),
    ({"question": "Q", "answer": ["3", "three"]}, None, ["3", "three"], ["4"]),
    ({"question": "Q", "answer": 3.14}, None, ["3.14", "3.140"], ["3.15", "3"]),
    ({"question": "Q", "answer": "3.14"}, None, ["3.14"], ["3.15"]),
    ({"question": "Q", "answer": 2, "choices": ["a", "b", "c"]}, None, ["C", "c"], ["B", "2", "a"]),
    (
        {"question": "Q\nOptions: A: red, B: blue, C: 3, D: x", "answer": "A"},
        None,
        ["A", "red", "A: red", "(A)"],
        ["B", "blue", "A: blue"],
    ),
    ({"problem": "P", "solution": "thus \\boxed{\\frac{1}{2}}"}, None, ["1/2", "0.5", "\\frac12"], ["2", "1", "\\frac{2}{1}"]),
    ({"question": "Q", "answer": "2021-05-03", "scoring": "date"}, None, ["May 3, 2021", "3 May 2021"], ["2021-05-04"]),
    ({"question": "Q", "answer": "a, b", "scoring": {"kind": "list", "ordered": False}}, None, ["b, a", "a and b"], ["a", "a, c"]),
    ({"question": "Q", "answer": "5 km", "unit": "km"}, None, ["5 km", "5000 m", "5"], ["5 m", "6 km"]),
    ({"question": "Q", "answer": 5, "unit": "km"}, None, ["5 km", "5000 m"], ["5 m", "6 km"]),
    ({"question": "Q", "answer": "A", "A": "x", "B": "y", "C": "z"}, None, ["A", "x", "(a)", "A. x"], ["B", "y", "z"]),
    ({"question": "Q", "answer": "x", "A": "x", "B": "y", "C": "z"}, None, ["A", "x"], ["B", "y"]),
    ({"question": "Q", "answer": "AC", "A": "x", "B": "y", "C": "z"}, None, ["A, C", "AC", "C and A"], ["A", "C", "A, B"]),
    (
        {"question": "Q", "answers": ["yes", "yes", "yes", "yes", "yes", "yes", "no", "no", "no", "no"]},
        None,
        ["yes", "no"],
        ["maybe"],
    ),
    ({"question": "Q", "answer": "Obama", "aliases": ["Barack Obama"]}, None, ["Obama", "barack obama"], ["Bush"]),
    (
        verl(reward_model={"ground_truth": {"target": ["Obama", "Barack Obama"]}}),
        None,
        ["Obama", "Barack Obama"],
        ["Michelle Obama", "B"],
    ),
    ({"question": "Q", "answer": "(1, 2]"}, None, ["(1, 2]"], ["(1, 2)", "[1, 2]", "x ∈ [1, 2]"]),
    ({"question": "Q", "answer": "x = 5", "data_source": "math"}, None, ["5", "x=5", "x = 5"], ["6"]),
    ({"question": "Q", "answer": "10:30"}, None, ["10:30"], ["10:31", "22:30"]),
    ({"question": "Q", "answer": "-3"}, None, ["-3", "−3"], ["3"]),
    ({"question": "Q", "answer": "1/2"}, None, ["1/2"], ["2", "1"]),
    ({"question": "Q", "answer": "No, it is not."}, None, ["No, it is not"], ["Yes, it is"]),
    ({"question": "Q", "answer": "北京"}, None, ["北京", "北京。"], ["上海"]),
    ({"question": "Q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}, None, ["B", "b"], ["A", "a"]),
    ({"question": "Q", "option1": "x", "option2": "y", "answer": "1"}, None, ["A", "x"], ["B", "y"]),
    ({"question": "Q", "options": {"1": "x", "2": "y"}, "answer": "1"}, None, ["A", "x"], ["B", "y"]),
    ({"question": "Q", "options": {"a": "x", "b": "y"}, "answer": "b"}, None, ["B", "y"], ["A"]),
    ({"question": "Q", "options": ["(A) x", "(B) y"], "answer": "(B) y"}, None, ["B", "y"], ["A"]),
    ({"question": "Q", "options": "A. x\nB. y", "answer": "B"}, None, ["B", "y"], ["A"]),
    ({"question": "Q", "options": ["Yes", "No"], "answer": True}, None, ["A", "Yes", "yes"], ["No", "B"]),
    ({"question": "Q", "options": ["5", "6"], "answer": "6"}, None, ["B", "6"], ["5", "A"]),
    ({"question": "Q", "options": ["5", "6"], "answer": 6}, None, ["B", "6"], ["5", "A"]),
    ({"question": "Q", "options": [5, 6], "answer": 6}, None, ["B", "6"], ["5", "A"]),
]


@pytest.mark.parametrize(("row", "columns", "right", "wrong"), ROWS, ids=range(len(ROWS)))
async def test_a_rows_truth_is_right_in_every_form_and_another_value_in_none(tmp_path, row, columns, right, wrong):
    task = read(tmp_path, row, columns=columns)
    judged = {
        form.format(answer): await is_right(task.question, form.format(answer), task.answer, task.scoring)
        for answer in (task.answer, *right, *wrong)
        for form in FORMS
    }
    expected = {form.format(answer): answer not in wrong for answer in (task.answer, *right, *wrong) for form in FORMS}
    assert [answer for answer in judged if judged[answer] is not expected[answer]] == []
