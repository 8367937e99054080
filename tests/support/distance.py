"""Two places on one machine, far apart: network namespaces with a delay between them.

The delay is netem's where the kernel has it, otherwise that of packets that a process carries
between two TUN devices. Linux, as root; nothing of the machine's own network is touched.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

NEAR, FAR = "198.18.0.1", "198.18.0.2"
_NEAR_DEVICE, _FAR_DEVICE = "near0", "far0"
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


class Unavailable(Exception):  # noqa: N818 - no error: a test is skipped with its text
    """This machine has no such places; the text says why."""


@dataclass(frozen=True)
class Distance:
    """What there is in a thread that :func:`run_apart` has started."""

    delay_ms: float
    """One way."""
    far: int
    """The far namespace: give it to what listens there, on FAR."""
    means: str
    """What makes the delay."""


def run_apart[T](delay_ms: float, work: Callable[[Distance], T]) -> T:
    """Run ``work`` in a thread that is near: its sockets and the programs that it starts.

    Raises Unavailable.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_work_apart, delay_ms, work).result()


def _work_apart[T](delay_ms: float, work: Callable[[Distance], T]) -> T:
    with ExitStack() as stack:
        far = stack.enter_context(_new_namespace())
        _ip("link", "set", "lo", "up")
        near = stack.enter_context(_new_namespace())
        _ip("link", "set", "lo", "up")
        means = "netem"
        if not _link_by_netem(delay_ms, near, far):
            stack.enter_context(_link_by_tun(delay_ms, near, far))
            means = "a relay between TUN devices"
        for namespace, device, own in ((far, _FAR_DEVICE, FAR), (near, _NEAR_DEVICE, NEAR)):
            os.setns(namespace, os.CLONE_NEWNET)
            _ip("address", "add", f"{own}/30", "dev", device)
            _ip("link", "set", device, "up")
        return work(Distance(delay_ms, far, means))


@contextmanager
def _new_namespace() -> Iterator[int]:
    try:
        os.unshare(os.CLONE_NEWNET)
    except (AttributeError, OSError) as error:
        raise Unavailable(f"no network namespace of its own: {error}") from None
    namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        yield namespace
    finally:
        os.close(namespace)


def _link_by_netem(delay_ms: float, near: int, far: int) -> bool:
    os.setns(near, os.CLONE_NEWNET)
    _ip("link", "add", _NEAR_DEVICE, "type", "veth", "peer", "name", _FAR_DEVICE)
    _ip("link", "set", _FAR_DEVICE, "netns", f"/proc/{os.getpid()}/fd/{far}")
    for namespace, device in ((near, _NEAR_DEVICE), (far, _FAR_DEVICE)):
        os.setns(namespace, os.CLONE_NEWNET)
        delay = ("root", "netem", "delay", f"{delay_ms}ms")
        try:
            done = subprocess.run(
                ["tc", "qdisc", "add", "dev", device, *delay], capture_output=True, check=False
            )
        except FileNotFoundError:
            done = None
        if done is None or done.returncode != 0:
            os.setns(near, os.CLONE_NEWNET)
            _ip("link", "delete", _NEAR_DEVICE)
            return False
    return True


@contextmanager
def _link_by_tun(delay_ms: float, near: int, far: int) -> Iterator[None]:
    with ExitStack() as stack:
        tuns = []
        for namespace, device in ((near, _NEAR_DEVICE), (far, _FAR_DEVICE)):
            os.setns(namespace, os.CLONE_NEWNET)
            tuns.append(_open_tun(device))
            stack.callback(os.close, tuns[-1])
        command = [sys.executable, str(Path(__file__).with_name("delay.py")), str(delay_ms)]
        with subprocess.Popen(
            [*command, *map(str, tuns)], stdin=subprocess.PIPE, pass_fds=tuns
        ) as relay:
            assert relay.stdin is not None
            yield
            relay.stdin.close()


def _open_tun(device: str) -> int:
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR)
        request = struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(tun, _TUNSETIFF, request)
    except OSError as error:
        raise Unavailable(f"neither netem nor a TUN device: {error}") from None
    return tun


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)
    except FileNotFoundError:
        raise Unavailable("there is no ip command (iproute2)") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"ip {' '.join(arguments)}: {error.stderr.decode()}") from None
