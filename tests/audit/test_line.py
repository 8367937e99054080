from __future__ import annotations

import hashlib
import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.audit.exchanges import make_exchange, make_head

from understudy.audit import events
from understudy.audit.line import encode
from understudy.audit.redaction import hide_placeholders
from understudy.credentials.placeholders import Placeholders
from understudy.credentials.secret import Secret
from understudy.reasons import Reason

HOSTILE = [
    b"\x00\x01\x1f",
    b'\n{"forged":true}\n',
    b"\r\n",
    "\x85\u2028\u2029\x9b".encode(),
    b"\xff\xfe\xc3",
    b"\x7f\x1b[2J",
    b'"\\',
    "\U0001f600".encode(),
]


@given(st.binary(max_size=5000), st.binary(max_size=5000), st.sampled_from(list(Reason)))
def test_any_bytes_of_an_agent_give_one_valid_bounded_ascii_line(path, host, reason):
    exchange = make_exchange(
        target=None, routed=None, head=make_head(path=path, host=host), refusal=reason
    )

    line = encode(events.request_decided(exchange))

    assert line.isascii()
    assert line.count(b"\n") == 1
    assert not any(byte < 0x20 or byte == 0x7F for byte in line[:-1])
    assert isinstance(json.loads(line), dict)
    assert len(line) < 40_000


@given(st.text(st.characters() | st.characters(categories=["Cs"]), max_size=400))
@example("\udcff")
def test_any_text_even_lone_surrogates_gives_valid_unicode(text):
    fields = json.loads(encode({"host": text, "list": [text], "map": {"path": text}}))

    fields["host"].encode("utf-8")
    fields["list"][0].encode("utf-8")
    fields["map"]["path"].encode("utf-8")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_breaks_a_line(hostile):
    line = encode({"host": hostile, "http": {"path": hostile}})

    assert not any(byte < 0x20 or byte >= 0x7F for byte in line[:-1])
    assert len(line.splitlines()) == 1
    assert len(line.decode().splitlines()) == 1


def test_text_survives():
    assert json.loads(encode({"host": "bücher.example"}))["host"] == "bücher.example"
    assert json.loads(encode({"host": "bücher".encode()}))["host"] == "bücher"
    assert json.loads(encode({"host": b"\xff"}))["host"] == "\\xff"


@pytest.mark.parametrize(("field", "limit"), [("host", 256), ("detail", 256), ("path", 2048)])
def test_a_long_field_is_cut_with_its_digest_beside_it(field, limit):
    at_limit, over = "a" * limit, "a" * (limit + 1)

    assert json.loads(encode({field: at_limit})) == {field: at_limit}
    assert json.loads(encode({field: over})) == {
        field: at_limit,
        f"{field}_sha256": hashlib.sha256(over.encode()).hexdigest(),
    }


def test_the_digest_is_of_the_bytes_that_were_sent():
    sent = b"\xff" * 300

    assert json.loads(encode({"host": sent}))["host_sha256"] == hashlib.sha256(sent).hexdigest()


def test_nulls_are_left_out_at_every_depth():
    assert json.loads(encode({"a": None, "b": {"c": None, "d": 1}, "e": [{"f": None}]})) == {
        "b": {"d": 1},
        "e": [{}],
    }


def test_lists_are_bounded():
    assert len(json.loads(encode({"swapped": [{}] * 1000}))["swapped"]) == 16


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_do_not_reach_it(number):
    assert json.loads(encode({"duration_ms": number})) == {"duration_ms": None}


def test_a_secret_object_is_never_shown():
    secret = Secret("sk-real-value", "API_KEY")

    line = encode({"swapped": [{"secret": secret}], "detail": secret})

    assert b"sk-real-value" not in line


def test_a_placeholder_in_a_line_becomes_its_connections_name():
    placeholders = Placeholders({"bot": "ghp_" + "x" * 36, "other": "sk-" + "y" * 40})
    head = make_head(
        path=b"/x/" + placeholders["bot"].encode() + b"/" + placeholders["bot"].encode()
    )
    exchange = make_exchange(target=None, head=head, refusal=Reason.PLACEHOLDER_MISPLACED)

    line = hide_placeholders(encode(events.request_decided(exchange)), placeholders)

    assert placeholders["bot"].encode() not in line
    path = json.loads(line)["http"]["path"]
    assert path == "/x/<placeholder of bot>/<placeholder of bot>"
