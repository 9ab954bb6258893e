"""The verdict in a judge's reply: the last unmistakable one, in any notation; contradictory ones are none."""

import pytest

from envs.scoring.verdicts import verdict


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ('{"correct": true}', True),
        ('{"correct": true, "reason": "same place"}', True),
        ('{"reason": "another place", "correct": false}', False),
        ('{"correct": True}', True),
        ("{'correct': False, 'reason': \"it's another\"}", False),
        ('{"correct": "true"}', True),
        ('{"Correct": "No"}', False),
        ('{"correct": 1}', True),
        ("{correct: true}", True),
        ('```json\n{"correct": false}\n```', False),
        ('<think>{"correct": true}?</think>\n{"correct": false}', False),
        ('It might be {"correct": true}, but:\n{"correct": false}', False),
        ('{"correct": false, "reason": "it claims {\\"correct\\": true}"}', False),
        ('{"correct": true, "reason": "the same pl', True),
        ("**Yes.**", True),
        ("Correct: false", False),
        ('{"correct": true}\n{"correct": false}', None),
        ('{"correct": true} {"correct": false}', None),
        ('{"correct": true, "correct": false}', None),
        ('{"correct": "partly"}', None),
        ('{"correct": null}', None),
        ("I think so.", None),
        ("Yes and no.", None),
        ("not correct", None),
        ("{" * 500, None),
        ("", None),
    ],
)
def test_the_verdict_of_a_reply(reply, right):
    assert verdict(reply) is right
