"""Where prompts are shared, found by asking the template."""

from pathlib import Path
from typing import Any

import pytest

from coordinator.text.marks import shared_places
from coordinator.text.prompt import PromptCodec
from tests.tokenizer_files import byte_level, save

SYSTEM = {"role": "system", "content": "Be brief."}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


PLAIN = """\
{%- for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""
# tools after the system message, thoughts only in the answers after the last user message, as many templates have it
FULL = """\
{%- set state = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set state.last = loop.index0 %}{% endif %}{% endfor %}
{%- if state.last < 0 %}{{ raise_exception('no user message') }}{% endif %}
{%- for m in messages %}
{{- '<' + m.role + '>' }}
{%- if m.role == 'assistant' and loop.index0 < state.last %}{{ m.content.split('</think>')[-1] }}
{%- else %}{{ m.content | trim }}{% endif %}
{%- if loop.first and tools %}{{ tools | tojson }}{% endif %}
{{- '</>' }}
{%- endfor %}
{%- if add_generation_prompt %}<assistant><think>{% endif %}"""


def places(tmp_path: Path, template: str, messages: list[Any], **options: Any) -> list[str]:
    """The shared beginnings themselves."""
    codec = PromptCodec.load(save(byte_level(), tmp_path, template=template))
    text = codec.render(messages, **options)
    found = shared_places(
        text, messages, lambda other: codec.render(other, **options | {"add_generation_prompt": False})
    )
    assert list(found) == sorted(set(found))
    return [text[:place] for place in found]


def test_before_the_first_user_message_and_before_the_invitation(tmp_path: Path) -> None:
    assert places(tmp_path, PLAIN, [SYSTEM, user("Hi")]) == [
        "<system>Be brief.</><user>",
        "<system>Be brief.</><user>Hi</>",
    ]


def test_without_a_system_message_the_first_place_is_the_role(tmp_path: Path) -> None:
    assert places(tmp_path, PLAIN, [user("Hi")]) == ["<user>", "<user>Hi</>"]


def test_tools_are_shared_and_a_template_that_needs_a_user_message_gets_one(tmp_path: Path) -> None:
    system, whole = places(tmp_path, FULL, [SYSTEM, user(" Hi ")], tools=TOOLS)
    assert system.startswith("<system>Be brief.[{")
    assert system.endswith("}]</><user>")
    assert whole == system + "Hi</>"


def test_a_second_turn_shares_up_to_the_thoughts_that_are_left_out(tmp_path: Path) -> None:
    first = [SYSTEM, user("One?")]
    second = [*first, assistant("hm</think>Two."), user("Three?")]
    places_of_first = places(tmp_path, FULL, first)
    places_of_second = places(tmp_path, FULL, second)
    assert places_of_second[-1].startswith(places_of_first[-1])
    assert places_of_second[-1].endswith("<assistant>Two.</><user>Three?</>")
    assert places_of_second[0] == places_of_first[0]


def test_among_calls_of_tools_the_last_result_counts_beside_the_last_user_message(tmp_path: Path) -> None:
    messages = [SYSTEM, user("Look"), assistant("hm</think>call"), {"role": "tool", "content": "42"}]
    assert places(tmp_path, FULL, messages) == [
        "<system>Be brief.</><user>",
        "<system>Be brief.</><user>Look</>",
        "<system>Be brief.</><user>Look</><assistant>hm</think>call</><tool>42</>",
    ]


@pytest.mark.parametrize("messages", [[SYSTEM], [SYSTEM, assistant("Well,")]], ids=["system", "going on"])
def test_without_a_user_message_there_is_none(tmp_path: Path, messages: list[Any]) -> None:
    assert places(tmp_path, PLAIN, messages) == []


def test_a_template_that_refuses_a_shorter_conversation_gives_fewer_places(tmp_path: Path) -> None:
    picky = (
        "{% if messages[-1].role != 'user' or messages | length < 3 %}{{ raise_exception('no') }}{% endif %}" + PLAIN
    )
    messages = [user("One?"), assistant("Two."), user("Three?")]
    assert places(tmp_path, picky, messages) == ["<user>One?</><assistant>Two.</><user>Three?</>"]
