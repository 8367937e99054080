"""Loaded by the proxy under test, and by it alone: a witness, a name service and a saboteur.

UNDERSTUDY_SPY_FILE gets one JSON line for every look-up and every connection that the process
asks of the system. UNDERSTUDY_SPY_NAMES is all that names resolve to: a JSON object from a name
to its answers, one list of addresses for each look-up in turn, the last one for ever; other names
do not exist, and "slow:30" among the addresses makes the look-up take 30 seconds.
UNDERSTUDY_SPY_FAULT names a file; while that says ``Swap.requestheaders``, this hook of this addon
raises, and with ``Swap.requestheaders:after`` it does its work first; ``… cancelled`` raises
CancelledError. What carries requests in express has such switches too, and what makes the audit's
lines. UNDERSTUDY_SPY_CLOCK names a
file that says by how many seconds the wall clock is ahead. UNDERSTUDY_SPY_GAUGES names a file
into which, its own number added to the name, a process writes on SIGUSR1 what it holds:
descriptors, threads, tasks, memory.
"""

import contextlib
import json
import os
import sys

_file = os.environ.pop("UNDERSTUDY_SPY_FILE", None)
_names = os.environ.pop("UNDERSTUDY_SPY_NAMES", None)
_fault_file = os.environ.pop("UNDERSTUDY_SPY_FAULT", None)
_clock_file = os.environ.pop("UNDERSTUDY_SPY_CLOCK", None)
_gauge_file = os.environ.pop("UNDERSTUDY_SPY_GAUGES", None)
_WATCHED = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.connect"})

if _file:
    _descriptor = os.open(_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def _witness(event, arguments):
        if event in _WATCHED:
            line = {"event": event, "arguments": [str(a) for a in arguments]}
            # a test may let every write of the process fail
            with contextlib.suppress(OSError):
                os.write(_descriptor, json.dumps(line).encode() + b"\n")

    sys.addaudithook(_witness)

if _names is not None:
    import re
    import socket
    import time

    _answers = json.loads(_names)
    _NUMERIC = re.compile(r"(?=.*[0-9])[0-9a-fA-FxX.:%]+")
    _look_up = socket.getaddrinfo

    def _getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002, PLR0917 - the signature of the system's
        text = host.decode() if isinstance(host, bytes) else host
        turns = _answers.get(text)
        if turns is None:
            if text in (None, "localhost") or _NUMERIC.fullmatch(text):
                return _look_up(host, port, family, type, proto, flags)
            sys.audit("socket.getaddrinfo", host, port, family, type, proto)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        sys.audit("socket.getaddrinfo", host, port, family, type, proto)
        addresses = turns.pop(0) if len(turns) > 1 else turns[0]
        for slow in [address for address in addresses if address.startswith("slow:")]:
            time.sleep(float(slow.removeprefix("slow:")))
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port or 0, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))
            for address in addresses
            if not address.startswith("slow:")
        ]

    socket.getaddrinfo = _getaddrinfo


def _change_modules(prefixes, change):
    """Call ``change`` with every module of a prefix once it is loaded."""
    import importlib.abc  # noqa: PLC0415 - the proxy's start must not be that of these
    import importlib.machinery  # noqa: PLC0415 - as above

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if not name.startswith(prefixes):
                return None
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            if spec is None or spec.loader is None:
                return None
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                change(module)

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder())


if _clock_file:
    import datetime
    import time

    _time_ns = time.time_ns

    def _shifted_ns():
        with open(_clock_file, encoding="ascii") as file:  # noqa: PTH123 - before pathlib is needed
            return _time_ns() + int(file.read()) * 1_000_000_000

    time.time_ns = _shifted_ns
    time.time = lambda: _shifted_ns() / 1_000_000_000

    class _ShiftedDatetime(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(time.time(), tz)

    def _shift(module):
        """Give the shifted clock to our modules alone: libraries insist on their own class."""
        if getattr(module, "datetime", None) is datetime.datetime:
            module.datetime = _ShiftedDatetime

    _change_modules(("understudy.",), _shift)

if _gauge_file:
    import ctypes
    import gc
    import signal

    class _HeapInfo(ctypes.Structure):
        """What mallinfo2(3) gives, in bytes."""

        _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd")
        _names += ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
        _fields_ = tuple((name, ctypes.c_size_t) for name in _names)

    _heap_info = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if _heap_info is not None:
        _heap_info.restype = _HeapInfo

    def _read_heap_kilobytes():
        """What is in use of malloc's memory; not what it keeps for later."""
        if _heap_info is None:
            return 0
        info = _heap_info()
        return (info.uordblks + info.hblkhd) // 1024

    def _read_rss_kilobytes():
        with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - as above
            (line,) = (line for line in file if line.startswith("VmRSS:"))
        return int(line.split()[1])

    def _write_gauges(*_):
        import asyncio  # noqa: PLC0415 - the start of the proxy must not be that of asyncio

        # A closed process cannot be looked into from outside; it can look into itself.
        gc.collect()
        gauges = {
            "descriptors": len(os.listdir("/proc/self/fd")) - 1,  # noqa: PTH208 - as above
            "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208 - as above
            "tasks": 0 if asyncio._get_running_loop() is None else len(asyncio.all_tasks()),
            "blocks": sys.getallocatedblocks(),
            "heap_kilobytes": _read_heap_kilobytes(),
            "rss_kilobytes": _read_rss_kilobytes(),
        }
        name = f"{_gauge_file}.{os.getpid()}"
        with open(f"{name}.new", "w", encoding="ascii") as file:  # noqa: PTH123 - as above
            json.dump(gauges, file)
        os.replace(f"{name}.new", name)  # noqa: PTH105 - as above

    signal.signal(signal.SIGUSR1, _write_gauges)

if _fault_file:
    import functools
    import inspect
    import pathlib

    _CARRIERS = ("Conversation", "Transfer", "Upload", "Download", "Stream")
    _LINES = ("decided_line", "finished_line")

    def _raise(how):
        import asyncio  # noqa: PLC0415 - as above

        error = asyncio.CancelledError if how == "cancelled" else RuntimeError
        raise error("sabotage: sk-real-secret-in-an-exception-text")

    async def _raise_after(awaitable, how):
        await awaitable
        _raise(how)

    def _sabotage(place, hook):
        @functools.wraps(hook)
        def sabotaged(*arguments, **named):
            text = pathlib.Path(_fault_file).read_text(encoding="ascii")
            fault, _, how = text.partition(" ")
            if fault == place:
                _raise(how)
            result = hook(*arguments, **named)
            if fault == f"{place}:after":
                if inspect.isawaitable(result):
                    return _raise_after(result, how)
                _raise(how)
            return result

        return sabotaged

    def _has_switches(owner, attribute):
        if owner.__name__ in _CARRIERS:
            return not attribute.startswith("__")
        return isinstance(vars(owner).get("name"), str) and not attribute.startswith("_")

    def _put_switches(module):
        """Put a switch before every public method of every addon of ours, and some more."""
        for owner in list(vars(module).values()):
            if inspect.isfunction(owner) and owner.__name__ in _LINES:
                setattr(module, owner.__name__, _sabotage(owner.__name__, owner))
            if not isinstance(owner, type) or owner.__module__ != module.__name__:
                continue
            for attribute, hook in list(vars(owner).items()):
                if inspect.isfunction(hook) and _has_switches(owner, attribute):
                    place = f"{owner.__name__}.{attribute}"
                    setattr(owner, attribute, _sabotage(place, hook))

    _change_modules(
        ("understudy.stages.", "understudy.engine.", "understudy.express."), _put_switches
    )
