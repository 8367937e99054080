import idna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.policy.hosts import (
    Authority,
    HostError,
    HostPattern,
    canonical_host,
    parse_authority,
)

labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9_])?", fullmatch=True).filter(
    lambda label: not label.startswith("xn--")
)
names = st.lists(labels, min_size=1, max_size=5).map(".".join)
LONGEST = ".".join(["a" * 62] * 4) + ".a"  # 253 characters
anything = st.text(max_size=40) | names | st.from_regex(r"[A-Za-z0-9.\[\]:@%_-]{0,30}")


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.Com", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("my_service.default.svc", "my_service.default.svc"),
        ("r3---sn-4g5e.example.com", "r3---sn-4g5e.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("\uff47\uff4f\uff4f\uff44.example", "good.example"),
        ("good\u3002example", "good.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("[2001:DB8::0:1]", "2001:db8::1"),
        ("_0z9-_9z0_.a", "_0z9-_9z0_.a"),
        ("9bücher.example", "xn--9bcher-4ya.example"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        (LONGEST, LONGEST),
        (LONGEST + ".", LONGEST),
    ],
)
def test_host_has_one_canonical_form(written, canonical):
    assert canonical_host(written) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "good..",
        ".good",
        "a..b",
        "[good]",
        "[127.0.0.1]",
        "good:443",
        "u@good",
        "good%2eexample",
        "good example",
        " good",
        "good\n",
        "good\x00",
        "good/",
        "good\\",
        "good#",
        "good?x",
        "-good",
        "good-",
        "xn--a",
        "xn--",
        "fe80::1%eth0",
        "[::1",
        "::1]",
        "127.0.0.1.",
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020\u30020\u30021",
        "a" * 64,
        LONGEST + "a",
        "\u2100.example",
        "good\uff20evil.example",
        "*.example.com",
        "*",
    ],
)
def test_broken_host_is_refused_not_repaired(text):
    with pytest.raises(HostError):
        canonical_host(text)


@pytest.mark.parametrize(
    "text",
    ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "1.2.3.4.5", "0x", "good.9", "a.b.0x9acf"],
)
def test_numeric_name_is_never_an_address_and_no_pattern_matches_it(text):
    assert canonical_host(text) == text
    with pytest.raises(HostError):
        HostPattern.parse(text)
    with pytest.raises(HostError):
        HostPattern.parse("*." + text)


@given(anything)
def test_canonical_host_is_idempotent(text):
    try:
        once = canonical_host(text)
    except HostError:
        return
    assert canonical_host(once) == once
    assert once.isascii()
    assert once == once.lower()


@given(names)
def test_case_and_one_trailing_dot_do_not_matter(name):
    try:
        canonical = canonical_host(name)
    except HostError:
        return
    assert canonical_host(name.upper()) == canonical
    if not canonical.replace(".", "").isdigit():
        assert canonical_host(name + ".") == canonical


@given(st.text(alphabet=st.characters(min_codepoint=0xA1, max_codepoint=0x2FFF), min_size=1))
def test_international_name_becomes_what_idna_says_or_is_refused(text):
    try:
        expected = idna.encode(text, uts46=True, std3_rules=True).decode().lower().removesuffix(".")
    except (idna.IDNAError, UnicodeError):
        with pytest.raises(HostError):
            canonical_host(text)
        return
    try:
        assert canonical_host(text) == expected
    except HostError:
        assert expected.rpartition(".")[2].isdigit()


@pytest.mark.parametrize(
    ("raw", "default_port", "authority"),
    [
        (b"good:443", None, Authority("good", 443)),
        (b"GOOD.:1", None, Authority("good", 1)),
        (b"good:65535", None, Authority("good", 65535)),
        (b"good:10", 443, Authority("good", 10)),
        (b"good", 443, Authority("good", 443)),
        (b"good:8443", 443, Authority("good", 8443)),
        (b"[::1]:443", None, Authority("::1", 443)),
        (b"[::1]", 80, Authority("::1", 80)),
        (b"127.0.0.1:8080", None, Authority("127.0.0.1", 8080)),
    ],
)
def test_authority_is_read_once(raw, default_port, authority):
    assert parse_authority(raw, default_port) == authority


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b":443",
        b"good",
        b"good:",
        b"good:0",
        b"good:0443",
        b"good:65536",
        b"good:+443",
        b"good:4_43",
        b"good: 443",
        b"good:443 ",
        b"good:443:443",
        "good:\u0664\u0664\u0663".encode(),
        b"good:443/",
        b"u@good:443",
        b"u:p@good:443",
        b"[good]:443",
        b"::1:443",
        b"[::1]443",
        b"[::1",
        b"[::1]:",
        b"[fe80::1%25eth0]:443",
        b"good\x00:443",
        b"good\xff:443",
        "bücher.example:443".encode(),
        "\uff47\uff4f\uff4f\uff44:443".encode(),
        b"https://good:443",
    ],
)
def test_authority_that_can_be_read_two_ways_is_refused(raw):
    for default_port in [None] + [443] * (raw != b"good"):
        with pytest.raises(HostError):
            parse_authority(raw, default_port)


@given(st.binary(max_size=40), st.sampled_from([None, 443]))
def test_authority_of_any_bytes_is_canonical_or_refused(raw, default_port):
    try:
        authority = parse_authority(raw, default_port)
    except HostError:
        return
    assert canonical_host(authority.host) == authority.host
    assert 1 <= authority.port <= 65535


def test_wildcard_matches_any_depth_below_but_not_apex_nor_look_alike():
    pattern = HostPattern.parse("*.Good.example")
    assert pattern.text == "*.good.example"
    assert pattern.matches("a.good.example")
    assert pattern.matches("a.b.good.example")
    assert not pattern.matches("good.example")
    assert not pattern.matches("evilgood.example")
    assert not pattern.matches(".good.example")
    assert not pattern.matches("good.example.evil.example")


@pytest.mark.parametrize(
    "text", ["9.example.com", "0x7f.example", "*.9gag.example", "127.0.0.1", "::1", "a.a9"]
)
def test_a_pattern_may_look_a_little_like_an_address(text):
    assert HostPattern.parse(text).text == text


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("https://example.com", "without scheme"),
        ("example.com/path", "without scheme and path"),
        ("", "empty"),
        (".", "empty"),
        ("*.com", "public suffix"),
        ("*.127.0.0.1", "nothing is below an address"),
        ("0x7f.1", "dotted quad"),
    ],
)
def test_a_refused_pattern_says_what_to_write(text, advice):
    with pytest.raises(HostError, match=advice):
        HostPattern.parse(text)


def test_exact_pattern_matches_itself_alone():
    pattern = HostPattern.parse("good.example")
    assert pattern.matches("good.example")
    assert not pattern.matches("a.good.example")


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "*.*",
        "**.example.com",
        "*.*.example.com",
        "a*.example.com",
        "a.*.example.com",
        "*example.com",
        "*.",
        "*.com",
        "*.co.uk",
        "*.github.io",
        "*.s3.amazonaws.com",
        "*.internal",
        "*.127.0.0.1",
        "*.[::1]",
        "https://example.com",
        "example.com/path",
        "example.com:443",
        "",
    ],
)
def test_pattern_that_is_too_wide_or_not_a_host_is_refused(text):
    with pytest.raises(HostError):
        HostPattern.parse(text)


@pytest.mark.parametrize(
    ("wide", "narrow", "covers"),
    [
        ("a.example.com", "a.example.com", True),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "*.example.com", True),
        ("*.example.com", "*.a.example.com", True),
        ("*.example.com", "example.com", False),
        ("a.example.com", "*.a.example.com", False),
        ("*.a.example.com", "*.example.com", False),
        ("*.example.com", "*.evilexample.com", False),
    ],
)
def test_pattern_covers_only_what_it_matches(wide, narrow, covers):
    assert HostPattern.parse(wide).covers(HostPattern.parse(narrow)) is covers
