"""An answer that gives the truth is right in every form that models write, whatever the kind; another value is wrong in each."""

import pytest

from envs.scoring import Kind, Scoring, is_right

OPTIONS = (("A", "cat"), ("B", "dog"), ("C", "red car"), ("D", "7"), ("E", "fox"))
FORMS = {
    "plain": "{}",
    "full stop": "{}.",
    "bold": "**{}**",
    "bold label": "**Answer:** {}",
    "italic": "_{}_",
    "code": "`{}`",
    "code block": "```\n{}\n```",
    "heading": "### {}",
    "quoted": '"{}"',
    "typographic quotes": "“{}”",
    "boxed": r"\boxed{{{}}}",
    "boxed in maths": r"$\boxed{{{}}}$",
    "boxed text": r"\boxed{{\text{{{}}}}}",
    "inline maths": "${}$",
    "display maths": r"\[{}\]",
    "parenthesised maths": r"\({}\)",
    "sentence": "The answer is {}.",
    "bold sentence": "The answer is **{}**.",
    "boxed sentence": r"The final answer is $\boxed{{{}}}$. I hope it is correct.",
    "colon": "Final answer: {}",
    "Chinese": "答案是{}。",
    "tag": "<answer>{}</answer>",
    "spaces": "  {}\n",
}
TRUTHS = [  # a rule, the truth, the same in other spellings, and other values
    (Scoring(), "Eiffel Tower", ["the Eiffel Tower", "eiffel tower"], ["Big Ben", "Eiffel", "Eiffel Tower or Big Ben"]),
    (Scoring(), "007", ["007"], ["7", "07", "0070"]),
    (Scoring(), "1.10", ["1.10"], ["1.1", "110", "1.100"]),
    (Scoring(), "yes", ["Yes", "true"], ["no", "False", "yes or no"]),
    (Scoring(), "北京", ["北京"], ["上海", "北京或上海"]),
    (Scoring(Kind.NUMBER), "42", ["42", "42.0", "forty-two", "42 apples"], ["43", "4.2", "42k", "42 or 43", "-42"]),
    (Scoring(Kind.NUMBER), "0.5", ["1/2", "50%", ".5", "0,5"], ["5", "0.05", "2/1", "5%"]),
    (Scoring(Kind.NUMBER), "30000", ["30,000", "3万", "30k", "3e4", "30 thousand"], ["3", "3,000", "3k", "30"]),
    (Scoring(Kind.NUMBER, unit="km"), "5", ["5 km", "5000 m", "5公里", "5"], ["5 m", "5 miles", "6 km", "5 km 3 miles"]),
    (Scoring(Kind.NUMBER, unit="usd"), "5000000", ["5 million dollars", "USD 5,000,000"], ["5 dollars", "5 million euros"]),
    (Scoring(Kind.CHOICE, options=OPTIONS), "B", ["B", "(B)", "b", "B. dog", "dog", "B: dog"], ["A", "A cat", "A or B", "B. cat"]),
    (Scoring(Kind.CHOICE, options=OPTIONS), "D", ["D", "7", "seven"], ["A", "8", "D or E", "E. 7"]),
    (Scoring(Kind.CHOICE, options=OPTIONS), "A, C", ["A, C", "C and A", "AC", "(A), (C)"], ["A", "C", "A, B", "A or C", "A, B, C"]),
    (Scoring(Kind.DATE), "2021-05-03", ["3 May 2021", "May 3, 2021", "2021年5月3日"], ["4 May 2021", "May 2021", "03/05/2021"]),
    (Scoring(Kind.DATE), "May 2021", ["2021-05", "3 May 2021"], ["June 2021", "2021", "May"]),
    (Scoring(Kind.LIST), "Chad, Mali, Niger", ["Chad, Mali and Niger", "Chad; Mali; Niger"], ["Chad, Mali", "Mali, Chad, Niger"]),
    (Scoring(Kind.LIST, item=Kind.NUMBER), "1, 2, 3", ["1,2,3", "1, 2 and 3", "[1, 2, 3]"], ["1, 2", "1, 2, 4", "1-3", "123"]),
    (Scoring(Kind.MATH), r"2\sqrt{2}", [r"2\sqrt{2}", r"\sqrt{8}"], ["2", r"\sqrt{2}", r"2\sqrt{3}", r"2\sqrt(3)"]),
    (Scoring(Kind.MATH), r"\frac{3}{4}", [r"\dfrac{3}{4}", "3/4", "0.75"], ["3", r"\frac{4}{3}", "0.7"]),
    (Scoring(Kind.MATH), "(x+1)^2", ["x^2 + 2x + 1", "(1+x)^{2}"], ["x^2 + 1", "x + 1"]),
    (Scoring(Kind.MATH), r"\text{no solution}", ["no solution"], ["0", "infinitely many"]),
]  # fmt: skip


def rows():
    for scoring, truth, right, wrong in TRUTHS:
        yield pytest.param(scoring, truth, [truth, *right], True, id=f"{scoring.kind} {truth}: right")
        yield pytest.param(scoring, truth, wrong, False, id=f"{scoring.kind} {truth}: wrong")


@pytest.mark.parametrize(("scoring", "truth", "answers", "right"), rows())
async def test_every_form_of_an_answer_is_judged_alike(scoring, truth, answers, right):
    judged = {
        (name, answer): await is_right("Q", form.format(answer), truth, scoring)
        for answer in answers
        for name, form in list(FORMS.items())[:: 3 if scoring.kind is Kind.MATH else 1]  # a comparison takes 20 ms
    }
    assert [key for key, value in judged.items() if value is not right] == []
