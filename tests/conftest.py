"""Fixtures that start real things: a CA, upstreams and the proxy itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import settings
from tests.support.proxy import Proxy
from tests.support.scene import Scene, expect_no_secret_written
from tests.support.upstream import Upstream
from tests.support.world import SECRETS, World

# No test asserts a time: machines are shared and noisy.
settings.register_profile("understudy", deadline=None)
settings.load_profile("understudy")

ENGINES = ("express", "mitmproxy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        action="append",
        choices=ENGINES,
        help="run the tests that start a proxy on this engine alone (default: on each)",
    )


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Number bytes that may be random: the processes of a run must agree on the names."""
    return argname if isinstance(val, bytes) and not val.isascii() else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what starts a proxy, by whichever fixture, once with each engine."""
    if "engine" in metafunc.fixturenames:
        engines = metafunc.config.getoption("--engine") or ENGINES
        metafunc.parametrize("engine", engines, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ``@pytest.mark.engine("express")`` says is not about a test's engine."""
    left_out = [item for item in items if not _is_about_its_engine(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def _is_about_its_engine(item: pytest.Item) -> bool:
    marker, call = item.get_closest_marker("engine"), getattr(item, "callspec", None)
    return marker is None or call is None or call.params.get("engine") in marker.args


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> str:
    """The engine that the proxy runs on: a test with it, or with a proxy, runs once for each."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def upstream_ca() -> trustme.CA:
    """The authority that signs every pretend upstream."""
    return trustme.CA()


@pytest.fixture(scope="session")
def upstream_ca_file(upstream_ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The upstream authority's certificate, for ``upstream.ca_file``."""
    path = tmp_path_factory.mktemp("upstream-ca") / "ca.pem"
    upstream_ca.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes, in reverse order, what a test has started."""
    with ExitStack() as exit_stack:
        yield exit_stack


@pytest.fixture
def start_upstream(stack: ExitStack, upstream_ca: trustme.CA) -> Callable[..., Upstream]:
    """Start an upstream for a host name: ``start_upstream("api.good.example", handler=…)``."""

    def start(name: str, **options: Any) -> Upstream:
        return stack.enter_context(Upstream(name, upstream_ca, **options))

    return start


@pytest.fixture
def start_proxy(
    stack: ExitStack, tmp_path: Path, upstream_ca_file: Path, engine: str
) -> Callable[..., Proxy]:
    """Start the proxy: ``start_proxy(policy, upstreams=[…], environ={…})``.

    The policy gets ``version``, trust for the upstream CA and a ``connect_to`` for every upstream
    (port 443 for TLS ones, 80 for plain ones).
    """
    count = 0

    def start(
        policy: dict[str, Any] | str, *, upstreams: list[Upstream] | None = None, **options: Any
    ) -> Proxy:
        nonlocal count
        count += 1
        if isinstance(policy, dict):
            policy = complete_policy(policy, upstreams or [], upstream_ca_file)
        folder = options.pop("folder", tmp_path / f"proxy{count}")
        proxy = Proxy(policy, folder, engine, **options)
        return stack.enter_context(proxy)

    return start


def complete_policy(
    policy: dict[str, Any], upstreams: list[Upstream], ca_file: Path
) -> dict[str, Any]:
    """Add version, trust and ``connect_to`` to a test's policy."""
    upstream = dict(policy.get("upstream", {}))
    upstream.setdefault("ca_file", str(ca_file))
    places = {f"{u.name}:{443 if u.tls else 80}": u.connect_to for u in upstreams}
    upstream["connect_to"] = places | upstream.get("connect_to", {})
    if not upstream["connect_to"]:
        del upstream["connect_to"]
    return {"version": 1} | policy | {"upstream": upstream}


@pytest.fixture
def start_scene(start_proxy: Callable[..., Proxy]) -> Iterator[Callable[..., Scene]]:
    """Start a proxy of the test's own and watch it: ``start_scene(policy, upstreams, secrets)``.

    Other arguments are the proxy's.
    """
    scenes: list[Scene] = []

    def start(
        policy: dict[str, Any] | str,
        upstreams: list[Upstream],
        secrets: Mapping[str, Iterable[str]],
        **options: Any,
    ) -> Scene:
        proxy = start_proxy(policy, upstreams=upstreams, **options)
        scenes.append(Scene(proxy, {u.name: u for u in upstreams}, secrets))
        return scenes[-1]

    yield start
    for scene in scenes:
        scene.leave()
        expect_no_secret_written(scene.proxy, scene.secrets)


@pytest.fixture(scope="session")
def world(
    upstream_ca: trustme.CA,
    upstream_ca_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    engine: str,
) -> Iterator[World]:
    """One proxy with the upstreams of most attacks, shared: tests must not change it."""
    with World(upstream_ca, upstream_ca_file, tmp_path_factory.mktemp("world"), engine) as shared:
        yield shared


@pytest.fixture
def scene(world: World) -> Iterator[Scene]:
    """The shared proxy and upstreams, watched from now on."""
    scene = Scene(world.proxy, world.upstreams, SECRETS)
    yield scene
    scene.leave()
    scene.expect_counted()
