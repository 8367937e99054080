"""A network and a resolver of the test's own: namespaces, and a DNS server that keeps its queries.

Linux, as root; nothing of the machine's own network or files is touched.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.support.distance import Unavailable

A, CNAME, AAAA = 1, 5, 28
_HEADER = struct.Struct(">HHHHHH")
_RESPONSE, _NAME_ERROR = 0x8580, 0x8583


def run_isolated[T](folder: Path, addresses: list[str], work: Callable[[], T]) -> T:
    """Run ``work`` in a thread whose sockets and programs see nothing but this network.

    ``addresses`` are the network's, all of them this machine's. Names are asked of 127.0.0.1:53.
    Raises Unavailable.
    """

    def isolate() -> T:
        try:
            os.unshare(os.CLONE_NEWNET | os.CLONE_NEWNS)
        except (AttributeError, OSError) as error:
            raise Unavailable(f"no namespaces of its own: {error}") from None
        resolver = folder / "resolv.conf"
        resolver.write_text("nameserver 127.0.0.1\noptions timeout:5 attempts:1\n")
        switch = folder / "nsswitch.conf"
        switch.write_text("hosts: files dns\n")
        _run("mount", "--make-rprivate", "/")
        _run("mount", "--bind", str(resolver), "/etc/resolv.conf")
        _run("mount", "--bind", str(switch), "/etc/nsswitch.conf")
        _run("ip", "link", "set", "lo", "up")
        for address in addresses:
            options = ["nodad"] if ":" in address else []
            _run("ip", "address", "add", address, "dev", "lo", *options)
        return work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(isolate).result()


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        raise Unavailable(f"there is no {command[0]} command") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{' '.join(command)}: {error.stderr.decode()}") from None


class NameServer:
    """Answers from ``zone``, and keeps every query: ``name/type`` in order.

    A name's records are addresses, or one other name that it stands for, as ``=other.name``.
    """

    def __init__(self, zone: dict[str, list[str]]) -> None:
        self.zone = zone
        self.queries: list[str] = []

    @contextmanager
    def serve(self) -> Iterator[NameServer]:
        """Answer on 127.0.0.1:53."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
            listening.bind(("127.0.0.1", 53))
            thread = threading.Thread(target=self._answer_all, args=(listening,))
            thread.start()
            try:
                yield self
            finally:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                    last.sendto(b"", ("127.0.0.1", 53))
                thread.join()

    def names(self) -> set[str]:
        """Every name that was asked for."""
        return {query.partition("/")[0] for query in self.queries}

    def _answer_all(self, listening: socket.socket) -> None:
        while True:
            query, asker = listening.recvfrom(4096)
            if not query:
                return
            listening.sendto(self._answer(query), asker)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while size := query[at]:
            labels.append(query[at + 1 : at + 1 + size].decode("latin-1"))
            at += 1 + size
        question = query[12 : at + 5]
        (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
        name = ".".join(labels).lower()
        self.queries.append(f"{name}/{'AAAA' if kind == AAAA else kind}")
        answers, owner = [], name
        known = name in self.zone
        for _ in range(8):
            records = self.zone.get(owner, [])
            if not records or not records[0].startswith("="):
                break
            target = records[0][1:]
            answers.append(_record(owner, CNAME, _encode(target)))
            owner = target
        for record in records:
            family = AAAA if ":" in record else A
            if family == kind:
                packed = socket.inet_pton(
                    socket.AF_INET6 if family == AAAA else socket.AF_INET, record
                )
                answers.append(_record(owner, family, packed))
        flags = _RESPONSE if known else _NAME_ERROR
        head = _HEADER.pack(int.from_bytes(query[:2]), flags, 1, len(answers), 0, 0)
        return head + question + b"".join(answers)


def _encode(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _record(owner: str, kind: int, data: bytes) -> bytes:
    return _encode(owner) + struct.pack(">HHIH", kind, 1, 0, len(data)) + data
