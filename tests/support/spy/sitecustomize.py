"""Loaded by the proxy under test, and by it alone: a witness and a saboteur.

UNDERSTUDY_SPY_FILE gets one JSON line for every look-up and every connection that the process
asks of the system. UNDERSTUDY_SPY_FAULT names a hook (``Swap.requestheaders``) that then raises.
"""

import json
import os
import sys

_file = os.environ.pop("UNDERSTUDY_SPY_FILE", None)
_fault = os.environ.pop("UNDERSTUDY_SPY_FAULT", None)
_WATCHED = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.connect"})

if _file:
    _descriptor = os.open(_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def _witness(event, arguments):
        if event in _WATCHED:
            line = {"event": event, "arguments": [str(a) for a in arguments]}
            os.write(_descriptor, json.dumps(line).encode() + b"\n")

    sys.addaudithook(_witness)

if _fault:
    import importlib.abc
    import importlib.machinery

    _class, _, _hook = _fault.partition(".")

    class _Saboteur(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if not name.startswith(("understudy.stages.", "understudy.engine.")):
                return None
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            if spec is None or spec.loader is None:
                return None
            original = spec.loader.exec_module

            def exec_module(module):
                original(module)
                owner = getattr(module, _class, None)
                if isinstance(owner, type) and owner.__module__ == name:

                    def raises(self, *_):
                        raise RuntimeError("sabotage: sk-real-secret-in-an-exception-text")

                    setattr(owner, _hook, raises)

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, _Saboteur())
