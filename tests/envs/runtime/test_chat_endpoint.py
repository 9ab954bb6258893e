"""A client learns from an endpoint's refusal which request it takes, says so, and keeps to it; what it cannot learn it reports."""

import pytest

from envs.errors import ConversationTooLong, EndpointFailed, EndpointRefused, EndpointUnusable
from envs.runtime.chat_endpoint import ChatEndpoint

SAMPLING = {"max_tokens": 64, "temperature": 0.0, "seed": 1}
CONVERSATION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"}]


def refusing(unwelcome, message, status=400, **error):
    """A server that refuses requests with the parameter `unwelcome`."""
    return lambda body: (status, {"message": message} | error) if unwelcome in body else "yes"


def without_system(message):
    return lambda body: (400, {"message": message}) if any(each["role"] == "system" for each in body["messages"]) else "yes"


REFUSALS = {
    "GPT-5: max_tokens": refusing(
        "max_tokens",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        code="unsupported_parameter",
        param="max_tokens",
    ),
    "o1: temperature": refusing(
        "temperature",
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
    ),
    "Mistral: seed": refusing(
        "seed", "", 422, detail=[{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]
    ),
    "Gemini: seed": refusing("seed", 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'),
    "Groq: temperature": refusing("temperature", "property 'temperature' is unsupported"),
    "Kimi: temperature": refusing("temperature", "invalid temperature: only 1 is allowed for this model"),
    "Claude, thinking: temperature": refusing("temperature", "`temperature` may only be set to 1 when thinking is enabled."),
    "pydantic: system": without_system(
        "[{'loc': ['body', 'messages', 0, 'role'], 'msg': \"not a valid enumeration member; permitted: 'user', 'assistant'\"}]"
    ),
    "Gemma: system": without_system("System role not supported"),
    "o1-preview: system": without_system("Unsupported value: 'messages[0].role' does not support 'system' with this model."),
    "Gemma on Google: system": without_system("Developer instruction is not enabled for models/gemma-3-27b-it"),
}


async def asked(server, messages=CONVERSATION, **options):
    """The text of the reply, or the error; and the notes."""
    endpoint = ChatEndpoint(server.url, "m", timeout_s=5, attempts=1, **options)
    try:
        return (await endpoint.complete(messages, **SAMPLING)).text, endpoint.notes
    finally:
        await endpoint.close()


@pytest.mark.parametrize("reply", REFUSALS.values(), ids=REFUSALS)
async def test_a_refused_parameter_is_left_out_or_renamed_from_then_on(serve, reply):
    server = serve(reply)
    endpoint = ChatEndpoint(server.url, "m", timeout_s=5, attempts=1)
    assert [(await endpoint.complete(CONVERSATION, **SAMPLING)).text for _ in range(2)] == ["yes", "yes"]
    assert len(server.requests) == 3  # the refused one, and the two that were taken
    assert len(endpoint.notes) == 1
    await endpoint.close()


async def test_an_endpoint_may_refuse_one_parameter_after_the_other(serve):
    def reply(body):
        first = next((name for name in ("seed", "temperature") if name in body), None)
        return (400, {"message": f"Unrecognized request argument supplied: {first}"}) if first else "yes"

    text, notes = await asked(serve(reply))
    assert (text, len(notes)) == ("yes", 2)


async def test_a_system_prompt_that_is_not_taken_stands_before_the_users_text_and_its_images(serve):
    server = serve(REFUSALS["Gemma: system"])
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    await asked(server, [CONVERSATION[0], {"role": "user", "content": [image, {"type": "text", "text": "Q"}]}])
    (message,) = server.requests[-1]["messages"]
    assert message == {"role": "user", "content": [{"type": "text", "text": "Be brief."}, image, {"type": "text", "text": "Q"}]}


async def test_the_form_of_a_request_can_be_configured(serve):
    server = serve("yes")
    extra = {"reasoning_effort": "low", "vendor": {"top_k": 3}}
    await asked(server, omit=["seed"], rename={"max_tokens": "max_new_tokens"}, extra=extra)
    (request,) = server.requests
    assert {name: request[name] for name in request.keys() - {"messages", "model"}} == {
        "max_new_tokens": 64,
        "temperature": 0.0,
        **extra,
    }


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (401, {"message": "Incorrect API key"}, EndpointUnusable),
        (402, {"message": "Insufficient Balance"}, EndpointUnusable),
        (404, {"message": "The model `m` does not exist"}, EndpointUnusable),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, EndpointUnusable),
        (429, {"message": "Rate limit reached"}, EndpointFailed),
        (503, {"message": "Overloaded"}, EndpointFailed),
        (400, {"message": "filtered by the content management policy", "code": "content_filter"}, EndpointRefused),
        (403, {"message": "your input was flagged", "metadata": {"reasons": ["violence"]}}, EndpointRefused),
        (400, {"message": "temperature must be at most 1"}, EndpointRefused),
        (404, {"message": "No endpoints found that support image input", "code": 404}, EndpointRefused),
        (400, {"message": "max_tokens is too large: 9. This model's maximum context length is 8"}, ConversationTooLong),
    ],
)
async def test_what_cannot_be_learned_is_told_apart(serve, status, error, kind):
    server = serve((status, error))
    with pytest.raises((EndpointFailed, EndpointRefused)) as raised:
        await asked(server)
    assert raised.type is kind
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
        (404, "No endpoints found that support tool use."),
    ],
)
async def test_tools_that_the_server_does_not_know_have_a_remedy(serve, status, message):
    endpoint = ChatEndpoint(serve((status, {"message": message})).url, "m", timeout_s=5, attempts=1)
    with pytest.raises(EndpointUnusable, match="protocol=hermes"):
        await endpoint.complete(CONVERSATION, tools=[{"type": "function", "function": {"name": "f"}}])
    await endpoint.close()


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "yes", "reasoning_content": "hm"}, "yes", "hm"),
        ({"content": "yes", "reasoning": "hm"}, "yes", "hm"),
        ({"content": None, "reasoning_content": "hm"}, "", "hm"),
        ({"content": [{"type": "text", "text": "y"}, {"type": "text", "text": "es"}]}, "yes", ""),
        ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "yes"}]}, "yes", ""),
        ({"content": None, "refusal": "I cannot help with that."}, "I cannot help with that.", ""),
        ({"content": None}, "", ""),
    ],
)
async def test_the_text_of_a_message_is_read_in_every_form(serve, message, text, reasoning):
    endpoint = ChatEndpoint(serve(message).url, "m", timeout_s=5, attempts=1)
    reply = await endpoint.complete(CONVERSATION)
    assert (reply.text, reply.reasoning) == (text, reasoning)
    await endpoint.close()


@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (b"<html>", EndpointFailed, "no chat completion: '<html>'"),
        ({"detail": "Not found"}, EndpointFailed, "no chat completion"),
        ({"choices": []}, EndpointFailed, "no chat completion"),
        ({"choices": [{"index": 0, "text": "yes", "finish_reason": "stop"}]}, EndpointFailed, "most end in /v1"),
        ([1], EndpointFailed, "no chat completion"),
        ({"error": {"message": "Overloaded", "code": 502}}, EndpointFailed, "Overloaded"),
        ({"error": "Upstream"}, EndpointFailed, "Upstream"),
        ({"error": {"message": "flagged by moderation", "code": 403}}, EndpointRefused, "flagged by moderation"),
        ({"error": {"message": "no credits", "code": 402}}, EndpointUnusable, "no credits"),
        ({"error": {"message": "the maximum context length is 9", "code": 400}}, ConversationTooLong, "context length"),
        (
            {"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": {"message": "Broken"}}]},
            *(EndpointFailed, "Broken"),
        ),
    ],
)
async def test_a_reply_with_status_200_may_be_an_error(serve, answer, kind, reason):
    with pytest.raises((EndpointFailed, EndpointRefused), match=reason) as raised:
        await asked(serve((200, answer)))
    assert raised.type is kind


CALLED = {"name": "f", "arguments": '{"x": 1}'}


@pytest.mark.parametrize(
    ("message", "name", "arguments"),
    [
        ({"function_call": CALLED}, "f", {"x": 1}),
        ({"tool_calls": [{"id": "1", "type": "function", "function": CALLED}]}, "f", {"x": 1}),
        ({"tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]}, "f", {"x": 1}),
        ({"tool_calls": [{"id": "1", "type": "function", "function": {"name": None, "arguments": None}}]}, "", {}),
        ({"tool_calls": [{"id": "1", "type": "function"}]}, "", {}),
        ({"tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "1 + 1"}}]}, "f", {"arguments": "1 + 1"}),
    ],
)
async def test_a_call_is_read_in_every_form_and_never_dropped(serve, message, name, arguments):
    endpoint = ChatEndpoint(serve({"content": None} | message).url, "m", timeout_s=5, attempts=1)
    (call,) = (await endpoint.complete(CONVERSATION)).tool_calls
    assert (call.name, call.arguments) == (name, arguments)
    await endpoint.close()


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 10}, (100, 10)),
        ({"prompt_tokens": 100, "completion_tokens": 0}, (100, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (None, None)),
        ({"completion_tokens": 10}, (None, 10)),
        (None, (None, None)),
    ],
)
async def test_a_server_that_counts_nothing_in_the_prompt_does_not_count(serve, usage, counted):
    endpoint = ChatEndpoint(serve({"content": "yes", "usage": usage}).url, "m", timeout_s=5, attempts=1)
    reply = await endpoint.complete(CONVERSATION)
    assert (reply.tokens_in, reply.tokens_out) == counted
    await endpoint.close()


@pytest.mark.parametrize(
    ("url", "said"), [("http://127.0.0.1:9/v1", r"Errno 111.*127\.0\.0\.1"), ("localhost/v1", "missing an 'http://' or 'https://'")]
)
async def test_a_connection_that_fails_says_what_the_network_says(url, said):
    endpoint = ChatEndpoint(url, "m", timeout_s=5, attempts=1)
    with pytest.raises(EndpointFailed, match=f"gave no answer: .*{said}"):
        await endpoint.complete(CONVERSATION)
