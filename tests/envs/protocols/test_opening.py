"""What a user writes as `protocol=`: a name, options, an import path, a class or a protocol itself."""

import own_protocols
import pytest

from envs.errors import UsageError
from envs.protocols import DeepEyes, Hermes, Native
from envs.protocols.opening import open_protocol


@pytest.mark.parametrize(("name", "kind"), [("deepeyes", DeepEyes), ("hermes", Hermes), ("native", Native)])
def test_built_in_protocols_are_opened_by_name(name, kind):
    assert type(open_protocol(name)) is kind


@pytest.mark.parametrize(
    ("setting", "stop"),
    [
        ({"hermes": {"answer": "tag"}}, ("</answer>",)),
        ({"hermes": {"parallel": False}}, ("</tool_call>",)),
        ({"hermes": None}, ()),
        ({"hermes": {}}, ()),
        ({"native": {"answer": "tag"}}, ("</answer>",)),
    ],
)
def test_options_stand_behind_the_name(setting, stop):
    assert open_protocol(setting).stop == stop


@pytest.mark.parametrize(
    ("setting", "loud"),
    [
        ("own_protocols:Lines", False),
        ({"own_protocols:Lines": {"loud": True}}, True),
        ("own_protocols:READY", True),
        (own_protocols.Lines, False),
        (own_protocols.READY, True),
    ],
    ids=["path", "path with options", "path of an object", "class", "object"],
)
def test_a_protocol_of_ones_own_is_opened(setting, loud):
    opened = open_protocol(setting)
    assert isinstance(opened, own_protocols.Lines)
    assert opened.loud is loud


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("hermess", "did you mean hermes?"),
        ("", "write deepeyes or hermes or native"),
        ({"hermes": {"answers": "tag"}}, "it takes answer, parallel"),
        ({"hermes": {"answer": "json"}}, "write turn or tag"),
        ({"hermes": "tag"}, "write its options by name"),
        ({"deepeyes": {"x": 1}}, "it takes no options"),
        ({"hermes": {}, "native": {}}, "write one name"),
        ({}, "write one name"),
        ({"own_protocols:READY": {"loud": False}}, "name its class"),
        ("own_protocols:number", "is not a Protocol"),
        ("own_protocols:nothing", "has no nothing"),
        ("own_protocols:Unwritten", "write its instructions, is_well_formed, parse, write"),
        (own_protocols.Unwritten, "protocol Unwritten: write its"),
        ("nowhere_at_all:X", "PYTHONPATH"),
        (5, "is not a Protocol"),
        (None, "protocol=None: there is no such name"),
    ],
)
def test_what_cannot_be_a_protocol_is_refused_in_one_line(setting, named):
    with pytest.raises(UsageError) as refused:
        open_protocol(setting)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
