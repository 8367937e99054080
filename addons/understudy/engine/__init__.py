"""How mitmproxy is run: its master, its options, and what is refused below its hooks."""

from __future__ import annotations

from understudy.parts import import_in_parts

# Every addon that mitmdump has, a web framework and an LDAP client among them: 0.6 of the 1.3
# seconds that the import of mitmproxy's proxy core takes.
import_in_parts("mitmproxy.addons")
# For the sake of one enumeration (an implementation of WebSockets with an HTTP parser), of files
# with options that nobody reads, and of ways to redirect traffic that nobody asks for.
import_in_parts("wsproto")
import_in_parts("ruamel.yaml")
import_in_parts("mitmproxy_rs")
