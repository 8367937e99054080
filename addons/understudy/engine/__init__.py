"""How mitmproxy is run: its master, its options, and what is refused below its hooks.

Importing ``mitmproxy.addons`` imports every addon that mitmdump has, a web framework and an LDAP
client among them: 0.6 of the 1.3 seconds that the import of its proxy core takes. Only the proxy
server is used here, so the package is registered without running its ``__init__``.
"""

from __future__ import annotations

import importlib.util
import sys
import types

if "mitmproxy.addons" not in sys.modules:
    _spec = importlib.util.find_spec("mitmproxy")
    assert _spec is not None
    _package = types.ModuleType("mitmproxy.addons")
    _package.__path__ = [
        f"{location}/addons" for location in _spec.submodule_search_locations or ()
    ]
    sys.modules["mitmproxy.addons"] = _package
