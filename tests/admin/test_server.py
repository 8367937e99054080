from __future__ import annotations

import asyncio
import json
import socket
import stat
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from understudy.admin.listening import ListenError
from understudy.admin.metrics import Metrics
from understudy.admin.server import AdminServer
from understudy.admin.status import ConnectionStatus, PolicyStatus, Report, RuleStatus
from understudy.credentials.secret import Secret

PAGES = ("/healthz", "/readyz", "/metrics", "/status")
GUARDED = ("/metrics", "/status")
ANY_PORT = ("127.0.0.1", 0)


class FakeStatus:
    def __init__(self):
        self.reasons: list[str] = []

    async def look(self):
        pass

    def not_ready(self):
        return self.reasons

    def report(self):
        return Report(
            version="0.1.0",
            uptime_seconds=5.0,
            active_connections=0,
            policy=PolicyStatus(
                digest="sha256:1",
                mode="enforce",
                age_seconds=4.0,
                rules=(RuleStatus("claude", "allow", "team", ("api.anthropic.com",)),),
                connections=(
                    ConnectionStatus(
                        name="team",
                        provider="anthropic",
                        hosts=("api.anthropic.com",),
                        via_gateway=False,
                        source="env",
                        secret="ANTHROPIC_API_KEY",
                        secret_age_seconds=3.5,
                        last_error=None,
                    ),
                ),
            ),
            policy_error=None,
            ca_fingerprint="AB:CD",
            ca_expires=datetime(2030, 1, 1, tzinfo=UTC),
            audit_healthy=True,
        )


@pytest.fixture
def status():
    return FakeStatus()


def ask(status, *requests, address=ANY_PORT, **options):
    """Start a server, send (method, path, headers) each, and give the answers."""

    async def talk():
        metrics = Metrics()
        server = AdminServer(status, metrics, address, **options)
        bound = await server.start()
        connector = aiohttp.UnixConnector(str(bound)) if isinstance(bound, Path) else None
        base = "http://localhost" if isinstance(bound, Path) else f"http://127.0.0.1:{bound[1]}"
        answers = []
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                for method, path, headers in requests:
                    async with session.request(
                        method, base + path, headers=headers, allow_redirects=False
                    ) as response:
                        answers.append((response.status, response.headers, await response.read()))
        finally:
            await server.close()
        return answers

    return asyncio.run(talk())


def get(status, path, headers=None, **options):
    [(code, _, body)] = ask(status, ("GET", path, headers), **options)
    return code, body


def test_healthz_says_that_the_process_serves(status):
    assert get(status, "/healthz") == (200, b'{\n  "status": "ok"\n}\n')


def test_readyz_gives_every_reason_against(status):
    assert get(status, "/readyz")[0] == 200

    status.reasons = ["no policy is in force", "the secret of team cannot be had"]
    code, body = get(status, "/readyz")
    assert code == 503
    assert json.loads(body)["reasons"] == status.reasons


def test_metrics_are_prometheus_text_with_current_ages(status):
    async def talk():
        metrics = Metrics()
        metrics._connections.add("team")
        server = AdminServer(status, metrics, ANY_PORT)
        bound = await server.start()
        async with aiohttp.ClientSession() as session:
            response = await session.get(f"http://127.0.0.1:{bound[1]}/metrics")
            text = await response.text()
        await server.close()
        return response.headers["Content-Type"], text

    content_type, text = asyncio.run(talk())

    assert content_type.startswith("text/plain")
    assert 'understudy_secret_age_seconds{connection="team"} 3.5' in text


def test_status_tells_names_and_ages_in_json(status):
    code, body = get(status, "/status")
    report = json.loads(body)

    assert code == 200
    assert report["policy"]["connections"][0]["secret"] == "ANTHROPIC_API_KEY"
    assert report["policy"]["connections"][0]["secret_age_seconds"] == 3.5
    assert report["ca_fingerprint"] == "AB:CD"
    assert report["ca_expires"] == "2030-01-01T00:00:00+00:00"


@pytest.mark.parametrize("path", PAGES)
def test_no_page_names_its_software_or_may_be_kept(status, path):
    answers = ask(status, ("GET", path, None), ("GET", "/no-such-page", None))

    for _, headers, _ in answers:
        assert "Server" not in headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(status, method):
    for code, headers, _ in ask(status, *((method, path, None) for path in PAGES)):
        assert code == 405
        assert set(headers["Allow"].split(",")) == {"GET", "HEAD"}


def test_head_is_answered_without_a_body(status):
    [(code, _, body)] = ask(status, ("HEAD", "/readyz", None))

    assert (code, body) == (200, b"")


def test_other_pages_are_not_found_in_json(status):
    code, body = get(status, "/")

    assert code == 404
    assert json.loads(body) == {"error": "Not Found"}


# -- the token


@pytest.mark.parametrize("token", ["s3cret-token", Secret("s3cret-token", "admin")])
def test_with_a_token_only_its_holder_gets_in(status, token):
    right = {"Authorization": "Bearer s3cret-token"}
    for path in GUARDED:
        assert get(status, path, right, token=token)[0] == 200
    for wrong in (
        None,
        {"Authorization": "Bearer s3cret-toke"},
        {"Authorization": "Bearer s3cret-tokenx"},
        {"Authorization": "Basic s3cret-token"},
        {"Authorization": "s3cret-token"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer \u00e9"},
    ):
        for path in GUARDED:
            [(code, headers, body)] = ask(status, ("GET", path, wrong), token=token)
            assert code == 401
            assert headers["WWW-Authenticate"].startswith("Bearer")
            assert b"s3cret" not in body


def test_an_empty_bearer_never_equals_no_token(status):
    assert get(status, "/status", {"Authorization": "Bearer "})[0] == 200
    assert get(status, "/status", {"Authorization": "Bearer "}, token="x")[0] == 401


def test_probes_need_no_token(status):
    for path in ("/healthz", "/readyz"):
        assert get(status, path, token="t")[0] == 200


@pytest.mark.parametrize("path", ["//status", "/./status", "/%73tatus", "/status/", "/STATUS"])
def test_no_spelling_of_a_page_gets_around_the_token(status, path):
    import yarl  # noqa: PLC0415 - only to send the path as it is

    async def talk():
        server = AdminServer(status, Metrics(), ANY_PORT, token="t")
        bound = await server.start()
        url = yarl.URL(f"http://127.0.0.1:{bound[1]}{path}", encoded=True)
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            body = await response.read()
        await server.close()
        return response.status, body

    code, body = asyncio.run(talk())
    assert code in (401, 404)
    assert b"sha256" not in body


# -- DNS rebinding


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9081", "127.0.0.1.evil.example", "localhost.evil.example"],
)
def test_a_web_page_cannot_read_under_its_own_name(status, host):
    for path in GUARDED:
        code, body = get(status, path, {"Host": host})
        assert code == 421
        assert b"sha256" not in body


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9081", "10.2.3.4:9081", "[::1]:9081", "[::1]", "localhost", "LOCALHOST:1"]
)
def test_addresses_and_localhost_are_own_names(status, host):
    assert get(status, "/status", {"Host": host})[0] == 200


def test_given_names_are_own_names_too(status):
    headers = {"Host": "understudy.agents.svc:9081"}

    assert get(status, "/status", headers)[0] == 421
    assert get(status, "/status", headers, names=["understudy.agents.svc"])[0] == 200


def test_probes_may_use_any_name(status):
    assert get(status, "/readyz", {"Host": "balancer.example"})[0] == 200


# -- sockets


def test_a_unix_socket_is_for_its_owner_only_and_goes_at_the_end(status, tmp_path):
    path = tmp_path / "admin.sock"

    async def talk():
        server = AdminServer(status, Metrics(), path)
        assert await server.start() == path
        mode = path.stat().st_mode
        await server.close()
        return mode

    mode = asyncio.run(talk())
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert not path.exists()
    assert get(status, "/status", address=path)[0] == 200


def test_a_stale_socket_is_removed(status, tmp_path):
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    assert get(status, "/healthz", address=path)[0] == 200


def test_a_socket_in_use_and_a_file_are_left_alone(status, tmp_path):
    path, file = tmp_path / "admin.sock", tmp_path / "file"
    file.write_text("mine")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ListenError, match="another process listens"):
            ask(status, address=path)
    with pytest.raises(ListenError, match="is no socket"):
        ask(status, address=file)

    assert path.exists()
    assert file.read_text() == "mine"


def test_a_port_in_use_is_a_sentence(status):
    with socket.create_server(ANY_PORT) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{port}: cannot listen"):
            ask(status, address=("127.0.0.1", port))


def test_making_a_server_has_no_side_effects(status, tmp_path):
    AdminServer(status, Metrics(), tmp_path / "admin.sock")

    assert list(tmp_path.iterdir()) == []


def test_requests_that_are_not_http_tell_nothing_and_fill_no_log(status, caplog):
    async def talk():
        server = AdminServer(status, Metrics(), ANY_PORT)
        bound = await server.start()
        reader, writer = await asyncio.open_connection(*bound)
        writer.write(b"\x16\x03\x01 what is this\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await server.close()
        return answer

    answer = asyncio.run(talk())
    assert answer.startswith(b"HTTP/1.") or answer == b""
    assert b"Traceback" not in answer
    assert [record for record in caplog.records if record.name.startswith("understudy")] == []
    assert b"sha256" not in answer
