"""Paths: what a server may read in two ways is refused, what leaves the rule in one is denied.

``twin.example`` is allowed under ``/v1/**`` only; ``other.example`` denies ``/private/**``.
"""

from __future__ import annotations

import json

import pytest
from tests.support.scene import Scene


def request(scene: Scene, host: str, target: bytes) -> tuple[int, str]:
    with scene.tunnel(host) as wire:
        answer = wire.request(
            b"GET " + target + b" HTTP/1.1\r\nHost: " + host.encode() + b"\r\n\r\n"
        )
    return answer.status, answer.reason if answer.status != 200 else "allowed"


@pytest.mark.attack("odd path")
@pytest.mark.parametrize(
    "path",
    [
        b"/v1/../admin",
        b"/v1/./x",
        b"/v1/..",
        b"/v1/.",
        b"/v1/%2e%2e/admin",
        b"/v1/%2E./admin",
        b"/v1/.%2e/admin",
        b"/v1/%252e%252e/admin",
        b"/v1/%25%32%65%25%32%65/admin",
        b"/v1/x%2f..%2fadmin",
        b"/v1/x%252f..%252fadmin",
        b"/v1/..;/admin",
        b"/v1/..%3b/admin",
        b"/v1/x/..;a=b/admin",
        b"/v1\\..\\admin",
        b"/v1/%5c..%5cadmin",
        b"/v1/%255c..",
        b"/v1/%00",
        b"/v1/x%00.json",
        b"/v1/%2500",
        b"/v1/%0d%0aX:y",
        b"/v1/%250a",
        b"/v1/x#frag",
        b"/v1/x%23/../admin",
        b"/v1/..%3fx",
        b"/v1/%2e%2e%2523",
        b"/v1/\xff",
        b"/v1/\xc0\xae\xc0\xae/admin",
        b"/v1/%c0%ae%c0%ae/admin",
        b"/v1/%e0%80%ae%e0%80%ae/admin",
        b"/v1/x%E0%80%AFy",
        b"/v1/%f0%80%80%ae./admin",
        b"/v1/x%fc%80%80%80%81%9cy",
        b"/v1/%25e0%2580%25ae/admin",
        b"/v1/%ef%bc%8e%ef%bc%8e/admin",
        b"/v1/%EF%BC%8E./admin",
        b"/v1/%e2%80%a5/admin",
        b"/v1/x%ef%bc%bcy",
        b"/v1/x%ef%bc%8f..%ef%bc%8fadmin",
        b"/v1/%ef%bc%85%32%65%ef%bc%85%32%65/admin",
        b"/v1/%u002e%u002e/admin",
        b"/v1/%u002fadmin",
        b"/v1/\x01",
        b"/v1/\x7f",
        b"/v1/\t",
        b"/v1/\x0b",
    ],
)
def test_ambiguous_path_is_refused_whatever_the_rule(scene: Scene, path: bytes) -> None:
    status, reason = request(scene, "twin.example", path)
    assert (status, reason) in {(400, "path_not_canonical"), (400, "bad_target")}
    line = scene.verdict()
    assert line["reason"] == reason
    assert json.dumps(line).isascii()
    scene.expect_nothing_upstream()


@pytest.mark.attack("odd path")
@pytest.mark.parametrize(
    "path",
    [
        b"/admin",
        b"/",
        b"/v1",
        b"/V1/x",
        b"/v1x/y",
        b"//v1/x",
        b"/x/v1/y",
        b"/v1;x/../y",
        b"/%76%31x/y",
        b"/v2/x",
        b"/v1%2fx",
        b"/%2fv1/x",
        b"/v1;a/x",
        b"/v1%3f/x",
        b"/v1%2523/x",
    ],
)
def test_path_with_a_reading_outside_the_rule_is_denied(scene: Scene, path: bytes) -> None:
    status, reason = request(scene, "twin.example", path)
    if (status, reason) != (400, "path_not_canonical"):
        assert (status, reason) == (403, "path_not_allowed")
    scene.expect_rejected(reason, event="request.decided")


@pytest.mark.attack("odd path")
@pytest.mark.parametrize(
    "path",
    [
        b"/v1/messages",
        b"/v1/@scope%2fname",
        b"/v1/a//b",
        b"/v1/x;y",
        b"/v1/%41",
        b"/v1/x?/../y",
        b"/v1/%e6%96%87%e4%bb%b6",
        b"/v1/caf%C3%A9",
        b"/v1/cafe%CC%81",
        b"/v1/%E2%80%A6",
        b"/v1/%ff%fe",
    ],
)
def test_path_that_every_reading_keeps_inside_goes_up_byte_for_byte(
    scene: Scene, path: bytes
) -> None:
    assert request(scene, "twin.example", path) == (200, "allowed")
    (received,) = scene.expect_allowed("twin.example")
    assert received.target.encode("latin-1") == path


@pytest.mark.attack("odd path")
@pytest.mark.parametrize(
    "path",
    [
        b"/private/x",
        b"//private/x",
        b"/%70rivate/x",
        b"/%2570rivate/x",
        b"/private;a/x",
        b"/private%2fx",
        b"/private//x",
        b"/;/private/x",
        b"/%ef%bd%90rivate/x",
        b"/private%ef%bc%8fx",
    ],
)
def test_a_deny_rule_holds_for_every_reading(scene: Scene, path: bytes) -> None:
    status, reason = request(scene, "other.example", path)
    assert (status, reason) == (403, "denied_by_rule")
    line = scene.expect_rejected(reason, event="request.decided")
    assert line["rule"] == "no-secrets"


@pytest.mark.attack("odd path")
def test_the_query_is_never_logged(scene: Scene) -> None:
    assert request(scene, "other.example", b"/x?token=query-value-1234") == (200, "allowed")
    scene.settle()
    assert "query-value-1234" not in json.dumps(scene.events())


@pytest.mark.attack("odd path")
@pytest.mark.parametrize("target", [b"/x?token=query-value-1234#y", b"/..?token=query-value-1234"])
def test_the_query_of_a_refused_target_is_not_logged(scene: Scene, target: bytes) -> None:
    request(scene, "other.example", target)
    scene.settle()
    assert "query-value-1234" not in json.dumps(scene.events())


@pytest.mark.attack("odd path")
def test_a_long_path_is_cut_in_the_audit_and_stays_one_line(scene: Scene) -> None:
    assert request(scene, "other.example", b"/" + b"a" * 30000) == (200, "allowed")
    scene.settle()
    (line,) = scene.events("request.decided")
    assert len(json.dumps(line)) < 16384
