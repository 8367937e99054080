"""What a changed policy brings with it, and a policy file that changes all the time under load."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from tests.conftest import complete_policy
from tests.support.client import REFUSED
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream

SECRET = "sk-real-looped-0123456789abcdef"


def pem_of(ca: trustme.CA) -> str:
    return ca.cert_pem.bytes().decode()


def test_the_published_bundle_follows_the_policys_roots(
    start_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    company = trustme.CA()
    roots = tmp_path / "company.pem"
    roots.write_text(pem_of(company))
    policy: dict[str, Any] = {"version": 1, "allow": [{"name": "a", "hosts": ["a.example"]}]}
    proxy = start_proxy(yaml.safe_dump(policy))
    bundle = Path(proxy.bundle)
    own = Path(proxy.ca_cert).read_text().strip()
    assert own in bundle.read_text()
    assert pem_of(company).strip() not in bundle.read_text()
    proxy.write_policy(policy | {"upstream": {"ca_file": str(roots)}})
    proxy.wait_for_events("policy.loaded", 2)
    assert pem_of(company).strip() in bundle.read_text()
    assert own in bundle.read_text()
    proxy.write_policy(policy)
    proxy.wait_for_events("policy.loaded", 3)
    assert pem_of(company).strip() not in bundle.read_text()
    assert bundle.stat().st_mode & 0o777 == 0o644


ALLOWING: dict[str, Any] = {"version": 1, "allow": [{"name": "a", "hosts": ["a.example"]}]}
DENYING = ALLOWING | {"deny": [{"name": "none", "hosts": ["a.example"]}]}


def lay_out(folder: Path, policy: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))


def swap_link(link: Path, target: str) -> None:
    """As git-sync and other deployments do."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(target)
    fresh.replace(link)


def replace_folder(folder: Path) -> None:
    folder.rename(folder.with_name("old"))
    (folder.parent / "denying").rename(folder)


def take_folder_away_and_bring_it_back(folder: Path) -> None:
    shutil.rmtree(folder)
    (folder.parent / "denying").rename(folder)


def rewrite_keeping_size_and_time(file: Path) -> None:
    """As `rsync --times --inplace` may."""
    before = file.stat()
    text = file.read_text()
    file.write_text(text.replace("a.example", "z.example"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a file in a folder behind a link": (
        "link/policy.yaml",
        lambda place: swap_link(place / "link", "denying"),
    ),
    "a folder behind a link": ("link", lambda place: swap_link(place / "link", "denying")),
    "a file behind a link": (
        "other/policy.yaml",
        lambda place: shutil.copy(place / "denying/policy.yaml", place / "real/policy.yaml"),
    ),
    "a folder that is replaced": (
        "real/policy.yaml",
        lambda place: replace_folder(place / "real"),
    ),
    "a folder that goes and comes back": (
        "real",
        lambda place: take_folder_away_and_bring_it_back(place / "real"),
    ),
    "a file of the same size and time": (
        "real/policy.yaml",
        lambda place: rewrite_keeping_size_and_time(place / "real/policy.yaml"),
    ),
    "a file whose name is not text": (
        "real",
        lambda place: Path(os.fsdecode(bytes(place / "real") + b"/\xff\xfe.yaml")).write_text(
            "version: 1\ndeny: [{name: none, hosts: [a.example]}]\n"
        ),
    ),
}


@pytest.mark.parametrize("how", list(CHANGES))
def test_a_policy_that_changes_out_of_sight_is_in_force_all_the_same(
    start_proxy: Callable[..., Proxy], tmp_path: Path, how: str
) -> None:
    """What a revocation may look like, where no system call tells of it at the file itself."""
    lay_out(tmp_path / "real", ALLOWING)
    lay_out(tmp_path / "denying", DENYING)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/policy.yaml").symlink_to("../real/policy.yaml")
    path, change = CHANGES[how]
    proxy = start_proxy("", arguments=["--policy", str(tmp_path / path)])
    with proxy.wire() as wire:
        assert wire.connect("a.example:443").status == 200
    change(tmp_path)
    proxy.wait_for_events("policy.loaded", 2)
    with proxy.wire() as wire:
        assert wire.connect("a.example:443").status == 403


def test_a_root_that_is_taken_out_of_the_ca_file_is_believed_no_more(
    start_upstream: Callable[..., Upstream],
    start_proxy: Callable[..., Proxy],
    tmp_path: Path,
    upstream_ca_file: Path,
) -> None:
    """The policy only names the file; nothing else of it changes."""
    roots = tmp_path / "roots" / "company.pem"
    roots.parent.mkdir()
    roots.write_bytes(upstream_ca_file.read_bytes())
    good = start_upstream("good.example")
    policy = {
        "allow": [{"name": "good", "hosts": ["good.example"]}],
        "upstream": {"ca_file": str(roots)},
    }
    proxy = start_proxy(policy, upstreams=[good])
    assert proxy.request("GET", "good.example").status == 200
    roots.write_text(pem_of(trustme.CA()))
    proxy.wait_for_events("policy.loaded", 2)
    assert proxy.request("GET", "good.example").status == 502
    assert len(good.requests) == 1


def test_a_policy_that_something_else_was_in_the_way_of_is_in_force_once_that_is_gone(
    start_proxy: Callable[..., Proxy],
) -> None:
    """It is rejected once, and taken without another change of the file or a SIGHUP."""
    proxy = start_proxy(yaml.safe_dump(ALLOWING))
    away = proxy.state.rename(proxy.folder / "away")
    proxy.state.write_text("in the way")
    bound = {"good": {"hosts": ["b.example"], "carriers": [{"bearer": True}]}}
    bound["good"]["secret"] = {"env": "KEY"}  # type: ignore[assignment] # not only lists
    proxy.write_policy(DENYING | {"connections": bound})
    (rejected,) = proxy.wait_for_events("policy.rejected")
    assert "state" in str(rejected["problems"])
    with proxy.wire() as wire:
        assert wire.connect("a.example:443").status == 200
    proxy.state.unlink()
    away.rename(proxy.state)
    proxy.wait_for_events("policy.loaded", 2)
    with proxy.wire() as wire:
        assert wire.connect("a.example:443").status == 403
    assert len(proxy.events("policy.rejected")) == 1


def test_a_connection_that_rests_during_a_reload_has_the_new_budgets_with_its_next_request(
    start_upstream: Callable[..., Upstream], start_proxy: Callable[..., Proxy]
) -> None:
    good = start_upstream("good.example")
    policy = {"allow": [{"name": "good", "hosts": ["good.example"]}]}
    proxy = start_proxy(policy, upstreams=[good])
    document = yaml.safe_load(proxy.policy_file.read_text())
    fields = "".join(f"\r\nX-{number}: y" for number in range(10))
    head = f"GET / HTTP/1.1\r\nHost: good.example{fields}"
    with proxy.tunnel("good.example") as wire:
        for _ in range(3):  # known by now
            assert wire.request(head).status == 200
        proxy.write_policy(document | {"limits": {"max_headers": 8}})
        proxy.wait_for_events("policy.loaded", 2)
        refused = wire.request(head)
    assert (refused.status, refused.reason) == (431, "header_too_large")
    assert len(good.requests) == 3
    decided = proxy.wait_for_events("request.decided", 4)
    assert [line["verdict"] for line in decided] == ["allow"] * 3 + ["deny"]
    with proxy.tunnel("good.example") as wire:
        assert wire.request("GET / HTTP/1.1\r\nHost: good.example").status == 200


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_our_own_ca_among_the_upstreams_roots_is_refused(
    start_upstream: Callable[..., Upstream], start_proxy: Callable[..., Proxy], when: str
) -> None:
    """With it, a certificate made for an agent would pass as a provider's."""
    good = start_upstream("good.example")
    policy = {"allow": [{"name": "good", "hosts": ["good.example"]}]}
    proxy = start_proxy(policy, upstreams=[good])
    document = yaml.safe_load(proxy.policy_file.read_text())
    document["upstream"]["ca_file"] = proxy.ca_cert
    proxy.write_policy(document)
    rejected = proxy.wait_for_events("policy.rejected")[-1]
    assert "own CA" in str(rejected["problems"])
    assert proxy.request("GET", "good.example").status == 200
    if when == "at the start":
        proxy.process.terminate()
        proxy.process.wait(30)
        again = start_proxy("", folder=proxy.folder)
        with again.wire() as wire:
            assert wire.connect("good.example:443").reason == "policy_missing"
        assert again.admin("/readyz")[0] == 503


def test_readiness_knows_the_secrets_of_a_new_policy(
    start_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    key = tmp_path / "key"
    policy: dict[str, Any] = {
        "connections": {
            "good": {
                "hosts": ["good.example"],
                "carriers": [{"bearer": True}],
                "secret": {"env": "KEY"},
            }
        },
        "allow": [{"name": "good", "connection": "good"}],
    }
    proxy = start_proxy({"version": 1} | policy, environ={"KEY": SECRET})
    assert proxy.admin("/readyz")[0] == 200
    policy["connections"]["late"] = policy["connections"]["good"] | {
        "hosts": ["late.example"],
        "secret": {"file": str(key)},
    }
    policy["allow"].append({"name": "late", "connection": "late"})
    proxy.write_policy({"version": 1} | policy)
    failed = proxy.wait_for_events("secret.failed")[-1]
    assert failed["connection"] == "late"
    status, page = proxy.admin("/readyz")
    assert (status, b"late" in page) == (503, True)
    key.write_text(SECRET)
    policy["connections"]["late"]["secret"]["max_age_seconds"] = 60
    proxy.write_policy({"version": 1} | policy)
    proxy.wait_for_events("policy.loaded", 3)
    proxy.wait_until(lambda: proxy.admin("/readyz")[0] == 200)


def test_a_refused_tunnel_names_the_policy_that_refused_it(
    start_proxy: Callable[..., Proxy],
) -> None:
    proxy = start_proxy({"version": 1, "allow": [{"name": "a", "hosts": ["a.example"]}]})
    with proxy.wire() as wire:
        assert wire.connect("evil.example:443").status == 403
    (loaded,) = proxy.events("policy.loaded")
    (denied,) = proxy.wait_for_events("tunnel.denied")
    assert denied["policy_digest"] == loaded["policy_digest"]


def two_policies(good: Upstream, ca_file: Path) -> tuple[str, str]:
    """Each allows one path and no other; a mixture of the two would allow both or none."""
    connection = {
        "hosts": ["good.example"],
        "carriers": [{"header": "X-Api-Key"}],
        "secret": {"env": "KEY"},
    }
    first, second = (
        yaml.safe_dump(
            complete_policy(
                {
                    "connections": {"good": connection},
                    "allow": [{"name": name, "connection": "good", "paths": [f"/{name}/**"]}],
                },
                [good],
                ca_file,
            ),
            sort_keys=False,
        )
        for name in ("one", "two")
    )
    return first, second


def test_no_request_is_decided_by_a_policy_that_was_not_whole_and_good(
    start_upstream: Callable[..., Upstream],
    start_proxy: Callable[..., Proxy],
    upstream_ca_file: Path,
) -> None:
    """Two good policies, bad ones between them, replaced and written in place, under load."""
    good = start_upstream("good.example")
    first, second = two_policies(good, upstream_ca_file)
    proxy = start_proxy(first, environ={"KEY": SECRET})
    placeholder = proxy.placeholder("good")
    stop = threading.Event()
    answers: list[tuple[str, int, str]] = []
    refused_tunnels = itertools.count()

    def load(name: str) -> None:
        head = f"GET /{name}/x HTTP/1.1\nHost: good.example\nX-Api-Key: {placeholder}"
        while not stop.is_set():
            with contextlib.suppress(*REFUSED), proxy.tunnel("good.example") as wire:
                for _ in range(20):
                    answer = wire.request(head)
                    answers.append(
                        (name, answer.status, "" if answer.status == 200 else answer.reason)
                    )

    def refused_load() -> None:
        while not stop.is_set():
            with proxy.wire() as wire:
                assert wire.connect("evil.example:443").reason == "host_not_allowed"
            next(refused_tunnels)

    threads = [threading.Thread(target=load, args=(name,)) for name in ("one", "two")]
    threads.append(threading.Thread(target=refused_load))
    for thread in threads:
        thread.start()
    bad = ["", "version: 7\n", first[: len(first) // 2], "\x00", "allow: [", "- a\n- b\n"]
    for turn in range(12):
        rejected = len(proxy.events("policy.rejected"))
        proxy.write_policy(bad[turn % len(bad)])
        proxy.wait_for_events("policy.rejected", rejected + 1)
        text = second if turn % 2 == 0 else first
        # Half, then whole, in the same file.
        with proxy.policy_file.open("w") as file:
            file.write(text[: len(text) // 3])
            file.flush()
            before = len(answers)
            proxy.wait_until(lambda before=before: len(answers) > before + 3)  # type: ignore[misc] # bound now
            file.write(text[len(text) // 3 :])
        proxy.wait_for_events("policy.loaded", turn + 2)
        before = len(answers)
        proxy.wait_until(lambda before=before: len(answers) > before + 10)  # type: ignore[misc] # bound now
    stop.set()
    for thread in threads:
        thread.join(30)
    loaded = proxy.events("policy.loaded")
    digests = {line["policy_digest"] for line in loaded}
    assert len(digests) == 2
    decided = proxy.events("request.decided") + proxy.events("tunnel.denied")
    assert {line["policy_digest"] for line in decided} == digests
    one = loaded[0]["policy_digest"]
    for line in proxy.events("request.decided"):
        allowed = "one" if line["policy_digest"] == one else "two"
        asked = line["http"]["path"].split("/")[1]
        assert (line["verdict"] == "allow") == (asked == allowed), line
    assert {(status, reason) for _, status, reason in answers} == {
        (200, ""),
        (403, "path_not_allowed"),
    }
    assert {received.header("x-api-key") for received in good.requests} == {SECRET}
    assert next(refused_tunnels) == len(proxy.events("tunnel.denied"))
