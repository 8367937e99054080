from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.credentials.samples import API_KEY, BASIC, BEARER, QUERY_KEY, basic, head

from understudy.credentials.carriers import (
    Carrier,
    Head,
    add_credential,
    find_slots,
    parameters,
    remove_slot,
    write_slot,
)

KEY = "sk-0123456789abcdefghijABCDEFGHIJ"
NEW = b"real/secret+with=odd&signs%41;"

header_values = st.binary(max_size=30).map(lambda b: b.translate(None, b"\r\n\0"))
header_names = st.from_regex(rb"x-[a-z]{1,8}", fullmatch=True)
other_headers = st.lists(st.tuples(header_names, header_values), max_size=4).filter(
    lambda fields: all(name != b"x-api-key" for name, _ in fields)
)
visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=12)
carriers = st.sampled_from([BEARER, BASIC, Carrier("basic", part="username"), API_KEY, QUERY_KEY])


def values_of(carrier: Carrier, subject: Head) -> list[bytes]:
    return [slot.value for slot in find_slots(carrier, subject)]


@pytest.mark.parametrize(
    ("value", "after"),
    [
        (f"Bearer {KEY}", b"Bearer new"),
        (f"bearer {KEY}", b"bearer new"),
        (f"BEARER   {KEY}", b"BEARER   new"),
        (f"token {KEY}", b"token new"),
        (f"Token\t{KEY} ", b"Token\tnew "),
        (f" \t Bearer \t {KEY}\t ", b" \t Bearer \t new\t "),
    ],
)
def test_bearer_keeps_the_scheme_word_its_case_and_spacing(value: str, after: bytes) -> None:
    before = head(("Authorization", value))
    (slot,) = find_slots(BEARER, before)
    assert slot.value == KEY.encode()
    assert write_slot(before, BEARER, slot, b"new").headers == ((b"Authorization", after),)


@pytest.mark.parametrize(
    "value",
    [KEY, f"Bearer{KEY}", f"Basic {KEY}", f"Digest {KEY}", f"Bearer: {KEY}", f"x Bearer {KEY}", ""],
)
def test_only_bearer_and_token_are_bearer(value: str) -> None:
    assert find_slots(BEARER, head(("Authorization", value))) == []


def test_white_space_inside_a_bearer_is_part_of_it() -> None:
    subject = head(("Authorization", f"Bearer a \t b  {KEY} "))
    assert values_of(BEARER, subject) == [f"a \t b  {KEY}".encode()]


def test_comma_joined_bearers_are_one_longer_value() -> None:
    joined = head(("Authorization", f"Bearer {KEY}, Bearer {KEY}"))
    assert values_of(BEARER, joined) == [f"{KEY}, Bearer {KEY}".encode()]


def test_bearer_may_travel_in_another_header() -> None:
    carrier = Carrier.parse({"bearer": "CF-AIG-Authorization"})
    assert carrier.label == "header:cf-aig-authorization"
    assert values_of(carrier, head(("cf-aig-authorization", f"Bearer {KEY}"))) == [KEY.encode()]
    assert values_of(carrier, head(("Authorization", f"Bearer {KEY}"))) == []


def test_basic_keeps_the_user() -> None:
    before = head(("Authorization", basic("x-access-token", KEY)))
    (slot,) = find_slots(BASIC, before)
    after = write_slot(before, BASIC, slot, b"new:with:colons")
    (name_and_value,) = after.headers
    assert base64.b64decode(name_and_value[1].removeprefix(b"Basic ")) == (
        b"x-access-token:new:with:colons"
    )


@pytest.mark.parametrize("user", ["", "u", "us", "use"])
@pytest.mark.parametrize("around", ["Basic {}", " \t BASIC \t {}\t ", "basic {}"])
def test_basic_may_use_every_digit_of_base64_and_any_padding(user: str, around: str) -> None:
    every = base64.b64decode("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+/")
    token = base64.b64encode(user.encode() + b":" + every).decode()
    subject = head(("Authorization", around.format(token)))
    (slot,) = find_slots(BASIC, subject)
    assert (slot.other, slot.value) == (user.encode(), every)
    assert write_slot(subject, BASIC, slot, every) == subject


@pytest.mark.parametrize(
    "token",
    [
        "####",
        base64.b64encode(f"u:{KEY}".encode()).decode().rstrip("="),
        base64.b64encode(f"uu:{KEY}".encode()).decode() + "====",
        base64.b64encode(f"u:{KEY}".encode()).decode()[:-3] + "x==",
        base64.urlsafe_b64encode(b"\xff\xfe:" + KEY.encode()).decode(),
        base64.b64encode(f"{KEY}".encode()).decode(),
        base64.b64encode(f"u:{KEY}".encode()).decode() + " trailing",
    ],
)
def test_malformed_basic_is_never_a_slot(token: str) -> None:
    assert find_slots(BASIC, head(("Authorization", f"Basic {token}"))) == []


def test_header_names_match_in_any_case_and_the_value_is_whole() -> None:
    assert values_of(API_KEY, head(("X-API-Key", f" {KEY}\t"))) == [KEY.encode()]
    assert values_of(API_KEY, head(("X-API-Key", f"{KEY}x"))) == [f"{KEY}x".encode()]
    assert values_of(API_KEY, head(("X-API-Keys", KEY))) == []


def test_query_is_swapped_percent_encoded_and_nothing_else_moves() -> None:
    before = head(target=f"/a%20b?x=%41&key={KEY}&&y=1+2&=z")
    (slot,) = find_slots(QUERY_KEY, before)
    after = write_slot(before, QUERY_KEY, slot, NEW)
    assert after.target == b"/a%20b?x=%41&key=" + quote(NEW, safe="").encode() + b"&&y=1+2&=z"


def test_query_names_and_values_are_percent_decoded() -> None:
    encoded = "".join(f"%{ord(c):02x}" for c in KEY)
    assert values_of(QUERY_KEY, head(target=f"/?%6bey={encoded}")) == [KEY.encode()]
    assert values_of(QUERY_KEY, head(target=f"/?Key={KEY}&a=key={KEY}")) == []
    assert values_of(QUERY_KEY, head(target=f"/key={KEY}")) == []


@pytest.mark.parametrize(
    ("target", "left"),
    [
        ("/a?key=1&b=2", b"/a?b=2"),
        ("/a?b=2&key=1", b"/a?b=2"),
        ("/a?b=2&key=1&c=%33", b"/a?b=2&c=%33"),
        ("/a?key=1", b"/a"),
    ],
)
def test_a_removed_parameter_leaves_a_clean_query(target: str, left: bytes) -> None:
    before = head(target=target)
    (slot,) = find_slots(QUERY_KEY, before)
    assert remove_slot(before, slot).target == left


@given(carriers, other_headers, visible, visible.filter(bool))
def test_a_written_credential_is_found_whole_and_alone(
    carrier: Carrier, others: list[tuple[bytes, bytes]], path: str, credential: str
) -> None:
    credential = credential.replace(":", "_") if carrier.part == "username" else credential
    before = Head(tuple(others), f"/{quote(path)}?q=1".encode())
    after = add_credential(before, carrier, credential.encode())
    assert values_of(carrier, after) == [credential.encode()]
    (slot,) = find_slots(carrier, after)
    assert remove_slot(after, slot) == before


@given(carriers, other_headers, st.text("abc%+&=;/", max_size=10))
def test_a_swap_changes_the_credential_and_no_other_byte(
    carrier: Carrier, others: list[tuple[bytes, bytes]], query: str
) -> None:
    bare = Head(tuple(others), f"/p?{query}".encode())
    before = add_credential(bare, carrier, KEY.encode())
    (slot,) = [s for s in find_slots(carrier, before) if s.value == KEY.encode()]
    after = write_slot(before, carrier, slot, b"s3cret")
    assert KEY.encode() not in b"".join(v for _, v in after.headers) + after.target
    (new,) = [s for s in find_slots(carrier, after) if s.value == b"s3cret"]
    assert remove_slot(after, new) == remove_slot(before, slot)
    assert write_slot(after, carrier, new, KEY.encode()) == before


@given(st.binary(max_size=60))
def test_any_target_is_read_without_error(target: bytes) -> None:
    for parameter in parameters(b"/?" + target):
        assert parameter.start <= parameter.value_start <= parameter.end <= len(target) + 2


@given(st.binary(max_size=60), carriers)
def test_any_header_value_is_read_without_error(value: bytes, carrier: Carrier) -> None:
    subject = Head(((b"authorization", value), (b"x-api-key", value)), b"/")
    for slot in find_slots(carrier, subject):
        assert write_slot(subject, carrier, slot, slot.value).headers


@pytest.mark.parametrize(
    ("mapping", "carrier", "label"),
    [
        ({"bearer": True}, BEARER, "header:authorization"),
        ({"basic": "password"}, BASIC, "basic:password"),
        ({"basic": "username"}, Carrier("basic", part="username"), "basic:username"),
        ({"header": "X-Search-Key"}, Carrier("header", "x-search-key"), "header:x-search-key"),
        ({"query": "key"}, QUERY_KEY, "query:key"),
        ({"query": "aZ09._~-[$]"}, Carrier("query", "aZ09._~-[$]"), "query:az09._~-[$]"),
        (
            {"header": "!#$%&'*+-.^_`|~09azAZ"},
            Carrier("header", "!#$%&'*+-.^_`|~09azaz"),
            "header:!#$%&'*+-.^_`|~09azaz",
        ),
        (
            {"basic": "password", "username": '!"09;<@az~'},
            Carrier("basic", part="password", username='!"09;<@az~'),
            "basic:password",
        ),
    ],
)
def test_each_carrier_is_written_as_documented(
    mapping: dict[str, object], carrier: Carrier, label: str
) -> None:
    assert Carrier.parse(mapping) == carrier
    assert carrier.label == label


@pytest.mark.parametrize(
    "mapping",
    [
        {},
        {"bearer": False},
        {"bearer": True, "header": "X-Key"},
        {"basic": "both"},
        {"header": "X Key"},
        {"header": 3},
        {"header": "X-Key\n"},
        {"header": "X(Key)"},
        {"query": "a b"},
        {"query": "a%41"},
        {"query": 3},
        {"query": "a&b"},
        {"query": ""},
        {"cookie": "session"},
        {"bearer": True, "username": "me"},
        {"basic": "password", "username": "a:b"},
        {"basic": "password", "username": "a b"},
        {"basic": "password", "username": "\x7f"},
        {"basic": "password", "username": ""},
        {"basic": "username", "username": "me"},
    ],
)
def test_anything_else_is_no_carrier(mapping: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        Carrier.parse(mapping)


@pytest.mark.parametrize("kind", ["header", "bearer"])
@pytest.mark.parametrize(
    "name",
    [
        "Connection", "Content-Length", "Content-Type", "Cookie", "Expect", "Host", "Keep-Alive",
        "proxy-authorization", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
    ],
)  # fmt: skip
def test_no_credential_travels_where_framing_and_routing_do(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match="cannot carry"):
        Carrier.parse({kind: name})
