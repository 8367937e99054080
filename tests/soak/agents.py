"""Agents of the soak that speak to the proxy byte by byte: good, unlucky, rude and hostile."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from hashlib import sha256

from tests.soak.frames import converse_in_frames
from tests.soak.ledger import Entry, bytes_of
from tests.soak.stage import Stage
from tests.soak.wire import CLOSED, Answer, Wire
from tests.support.client import client_hello

BROKEN = ("upstream_failed",)
LEFT = ("client_closed", None)
SMALL, LARGE = 600, 4 << 20
REQUESTS_A_TUNNEL = 20
PIECE = 1 << 16
HOSTS = 2000
"""Denied names go round in this many: more than any cache of the proxy's has room for."""


class Agents:
    """What an agent can do, a method each; :meth:`act` does one of them."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.random = random.Random(seed)
        self.ledger = stage.ledger
        self.tls = ssl.create_default_context(cafile=stage.proxy.ca_cert)
        self.loose = ssl.create_default_context(cafile=stage.proxy.ca_cert)
        self.loose.check_hostname = False
        self.names = 0
        placeholder = stage.placeholders
        self.keys = {
            "search.example": f"X-Search-Key: {placeholder['search']}",
            "fragile.example": f"X-Search-Key: {placeholder['fragile']}",
        }
        deeds: dict[Callable[[], Awaitable[None]], int] = {
            self.keep_asking: 20,
            self.large: 3,
            self.stream: 4,
            self.reflect: 3,
            self.broken: 8,
            self.ask_toggled: 4,
            self.ask_fragile: 4,
            self.denied_request: 10,
            self.denied_tunnel: 4,
            self.closed: 8,
            self.leave_download: 2,
            self.leave_waiting: 2,
            self.leave_upload: 2,
            self.leave_tunnel: 2,
        }
        if stage.engine == "express":
            deeds[self.speak_in_frames] = 4
        self._deeds, self._weights = list(deeds), list(deeds.values())

    async def act(self) -> None:
        """Do one thing."""
        (deed,) = self.random.choices(self._deeds, self._weights)
        await deed()

    # -- tools

    async def wire(self) -> Wire:
        """A connection to the proxy."""
        return await Wire.open(
            self.stage.proxy.address,
            lambda: self.ledger.offences.append("an agent was shown a secret"),
        )

    async def tunnel(self, host: str, *, port: int = 443) -> Wire:
        """TLS to ``host`` through the proxy."""
        wire = await self.wire()
        answer = await wire.connect(f"{host}:{port}")
        if answer.status != 200:
            raise ConnectionError(f"CONNECT {host} was answered {answer.status}")
        await wire.start_tls(self.tls, host)
        return wire

    def head(self, method: str, host: str, path: str, *lines: str, size: int = 0) -> bytes:
        fields = [f"{method} {path} HTTP/1.1", f"Host: {host}", *lines]
        if host in self.keys and not lines:
            fields.append(self.keys[host])
        if size:
            fields.append(f"Content-Length: {size}")
        return ("\r\n".join(fields) + "\r\n\r\n").encode()

    def note(self, entry: Entry, answer: Answer) -> None:
        """Write down what came."""
        entry.status = answer.status
        entry.denial = answer.denial
        entry.request_id = answer.header("understudy-request-id")
        entry.concluded = True

    def expect(self, entry: Entry, answer: Answer, size: int) -> None:
        """The answer must be whole and every byte of it as it was sent."""
        self.note(entry, answer)
        if answer.denial is not None:
            if entry.reasons == {"allowed"}:
                entry.failure = f"refused with {answer.denial}"
        elif not answer.whole:
            entry.failure = f"the answer broke off after {answer.size} bytes"
        elif answer.digest != sha256(bytes_of(entry.mark, size)).digest():
            entry.failure = f"the answer has other bytes than were sent ({answer.size})"

    async def ask(self, entry: Entry, wire: Wire, host: str, path: str, size: int) -> Answer:
        """One request whose answer is known."""
        await wire.send(self.head("GET", host, path))
        answer = await wire.read()
        self.expect(entry, answer, size)
        return answer

    # -- what works

    async def keep_asking(self) -> None:
        """Many requests in one tunnel, small ones of all sorts."""
        host = self.random.choice(("search.example", "files.example"))
        wire = await self.tunnel(host)
        for _ in range(REQUESTS_A_TUNNEL):
            what = self.random.choice(("answer", "chunked", "status", "post", "slow"))
            entry = self.ledger.open(what)
            if what == "post":
                body = bytes_of(entry.mark, 2 * SMALL)
                path = f"/soak/answer/{entry.mark}/{SMALL}"
                await wire.send(self.head("POST", host, path, size=len(body)) + body)
                self.expect(entry, await wire.read(), SMALL)
            elif what == "status":
                status = self.random.choice((404, 429, 500, 503))
                await self.ask(entry, wire, host, f"/soak/status/{entry.mark}/{status}", 100)
            else:
                await self.ask(entry, wire, host, f"/soak/{what}/{entry.mark}/{SMALL}?q=1", SMALL)
        entry = self.ledger.open("until-close")
        await self.ask(entry, wire, host, f"/soak/until-close/{entry.mark}/{SMALL}", SMALL)
        await wire.close()

    async def large(self) -> None:
        """A large body up or down, framed in either way."""
        host = self.random.choice(("search.example", "files.example"))
        wire = await self.tunnel(host)
        entry = self.ledger.open("large")
        how = self.random.choice(("answer", "chunked", "up", "up-chunked"))
        if not how.startswith("up"):
            await self.ask(entry, wire, host, f"/soak/{how}/{entry.mark}/{LARGE}", LARGE)
            await wire.close()
            return
        path = f"/soak/answer/{entry.mark}/{SMALL}"
        chunked = how == "up-chunked"
        if chunked:
            key = (self.keys[host],) if host in self.keys else ()
            head = self.head("PUT", host, path, *key, "Transfer-Encoding: chunked")
        else:
            head = self.head("PUT", host, path, size=LARGE)
        await wire.send(head)
        body = bytes_of(entry.mark, LARGE)
        for start in range(0, LARGE, PIECE):
            piece = body[start : start + PIECE]
            await wire.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            await wire.send(b"0\r\n\r\n")
        self.expect(entry, await wire.read(), SMALL)
        await wire.close()

    async def stream(self) -> None:
        """Server-sent events, all of them, in order."""
        host = self.random.choice(("search.example", "files.example"))
        wire = await self.tunnel(host)
        entry = self.ledger.open("events")
        await wire.send(self.head("GET", host, f"/soak/events/{entry.mark}/30"))
        answer = await wire.read()
        self.note(entry, answer)
        wanted = "".join(f"data: {entry.mark} {count}\n\n" for count in range(30)).encode()
        if answer.body != wanted:
            entry.failure = f"{answer.size} bytes of events, not {len(wanted)}"
        await wire.close()

    async def reflect(self) -> None:
        """An upstream that shows the secret: the client must see the placeholder."""
        host = "search.example"
        wire = await self.tunnel(host)
        entry = self.ledger.open("echo")
        await wire.send(self.head("GET", host, f"/soak/echo/{entry.mark}"))
        answer = await wire.read()
        self.note(entry, answer)
        if self.stage.placeholders["search"].encode() not in answer.body:
            entry.failure = "the echo has no placeholder"
        await wire.close()

    async def speak_in_frames(self) -> None:
        """A WebSocket."""
        await converse_in_frames(self)

    # -- what cannot work

    async def broken(self) -> None:
        """An upstream that fails: a 502, or an answer that visibly breaks off."""
        before = ("reset-before", "close-before", "half-head", "nonsense")
        inside = ("half-body", "reset-body", "half-read")
        what = self.random.choice((*before, *inside, "forged", "lost"))
        host = self.random.choice(("search.example", "files.example"))
        self.ledger.faults[f"upstream: {what}"] += 1
        method, body, path = "GET", b"", what
        if what in ("forged", "lost"):
            host, path = f"{what}.example", "answer"
        # A kept connection that ends before anything came is tried once more, on a fresh one.
        twice = 2 if what in ("reset-before", "close-before") else 1
        entry = self.ledger.open(what, ends=BROKEN, at_most_seen=twice)
        if what == "half-read":
            method, body = "POST", bytes_of(entry.mark, 2 << 20)
        wire = await self.tunnel(host)
        head = self.head(method, host, f"/soak/{path}/{entry.mark}/{SMALL}", size=len(body))
        try:
            await wire.send(head + body)
            answer = await wire.read()
        except CLOSED:
            entry.concluded = True
        else:
            self.note(entry, answer)
            if answer.whole and answer.denial is None:
                entry.failure = "a broken answer was passed off as whole"
        wire.abort()

    async def ask_toggled(self) -> None:
        """A path that the one policy allows and the other denies."""
        host = "files.example"
        wire = await self.tunnel(host)
        entry = self.ledger.open("toggled", reasons=("allowed", "denied_by_rule"))
        await self.ask(entry, wire, host, f"/toggled/answer/{entry.mark}/{SMALL}", SMALL)
        await wire.close()

    async def ask_fragile(self) -> None:
        """A host whose secret comes and goes."""
        host = "fragile.example"
        wire = await self.tunnel(host)
        entry = self.ledger.open("fragile", reasons=("allowed", "secret_unavailable"))
        await self.ask(entry, wire, host, f"/soak/answer/{entry.mark}/{SMALL}", SMALL)
        await wire.close()

    # -- what is denied

    async def denied_request(self) -> None:
        """Requests in a tunnel that are refused, one reason each."""
        placeholder = self.stage.placeholders
        key = f"X-Search-Key: {placeholder['search']}"
        foreign = placeholder["fragile"]
        host = "search.example"
        path = "/soak/answer/{mark}/9"
        reason, method, path, *lines = self.random.choice((
            ("method_not_allowed", "PURGE", path, key),
            ("path_not_allowed", "GET", "/other/{mark}", key),
            ("denied_by_rule", "GET", "/sealed/{mark}", key),
            ("path_not_canonical", "GET", "/soak/{mark}/../../etc", key),
            ("path_not_canonical", "GET", "/soak/{mark}/%252e%252e/x", key),
            ("placeholder_misplaced", "GET", path, f"X-Debug: {placeholder['search']}"),
            ("placeholder_misplaced", "GET", f"/soak/{{mark}}/{placeholder['search']}", "X-A: b"),
            ("placeholder_wrong_host", "GET", path, f"X-Search-Key: {foreign}"),
            ("foreign_credential", "GET", path, "Authorization: Bearer sk-of-my-own-0123456789"),
            ("ambiguous_credential", "GET", path, key, f"Authorization: Bearer {key[14:]}"),
            ("host_mismatch", "GET", path, key, "host"),
            ("bad_header", "POST", path, key, "Content-Length: 1", "Transfer-Encoding: chunked"),
            ("bad_header", "POST", path, key, "Content-Length: 1", "Content-Length: 2"),
            ("bad_method", "TRACE", path, key),
            ("bad_target", "GET", "https://evil.example/{mark}", key),
            ("tls_required", "GET", path, key),
            ("address_denied", "GET", path, "X-A: b"),
        ))  # fmt: skip
        entry = self.ledger.open(reason, reasons=(reason,), ends=())
        path = path.format(mark=entry.mark)
        named = "files.example" if lines[-1] == "host" else host
        lines = [line for line in lines if line != "host"]
        if reason == "tls_required":
            wire = await self.wire()
            await wire.connect(f"{host}:443")
        else:
            host = named = "guarded.example" if reason == "address_denied" else named
            wire = await self.tunnel("search.example" if host == "files.example" else host)
        await wire.send(self.head(method, named, path, *lines))
        answer = await wire.read()
        self.note(entry, answer)
        if answer.denial != reason:
            entry.failure = f"answered {answer.status} {answer.denial}, not {reason}"
        await wire.close()

    async def denied_tunnel(self) -> None:
        """CONNECT to where nothing may go."""
        if self.random.randrange(2):
            await self.ask_denied_host()
            return
        own = f"127.0.0.1:{self.stage.proxy.address[1]}"
        places = (("port_not_allowed", "search.example:22"), ("host_not_allowed", own))
        await self.expect_no_tunnel(*self.random.choice(places))

    async def ask_denied_host(self) -> None:
        """CONNECT to another name that no policy knows."""
        self.names = (self.names + 1) % HOSTS
        await self.expect_no_tunnel("host_not_allowed", f"n{self.names}.denied.example:443")

    async def expect_no_tunnel(self, reason: str, authority: str) -> None:
        """A denial that says why."""
        wire = await self.wire()
        answer = await wire.connect(authority)
        if answer.denial != reason:
            self.ledger.offences.append(f"CONNECT {authority} was answered {answer.denial}")
        self.ledger.refuse("tunnel.denied", reason, authority.rpartition(":")[0])
        await wire.close()

    async def closed(self) -> None:
        """What never becomes a request and ends the connection; each host stands for one way."""
        how = self.random.choice(("sni", "nested", "ssh", "binary", "huge", "half", "bare", "tls"))
        host = self.random.choice(("search.example", "files.example"))
        reason = {
            "sni": "sni_mismatch",
            "nested": "nested_tls",
            "huge": "header_too_large",
            "half": "client_closed",
        }.get(how, "not_http")
        if how in ("sni", "bare", "tls"):
            wire = await self.wire()
        else:
            wire = await self.tunnel(host)
        silent = True
        if how == "sni":
            await wire.connect(f"{host}:443")
            try:
                await wire.start_tls(self.loose, "evil.example")
                silent = False
            except CLOSED:
                pass
        elif how == "half":
            await wire.send(b"GET /soak/answer HTTP/1.1\r\nHost: sea")
            await wire.close()
        elif how == "huge":
            await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * 70_000)
            silent = (await wire.read()).denial == reason
        else:
            rubbish = {"nested": client_hello(host), "tls": client_hello(host)}
            await wire.send(rubbish.get(how) or rubbish_of(how))
            silent = await wire.is_closed_silently()
        if not silent:
            self.ledger.offences.append(f"{how} was not refused as it must be")
        named = None if how in ("bare", "tls") else host
        self.ledger.refuse("connection.rejected", reason, named)
        await wire.close()

    # -- who leaves early

    async def leave_download(self) -> None:
        """Gone in the middle of a large answer."""
        wire = await self.tunnel("files.example")
        entry = self.ledger.open("leave-download", ends=LEFT)
        await wire.send(self.head("GET", "files.example", f"/soak/chunked/{entry.mark}/{LARGE}"))
        entry.status = (await wire.read_beginning()).status
        entry.concluded = True
        self.ledger.faults["client: left in the answer"] += 1
        wire.abort()

    async def leave_waiting(self) -> None:
        """Gone before the upstream answers; the upstream must be let go, too."""
        entry = self.ledger.open("leave-waiting", ends=LEFT)
        arrived = self.stage.upstreams.seen[entry.mark] = asyncio.Event()
        wire = await self.tunnel("search.example")
        await wire.send(self.head("GET", "search.example", f"/soak/hold/{entry.mark}"))
        await arrived.wait()
        del self.stage.upstreams.seen[entry.mark]
        entry.concluded = True
        self.ledger.faults["client: left while waiting"] += 1
        wire.abort()

    async def leave_upload(self) -> None:
        """Gone in the middle of a body."""
        entry = self.ledger.open("leave-upload", ends=LEFT)
        arrived = self.stage.upstreams.seen[entry.mark] = asyncio.Event()
        wire = await self.tunnel("search.example")
        path = f"/soak/answer/{entry.mark}/9"
        await wire.send(self.head("POST", "search.example", path, size=LARGE))
        await wire.send(bytes_of(entry.mark, PIECE))
        await arrived.wait()
        del self.stage.upstreams.seen[entry.mark]
        entry.concluded = True
        self.ledger.faults["client: left in the body"] += 1
        wire.abort()

    async def leave_tunnel(self) -> None:
        """A tunnel that is asked for and not used."""
        wire = await self.wire()
        await wire.connect("files.example:443")
        self.ledger.refuse("connection.rejected", "client_closed", "files.example")
        await wire.close()


def rubbish_of(how: str) -> bytes:
    """Bytes that are no HTTP."""
    return b"SSH-2.0-OpenSSH_9.2\r\n" if how == "ssh" else b"\x00\x01\x02\xff" * 8 + b"\r\n\r\n"
