from __future__ import annotations

import base64
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.credentials.samples import (
    API_KEY,
    BEARER,
    CONNECTIONS,
    GIT,
    GOOD,
    OTHER,
    PLACEHOLDERS,
    QUERY_KEY,
    SEARCH,
    SECRET,
    TWIN,
    P,
    allowed,
    basic,
    connection,
    head,
)

from understudy.credentials.carriers import Carrier, Head
from understudy.credentials.judge import Plan, apply, inspect, judge
from understudy.credentials.names import (
    CREDENTIAL_ENDINGS,
    CREDENTIAL_NAMES,
    LOOKS_LIKE_A_KEY,
    cookies_in,
    credentials_in,
)
from understudy.credentials.secret import Secret
from understudy.policy.model import Connection, Verdict
from understudy.reasons import Reason

FOREIGN = "sk-the-agents-own-key-0123456789"
GIT_P = PLACEHOLDERS["git"]
SEARCH_P = PLACEHOLDERS["search"]
TWIN_P = PLACEHOLDERS["twin"]
OTHER_P = PLACEHOLDERS["other"]
VALUE = SECRET.reveal()


def decide(
    subject: Head, decided: Connection | None = GOOD, bound: tuple[Connection, ...] | None = None
) -> Plan | Reason:
    if bound is None:
        bound = (decided,) if decided else ()
    connections = CONNECTIONS | {c.name: c for c in bound}
    presented = inspect(subject, PLACEHOLDERS, connections)
    return judge(presented, verdict=allowed(decided), bound=bound)


def carry_out(subject: Head, decided: Connection, **options: Carrier) -> Head:
    plan = decide(subject, decided)
    assert isinstance(plan, Plan), plan
    secret = SECRET if plan.action in ("swap", "inject") else None
    placeholder = PLACEHOLDERS.get(decided.name)
    return apply(subject, plan, secret, placeholder=placeholder, gateway_carrier=options.get("to"))


def basic_raw(raw: bytes) -> str:
    return "Basic " + base64.b64encode(raw).decode()


URL_SAFE_BASIC = basic("\xfb\xff\xfe", OTHER_P).replace("+", "-").replace("/", "_")

# -- what is swapped


@pytest.mark.parametrize(
    ("before", "decided", "after"),
    [
        (head(("x-api-key", P)), GOOD, head(("x-api-key", VALUE))),
        (head(("X-Api-Key", P)), GOOD, head(("X-Api-Key", VALUE))),
        (head(("Authorization", f"Bearer {P}")), GOOD, head(("Authorization", f"Bearer {VALUE}"))),
        (head(("authorization", f"token {P}")), GOOD, head(("authorization", f"token {VALUE}"))),
        (
            head(("Authorization", basic("x-access-token", GIT_P))),
            GIT,
            head(("Authorization", basic("x-access-token", VALUE))),
        ),
        (
            head(("Authorization", basic("", GIT_P))),
            GIT,
            head(("Authorization", basic("", VALUE))),
        ),
        (
            head(target=f"/search?q=1&key={SEARCH_P}&n=2"),
            SEARCH,
            head(target=f"/search?q=1&key={VALUE}&n=2"),
        ),
    ],
)
def test_a_whole_placeholder_in_its_carrier_is_swapped(
    before: Head, decided: Connection, after: Head
) -> None:
    assert carry_out(before, decided) == after


def test_other_headers_stay_byte_for_byte() -> None:
    others = (("Anthropic-Version", "2023-06-01"), ("X-Odd", "\xff caf\xe9  x"), ("Accept", "*/*"))
    assert carry_out(head(*others, ("x-api-key", P)), GOOD).headers[:3] == head(*others).headers


# -- what is refused; the attacks 21 to 24 and their relatives

REFUSED: list[tuple[str, Head, Reason | set[Reason]]] = [
    ("in a cookie", head(("Cookie", f"s={P}")), Reason.PLACEHOLDER_MISPLACED),
    ("in another header", head(("X-Debug", P)), Reason.PLACEHOLDER_MISPLACED),
    ("in a header's name", head((P, "x")), Reason.PLACEHOLDER_MISPLACED),
    ("in the path", head(target=f"/v1/{P}"), Reason.PLACEHOLDER_MISPLACED),
    ("in the query", head(target=f"/v1?a={P}"), Reason.PLACEHOLDER_MISPLACED),
    ("in a carrier not listed", head(target=f"/v1?key={P}"), Reason.PLACEHOLDER_MISPLACED),
    ("as a query's name", head(target=f"/v1?{P}"), Reason.PLACEHOLDER_MISPLACED),
    (
        "percent-encoded in the path",
        head(target="/v1/" + "".join(f"%{ord(c):02x}" for c in P)),
        Reason.PLACEHOLDER_MISPLACED,
    ),
    (
        "percent-encoded twice",
        head(target="/v1?a=" + quote("".join(f"%{ord(c):02X}" for c in P))),
        Reason.PLACEHOLDER_MISPLACED,
    ),
    (
        "percent-encoded three times",
        head(target="/v1?a=" + quote(quote("".join(f"%{ord(c):02X}" for c in P)))),
        Reason.PLACEHOLDER_MISPLACED,
    ),
    ("with a prefix", head(("x-api-key", f"x{P}")), Reason.PLACEHOLDER_MISPLACED),
    ("with a suffix", head(("x-api-key", f"{P}y")), Reason.PLACEHOLDER_MISPLACED),
    ("in quotes", head(("x-api-key", f'"{P}"')), Reason.PLACEHOLDER_MISPLACED),
    ("as a bearer's part", head(("Authorization", f"Bearer x{P}y")), Reason.PLACEHOLDER_MISPLACED),
    ("without a scheme", head(("Authorization", P)), Reason.PLACEHOLDER_MISPLACED),
    ("with another scheme", head(("Authorization", f"Digest {P}")), Reason.PLACEHOLDER_MISPLACED),
    (
        "with two schemes",
        head(("Authorization", f"Bearer Bearer {P}")),
        Reason.PLACEHOLDER_MISPLACED,
    ),
    (
        "with a scheme in a plain header",
        head(("x-api-key", f"Bearer {P}")),
        Reason.PLACEHOLDER_MISPLACED,
    ),
    (
        "joined by a comma",
        head(("Authorization", f"Bearer {P}, Bearer {P}")),
        Reason.PLACEHOLDER_MISPLACED,
    ),
    (
        "comma and own key",
        head(("Authorization", f"Bearer {P},{FOREIGN}")),
        Reason.PLACEHOLDER_MISPLACED,
    ),
    (
        "in Basic without a carrier for it",
        head(("Authorization", basic("u", P))),
        Reason.PLACEHOLDER_MISPLACED,
    ),
    (
        "in Proxy-Authorization",
        head(("Proxy-Authorization", f"Bearer {P}")),
        Reason.PLACEHOLDER_MISPLACED,
    ),
    (
        "in Proxy-Authorization's Basic",
        head(("Proxy-Authorization", basic("u", P))),
        Reason.PLACEHOLDER_MISPLACED,
    ),
    ("twice in one header", head(("x-api-key", f"{P}{P}")), Reason.PLACEHOLDER_MISPLACED),
    (
        "in its place and elsewhere",
        head(("x-api-key", P), ("X-Debug", P)),
        Reason.PLACEHOLDER_MISPLACED,
    ),
    (
        "in its place and in the path",
        head(("x-api-key", P), target=f"/{P}"),
        Reason.PLACEHOLDER_MISPLACED,
    ),
    (
        "in two carriers",
        head(("x-api-key", P), ("Authorization", f"Bearer {P}")),
        Reason.AMBIGUOUS_CREDENTIAL,
    ),
    ("in one header twice", head(("x-api-key", P), ("X-API-KEY", P)), Reason.AMBIGUOUS_CREDENTIAL),
    (
        "before an own key",
        head(("x-api-key", P), ("x-api-key", FOREIGN)),
        Reason.AMBIGUOUS_CREDENTIAL,
    ),
    (
        "after an own key",
        head(("x-api-key", FOREIGN), ("x-api-key", P)),
        Reason.AMBIGUOUS_CREDENTIAL,
    ),
    (
        "beside an own bearer",
        head(("x-api-key", P), ("Authorization", f"Bearer {FOREIGN}")),
        Reason.AMBIGUOUS_CREDENTIAL,
    ),
    (
        "beside an empty bearer",
        head(("x-api-key", P), ("Authorization", "Bearer ")),
        Reason.AMBIGUOUS_CREDENTIAL,
    ),
    (
        "beside a look-alike",
        head(("x-api-key", P), ("x_api_key", FOREIGN)),
        Reason.AMBIGUOUS_CREDENTIAL,
    ),
    (
        "beside an own key elsewhere",
        head(("x-api-key", P), ("api-key", FOREIGN)),
        Reason.AMBIGUOUS_CREDENTIAL,
    ),
    (
        "beside an own key in the query",
        head(("x-api-key", P), target=f"/v1?access_token={FOREIGN}"),
        Reason.AMBIGUOUS_CREDENTIAL,
    ),
    (
        "beside headers in the query",
        head(("x-api-key", P), target="/v1?%24httpHeaders=x-api-key%3Aown"),
        Reason.AMBIGUOUS_CREDENTIAL,
    ),
    ("an own key", head(("x-api-key", FOREIGN)), Reason.FOREIGN_CREDENTIAL),
    ("an own bearer", head(("Authorization", f"Bearer {FOREIGN}")), Reason.FOREIGN_CREDENTIAL),
    ("an own Basic", head(("Authorization", basic("me", "mine"))), Reason.FOREIGN_CREDENTIAL),
    ("a broken Basic", head(("Authorization", "Basic ####")), Reason.FOREIGN_CREDENTIAL),
    ("an empty Authorization", head(("Authorization", "")), Reason.FOREIGN_CREDENTIAL),
    ("raw bytes", head(("Authorization", "\xff\xfe")), Reason.FOREIGN_CREDENTIAL),
    ("an own key under another name", head(("X_Goog_Api_Key", FOREIGN)), Reason.FOREIGN_CREDENTIAL),
    ("an own key in the query", head(target=f"/v1?api_key={FOREIGN}"), Reason.FOREIGN_CREDENTIAL),
    (
        "an own key behind a semicolon",
        head(target=f"/v1?a=1;access_token={FOREIGN}"),
        Reason.FOREIGN_CREDENTIAL,
    ),
    ("an encoded name", head(target=f"/v1?%61pi_key={FOREIGN}"), Reason.FOREIGN_CREDENTIAL),
    ("a name with brackets", head(target=f"/v1?api_key[]={FOREIGN}"), Reason.FOREIGN_CREDENTIAL),
    ("a name decoded twice", head(target=f"/?api%255fkey={FOREIGN}"), Reason.FOREIGN_CREDENTIAL),
    ("a name with a dot", head(target=f"/?access.token={FOREIGN}"), Reason.FOREIGN_CREDENTIAL),
    ("a name cut at NUL", head(target=f"/?api_key%00x={FOREIGN}"), Reason.FOREIGN_CREDENTIAL),
    ("a header's name", head(target=f"/?Authorization={FOREIGN}"), Reason.FOREIGN_CREDENTIAL),
    ("dots for hyphens", head(("X.Api.Key", FOREIGN)), Reason.FOREIGN_CREDENTIAL),
    ("a name in capitals", head(target=f"/v1?API_KEY={FOREIGN}"), Reason.FOREIGN_CREDENTIAL),
    (
        "two own keys in one parameter",
        head(target=f"/v1?api_key={FOREIGN}&api_key={FOREIGN}"),
        Reason.AMBIGUOUS_CREDENTIAL,
    ),
    (
        "two own keys in one header",
        head(("x-api-key", FOREIGN), ("x-api-key", FOREIGN)),
        Reason.AMBIGUOUS_CREDENTIAL,
    ),
    ("another host's placeholder", head(("x-api-key", OTHER_P)), Reason.PLACEHOLDER_WRONG_HOST),
    ("another host's, inside", head(("X-Debug", f"a{OTHER_P}b")), Reason.PLACEHOLDER_WRONG_HOST),
    (
        "another host's, in Basic",
        head(("Authorization", basic("u", OTHER_P))),
        Reason.PLACEHOLDER_WRONG_HOST,
    ),
    (
        "another host's, in malformed Basic",
        head(("Authorization", basic("u", OTHER_P).rstrip("="))),
        Reason.PLACEHOLDER_WRONG_HOST,
    ),
    (
        "another host's, in Basic with a digit too many",
        head(("Authorization", basic("us", OTHER_P).rstrip("=") + "A")),
        Reason.PLACEHOLDER_WRONG_HOST,
    ),
    (
        "another host's, in Basic with padding inside",
        head(("Authorization", "bASIC \t" + basic("use", OTHER_P)[6:].replace("Og", "O=g", 1))),
        Reason.PLACEHOLDER_WRONG_HOST,
    ),
    (
        "another host's, in URL-safe Basic",
        head(("Authorization", URL_SAFE_BASIC)),
        Reason.PLACEHOLDER_WRONG_HOST,
    ),
    (
        "another host's, in Basic with letters left out",
        head(("Authorization", "Basic !" + "!".join(basic("u", OTHER_P)[6:]))),
        Reason.PLACEHOLDER_WRONG_HOST,
    ),
    (
        "another host's, in Basic that begins late",
        head(("Authorization", "Basic x, " + basic("u", OTHER_P)[6:])),
        Reason.PLACEHOLDER_WRONG_HOST,
    ),
    (
        "another host's, in Basic in the query",
        head(target="/?a=" + quote(basic("u", OTHER_P).replace(" ", "\t"))),
        Reason.PLACEHOLDER_WRONG_HOST,
    ),
    (
        "another host's, percent-encoded",
        head(target="/?a=" + OTHER_P.replace("-", "%2D")),
        Reason.PLACEHOLDER_WRONG_HOST,
    ),
    ("both", head(("x-api-key", P), ("X-Debug", OTHER_P)), Reason.PLACEHOLDER_WRONG_HOST),
    (
        "both, in two carriers",
        head(("x-api-key", P), ("Authorization", f"Bearer {OTHER_P}")),
        Reason.PLACEHOLDER_WRONG_HOST,
    ),
    (
        "both, run together",
        head(("x-api-key", f"{P}{OTHER_P}")),
        Reason.PLACEHOLDER_WRONG_HOST,
    ),
]


@pytest.mark.parametrize(
    ("subject", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_everything_else_is_refused(subject: Head, reason: Reason) -> None:
    assert decide(subject, GOOD) is reason


# Each was taken for no credential by whoever kept a list of names.
SERVERS_NAMES = [
    "api-token", "apikey", "authentication", "cf-access-client-secret", "cf-access-token",
    "cf-aig-authorization", "dd-api-key", "dd-application-key", "ocp-apim-subscription-key",
    "x-access-token", "x-amz-security-token", "x-api-key", "x-apikey", "x-auth", "x-auth-key",
    "x-authorization", "x-devpi-auth", "x-forwarded-authorization", "x-github-token",
    "x-goog-api-key", "x-goog-iam-authorization-token", "x-litellm-api-key", "x-nuget-apikey",
    "x-original-authorization", "x-portkey-api-key", "x-rapidapi-key", "x-registry-auth",
    "x-serverless-authorization", "x-shopify-access-token", "xi-api-key", "openai-api-key",
]  # fmt: skip
SERVERS_PARAMETERS = [
    "$httpHeaders", "accessToken", "access_token", "api_key", "apiKey", "auth_token", "auth",
    "bearer_token", "client_secret", "oauth_token", "private_token", "subscription-key",
    "Ocp-Apim-Subscription-Key", "X-Amz-Credential", "X-Amz-Signature", "X-Goog-Signature",
]  # fmt: skip


@pytest.mark.parametrize("name", [*CREDENTIAL_NAMES, *CREDENTIAL_ENDINGS, *SERVERS_NAMES])
def test_no_header_of_a_credentials_name_carries_an_own_key(name: str) -> None:
    for written in (name, name.upper().replace("-", "_"), name.replace("-", ".")):
        subject = head((written, FOREIGN))
        assert decide(subject) is Reason.FOREIGN_CREDENTIAL
        both = head((written, FOREIGN), target=f"/?key={SEARCH_P}")
        assert decide(both, SEARCH) is Reason.AMBIGUOUS_CREDENTIAL


@pytest.mark.parametrize("name", [*CREDENTIAL_NAMES, *CREDENTIAL_ENDINGS, *SERVERS_PARAMETERS])
def test_no_parameter_of_a_credentials_name_carries_an_own_key(name: str) -> None:
    for written in (name, name.upper().replace("-", "_"), name.replace("-", ""), f"{name}[]"):
        assert decide(head(target=f"/?a=1&{written}={FOREIGN}")) is Reason.FOREIGN_CREDENTIAL


@pytest.mark.parametrize(
    "name",
    [
        "Anthropic-Version", "Anthropic-Beta", "OpenAI-Organization", "OpenAI-Project",
        "X-Stainless-Retry-Count", "Idempotency-Key", "X-CSRF-Token", "X-XSRF-Token",
        "Sec-WebSocket-Key", "X-Goog-User-Project", "X-Goog-Api-Client", "npm-auth-type",
        "npm-session", "X-Amz-Client-Token", "X-Client-Request-Id", "Mcp-Session-Id", "Authority",
        "X-GitHub-Api-Version", "X-Ms-Continuationtoken", "Author", "X-Secret-Name",
    ],
)  # fmt: skip
def test_headers_that_only_sound_alike_are_no_credentials(name: str) -> None:
    assert decide(head((name, "0123456789"))) == Plan(GOOD, None, "none")


@pytest.mark.parametrize(
    "query",
    [
        "q=access_token",
        "page_token=x",
        "pageToken=x",
        "after=key",
        "max_tokens=3",
        "author=x",
        "secret_type=x",
        "api-version=2024-10-21",
        "alt=sse",
        "beta=true",
        "include[]=x",
        "authors=y",
        "keyword=z",
        "tokens=1",
    ],
)
def test_parameters_that_only_sound_alike_are_no_credentials(query: str) -> None:
    assert decide(head(target=f"/?{query}")) == Plan(GOOD, None, "none")


def test_a_carrier_with_brackets_takes_no_second_credential() -> None:
    """Servers read ``key[a]`` and ``key`` as one; neither hides the other."""
    bracketed = connection("good", Carrier("query", "key[a]"))
    swapped = carry_out(head(target=f"/?key[a]={P}"), bracketed)
    assert swapped.target == f"/?key[a]={VALUE}".encode()
    both = head(("x-api-key", FOREIGN), target=f"/?key[a]={P}")
    assert decide(both, bracketed) is Reason.AMBIGUOUS_CREDENTIAL


def test_a_connections_own_names_count_as_credentials_too() -> None:
    named = replace(
        GOOD,
        credential_headers=frozenset({"x-corp"}),
        credential_queries=frozenset({"sig"}),
    )
    assert decide(head(("X-Corp", "1")), named) is Reason.FOREIGN_CREDENTIAL
    assert decide(head(target="/?sig=1"), named) is Reason.FOREIGN_CREDENTIAL


def test_the_other_half_of_basic_may_not_be_a_key_of_the_agents_own() -> None:
    for own in (
        "ghp_0123456789012345678901234567890123ab",
        "\n ghp_0123456789012345678901234567890123ab",
        "github_pat_1",
        "0" * 40,
    ):
        subject = head(("Authorization", basic(own, GIT_P)))
        assert decide(subject, GIT) is Reason.AMBIGUOUS_CREDENTIAL


@pytest.mark.parametrize(
    "text",
    [
        "ghp_a", "gho_a", "ghs_a", "github_pat_a", "glpat-a", "glcbt-a", "glagent-a", "npm_a",
        "pypi-a", "sk-a", "SK-A", "hf_a", "AIzaSy", "xoxb-1", "xoxp-1", "AKIA0", "eyJhbGciOiJI.e",
        "0123456789abcdef" * 2, "0123456789ABCDEF" * 2, "z" * 40, "09azAZ_.~+/=-" * 4,
    ],
)  # fmt: skip
def test_what_looks_like_a_key_is_taken_for_one(text: str) -> None:
    assert LOOKS_LIKE_A_KEY.match(text.encode())
    assert decide(head(("Authorization", basic(text, GIT_P))), GIT) is Reason.AMBIGUOUS_CREDENTIAL


@pytest.mark.parametrize(
    "text",
    [
        "", "git", "x-access-token", "oauth2", "__token__", "gitlab-ci-token", "me@corp.example",
        "ghost", "gl-", "glx-a", "skeleton", "eye", "eyJhbGciOiJI", "github", "hfx", "npm",
        "f" * 31, "z" * 39, "z" * 40 + "@corp", "my-ghp_a",
    ],
)  # fmt: skip
def test_a_users_name_is_not(text: str) -> None:
    assert not LOOKS_LIKE_A_KEY.match(text.encode())
    subject = head(("Authorization", basic(text, GIT_P)))
    assert carry_out(subject, GIT) == head(("Authorization", basic(text, VALUE)))


def test_a_placeholder_in_both_halves_of_basic_is_misplaced() -> None:
    subject = head(("Authorization", basic(GIT_P, GIT_P)))
    assert decide(subject, GIT) is Reason.PLACEHOLDER_MISPLACED


# -- two connections, and rules that name none


def test_the_placeholder_tells_two_connections_of_one_host_apart() -> None:
    presented = inspect(head(("x-api-key", TWIN_P)), PLACEHOLDERS, CONNECTIONS)
    assert presented.connection == "twin"
    plan = judge(presented, verdict=allowed(TWIN), bound=(GOOD, TWIN))
    assert isinstance(plan, Plan)
    assert (plan.action, plan.connection) == ("swap", TWIN)


def test_a_rule_admits_only_the_placeholder_of_its_connection() -> None:
    subject = head(("x-api-key", TWIN_P))
    assert decide(subject, GOOD, bound=(GOOD, TWIN)) is Reason.FOREIGN_CREDENTIAL
    assert decide(subject, None, bound=(GOOD, TWIN)) is Reason.FOREIGN_CREDENTIAL


def test_placeholders_of_two_connections_are_ambiguous() -> None:
    subject = head(("x-api-key", P), ("Authorization", f"Bearer {TWIN_P}"))
    presented = inspect(subject, PLACEHOLDERS, CONNECTIONS)
    assert presented.connection is None
    verdict = allowed(GOOD)
    assert judge(presented, verdict=verdict, bound=(GOOD, TWIN)) is Reason.AMBIGUOUS_CREDENTIAL


def test_two_placeholders_in_one_basic_are_ambiguous() -> None:
    user = connection("twin", Carrier("basic", part="username"))
    subject = head(("Authorization", basic(TWIN_P, GIT_P)))
    presented = inspect(subject, PLACEHOLDERS, CONNECTIONS | {"twin": user})
    assert judge(presented, verdict=allowed(GIT), bound=(GIT, user)) is Reason.AMBIGUOUS_CREDENTIAL


def test_a_bound_host_takes_no_own_key_through_a_rule_without_a_connection() -> None:
    subject = head(("x-api-key", FOREIGN))
    assert decide(subject, None, bound=(GOOD,)) is Reason.FOREIGN_CREDENTIAL
    lenient = replace(GOOD, allow_foreign_credentials=True)
    assert decide(subject, None, bound=(lenient,)) is Reason.FOREIGN_CREDENTIAL


def test_an_unbound_host_may_take_own_keys_but_no_placeholder() -> None:
    assert decide(head(("x-api-key", FOREIGN), ("Cookie", "a=b")), None) == Plan(None, None, "none")
    assert decide(head(("x-api-key", P)), None) is Reason.PLACEHOLDER_WRONG_HOST


def test_a_decided_connection_that_is_not_bound_here_gets_nothing() -> None:
    always = replace(OTHER, inject_always=True)
    assert decide(head(), always, bound=(GOOD,)) == Plan(None, None, "none")
    assert decide(head(("x-api-key", P)), OTHER, bound=(GOOD,)) is Reason.FOREIGN_CREDENTIAL


# -- no credential, injection, cookies, auth none, foreign allowed


def test_no_credential_goes_up_untouched() -> None:
    subject = head(("Accept", "*/*"), ("Git-Protocol", "version=2"))
    assert decide(subject) == Plan(GOOD, None, "none")
    assert carry_out(subject, GOOD) == subject


@pytest.mark.parametrize(
    ("carrier", "after"),
    [
        (API_KEY, head(("x-api-key", VALUE))),
        (BEARER, head(("authorization", f"Bearer {VALUE}"))),
        (
            Carrier("basic", part="password"),
            head(("authorization", basic("x-access-token", VALUE))),
        ),
        (
            Carrier("basic", part="password", username="__token__"),
            head(("authorization", basic("__token__", VALUE))),
        ),
        (Carrier("basic", part="username"), head(("authorization", basic(VALUE, "")))),
        (QUERY_KEY, head(target=f"/v1/messages?key={VALUE}")),
    ],
)
def test_inject_always_adds_the_secret_where_none_stands(carrier: Carrier, after: Head) -> None:
    always = connection("good", carrier, BEARER, inject_always=True)
    assert carry_out(head(), always) == after


def test_inject_always_does_not_cover_an_own_key() -> None:
    always = replace(GOOD, inject_always=True)
    assert decide(head(("x-api-key", FOREIGN)), always) is Reason.FOREIGN_CREDENTIAL


def test_cookies_stay_behind_on_a_bound_host() -> None:
    subject = head(("Cookie", "session=own"), ("x-api-key", P), ("cookie", "b=c"), ("Cookie2", "d"))
    assert carry_out(subject, GOOD) == head(("x-api-key", VALUE))
    assert carry_out(head(("Cookie", "session=own")), GOOD) == head()
    always = replace(GOOD, inject_always=True)
    assert carry_out(head(("Cookie", "a=b")), always) == head(("x-api-key", VALUE))
    cookie = ("Cookie", "a=b")
    assert decide(head(cookie), None, bound=(GOOD,)) == plan_to_strip(None, cookie)


def plan_to_strip(decided: Connection | None, *fields: tuple[str, str]) -> Plan:
    return Plan(decided, None, "strip", head(*fields).headers)


@pytest.mark.parametrize("via_gateway", [False, True])
def test_cookies_pass_where_own_credentials_do_and_never_to_a_gateway(via_gateway: bool) -> None:
    lenient = replace(GOOD, allow_foreign_credentials=True, via_gateway=via_gateway)
    always, none = replace(lenient, inject_always=True), replace(lenient, secret=None)
    cookie = ("Cookie", "session=own")
    kept = () if via_gateway else (cookie,)
    assert carry_out(head(cookie), lenient) == head(*kept)
    assert carry_out(head(cookie), none) == head(*kept)
    assert decide(head(cookie), none).action == ("strip" if via_gateway else "none")
    assert carry_out(head(cookie, ("x-api-key", P)), lenient) == head(*kept, ("x-api-key", VALUE))
    assert carry_out(head(cookie), always) == head(*kept, ("x-api-key", VALUE))


def test_foreign_credentials_pass_where_the_connection_says_so() -> None:
    lenient = replace(GOOD, allow_foreign_credentials=True)
    subject = head(("x-api-key", FOREIGN))
    assert carry_out(subject, lenient) == subject
    both = head(("x-api-key", P), ("api-key", FOREIGN))
    assert decide(both, lenient) is Reason.AMBIGUOUS_CREDENTIAL


def test_foreign_credentials_never_pass_to_the_gateway() -> None:
    lenient = replace(GOOD, allow_foreign_credentials=True, via_gateway=True)
    assert decide(head(("x-api-key", FOREIGN)), lenient) is Reason.FOREIGN_CREDENTIAL


def test_without_auth_every_credential_stays_behind() -> None:
    none = connection("local", secret=None)
    subject = head(
        ("Authorization", "Bearer dummy"),
        ("X_Api_Key", "dummy"),
        ("Cookie", "a=b"),
        ("Accept", "*/*"),
        target="/v1?api_key=x&model=m&a=1;access_token=y",
    )
    assert carry_out(subject, none) == head(("Accept", "*/*"), target="/v1?model=m")
    assert decide(head(("x-api-key", "dummy")), none) == plan_to_strip(none, ("x-api-key", "dummy"))
    assert decide(head(target="/?key=dummy&api_key=x"), none) == Plan(
        none, None, "strip", remove_queries=frozenset({b"api_key"})
    )
    assert decide(head(("Accept", "*/*")), none) == Plan(none, None, "none")
    assert decide(head(("x-api-key", P)), none) is Reason.PLACEHOLDER_WRONG_HOST


def test_report_mode_swaps_nothing_that_enforce_would_refuse() -> None:
    presented = inspect(head(("x-api-key", P)), PLACEHOLDERS, CONNECTIONS)
    verdict = Verdict(allow=True, reason=Reason.PATH_NOT_ALLOWED, connection=GOOD)
    assert judge(presented, verdict=verdict, bound=(GOOD,)) == Plan(None, None, "none")


def test_a_denied_request_keeps_its_reason() -> None:
    presented = inspect(head(("x-api-key", P)), PLACEHOLDERS, CONNECTIONS)
    verdict = Verdict(allow=False, reason=Reason.HOST_NOT_ALLOWED)
    assert judge(presented, verdict=verdict, bound=(GOOD,)) is Reason.HOST_NOT_ALLOWED


# -- the gateway's own place for the credential


@pytest.mark.parametrize("place", [("x-api-key", P), ("Authorization", f"Bearer {P}")])
def test_the_credential_moves_to_the_gateways_place(place: tuple[str, str]) -> None:
    to = Carrier("header", "x-portkey-api-key")
    after = carry_out(head(("Accept", "*/*"), place), GOOD, to=to)
    assert after == head(("Accept", "*/*"), ("x-portkey-api-key", VALUE))


def test_the_gateways_place_is_overwritten_however_it_is_spelt() -> None:
    subject = head(("x-api-key", P))
    plan = decide(subject)
    assert isinstance(plan, Plan)
    routed = Head((*subject.headers, (b"CF_AIG_Authorization", b"own")), subject.target)
    to = Carrier("bearer", "cf-aig-authorization")
    after = apply(routed, plan, SECRET, placeholder=P, gateway_carrier=to)
    assert after == head(("cf-aig-authorization", f"Bearer {VALUE}"))


def test_the_gateways_parameter_is_overwritten_too() -> None:
    subject = head(("x-api-key", P))
    plan = decide(subject)
    assert isinstance(plan, Plan)
    routed = head(*[("x-api-key", P)], target="/v1?key=own&a=b")
    after = apply(routed, plan, SECRET, placeholder=P, gateway_carrier=QUERY_KEY)
    assert after == head(target=f"/v1?a=b&key={VALUE}")


def test_a_bearer_for_a_bearer_stays_where_it_is() -> None:
    subject = head(("Authorization", f"Bearer {P}"), ("Accept", "*/*"))
    after = carry_out(subject, GOOD, to=Carrier("bearer"))
    assert after == head(("Authorization", f"Bearer {VALUE}"), ("Accept", "*/*"))


# -- apply fails closed


def test_a_head_that_changed_after_the_judgement_is_not_sent() -> None:
    plan = decide(head(("x-api-key", P)))
    assert isinstance(plan, Plan)
    changes = (head(), head(("x-api-key", FOREIGN)), head(("x-api-key", P), ("X-Copy", P)))
    for changed in changes:
        with pytest.raises(ValueError, match="placeholder"):
            apply(changed, plan, SECRET, placeholder=P)
    with pytest.raises(ValueError, match="secret"):
        apply(head(("x-api-key", P)), plan, None, placeholder=P)
    with pytest.raises(ValueError, match="placeholder"):
        apply(head(("x-api-key", "")), plan, SECRET, placeholder=None)


def test_a_secret_that_is_the_placeholder_is_not_sent() -> None:
    plan = decide(head(("x-api-key", P)))
    assert isinstance(plan, Plan)
    with pytest.raises(ValueError, match="second place"):
        apply(head(("x-api-key", P)), plan, Secret(P, "X"), placeholder=P)


# -- whatever the client writes

ENCODED = (basic("u", P), basic("u", GIT_P), "%2d", "\xff")
MARKS = ("Bearer ", "token ", "Basic ", " ", ",", ";", "=", "&", "?", "%", "\t", "x")
KEYS = (P, TWIN_P, OTHER_P, FOREIGN, "key=", "api_key=")
TEXTS = st.lists(st.sampled_from((*KEYS, *ENCODED, *MARKS)), max_size=4).map("".join)
PLAIN_NAMES = [
    "Authorization",
    "authorization",
    "x-api-key",
    "X_Api_Key",
    "api-key",
    "Cookie",
    "X-Debug",
    "Accept",
]
NAMES = st.sampled_from([*PLAIN_NAMES, "Proxy-Authorization", P])
HEADS = st.builds(
    lambda fields, path, query: head(*fields, target=f"/{path}?{query}"),
    st.lists(st.tuples(NAMES, TEXTS), max_size=4),
    TEXTS,
    TEXTS,
)
FLAGS = st.fixed_dictionaries(
    {"inject_always": st.booleans(), "carriers": st.sampled_from([(API_KEY, BEARER), (QUERY_KEY,)])}
)


@given(HEADS, FLAGS)
def test_whatever_is_sent_a_secret_goes_up_alone_and_a_placeholder_never(
    subject: Head, flags: dict[str, object]
) -> None:
    decided = connection("good", **flags)  # type: ignore[arg-type] # fields by name
    plan = decide(subject, decided)
    if isinstance(plan, Reason):
        return
    secret = SECRET if plan.action in ("swap", "inject") else None
    after = apply(subject, plan, secret, placeholder=P)
    text = b"\n".join((after.target, *(part for field in after.headers for part in field)))
    assert all(p.encode() not in text for p in PLACEHOLDERS.values())
    assert FOREIGN.encode() not in b"".join(
        value for name, value in after.headers if name.lower() in (b"authorization", b"x-api-key")
    )
    assert text.count(VALUE.encode()) == (1 if secret else 0)
    headers, queries = credentials_in(after, (decided,))
    assert len(headers) + len(queries) == (1 if secret else 0)
    assert not cookies_in(after)
    if secret:
        found = inspect(after, type(PLACEHOLDERS)({"good": VALUE}), {"good": decided})
        assert len(found.sightings) == 1
        assert not found.strays


# -- subprotocols of WebSockets


@pytest.mark.parametrize(
    "offered",
    [
        f"realtime, openai-insecure-api-key.{FOREIGN}",
        "base64url.bearer.authorization.k8s.io.c29tZQ, base64.channel.k8s.io",
        FOREIGN,
        "chat,ghp_012345678901234567890123456789012345",
        "access_token, abc",
        "0123456789abcdef0123456789abcdef",
        "chat, \tghp_a",
        "v1.ghp_a",
        "my-KEY",
        "v1.bearer",
        "authorized",
        "my.secret",
        "Credential.x",
        "password",
        "jwt",
        "a b" * 11,
    ],
)
def test_a_subprotocol_that_may_be_a_key_is_one(offered: str) -> None:
    subject = head(("Sec-WebSocket-Protocol", offered))
    assert decide(subject) is Reason.FOREIGN_CREDENTIAL
    beside = head(("Sec_WebSocket_Protocol", offered), ("x-api-key", P))
    assert decide(beside) is Reason.AMBIGUOUS_CREDENTIAL


@pytest.mark.parametrize(
    "offered",
    [
        "realtime, openai-beta.realtime-v1",
        "graphql-transport-ws, graphql-ws",
        "v4.channel.k8s.io",
        "v5.channel.k8s.io, base64.channel.k8s.io",
        "mqtt",
        "v12.stomp,v11.stomp",
        "ocpp2.0.1",
        "a-protocol-with-a-very-long-nam",
    ],
)
def test_the_name_of_a_subprotocol_is_no_key(offered: str) -> None:
    subject = head(("Sec-WebSocket-Protocol", offered), ("x-api-key", P))
    after = carry_out(subject, GOOD)
    assert (b"Sec-WebSocket-Protocol", offered.encode()) in after.headers


SPACES = " " * (1 << 20)


@pytest.mark.attack("slow to read")
@pytest.mark.parametrize(
    "subject",
    [
        head(("Authorization", f"Bearer x{SPACES}y")),
        head(("Authorization", f"{SPACES}Bearer{SPACES}")),
        head(("Authorization", f"Basic{SPACES}!")),
        head(("Authorization", "Basic " + "QUFB" * (1 << 18) + "!")),
        head(("Authorization", "Basic a" * (1 << 17))),
        head(target="/?" + "&" * (1 << 20)),
        head(target="/?" + f"key={SEARCH_P}&" * 10_000),
    ],
)
def test_no_head_takes_longer_to_judge_than_its_length_explains(subject: Head) -> None:
    """Square in the length, each of these would outlast this test's time."""
    assert isinstance(decide(subject, replace(SEARCH, carriers=(*SEARCH.carriers, *GIT.carriers))),
                      Plan | Reason)  # fmt: skip
