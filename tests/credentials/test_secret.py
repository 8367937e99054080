from __future__ import annotations

import contextlib
import copy
import inspect
import io
import json
import logging
import pickle
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass

import pytest
from rich import inspect as rich_inspect
from rich.console import Console
from rich.pretty import pretty_repr
from rich.traceback import Traceback

from understudy.credentials.secret import Secret

VALUE = "sk-real-5ecret-value"


@pytest.fixture
def secret() -> Secret:
    return Secret(VALUE, "API_KEY")


@dataclass
class Holder:
    secret: Secret


def test_only_reveal_gives_the_secret(secret: Secret) -> None:
    assert secret.reveal() == VALUE


def test_text_forms_give_a_name_and_a_fingerprint(secret: Secret) -> None:
    record = logging.LogRecord("x", 20, "x", 1, "%s %r", (secret, secret), None)
    shown = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!s:>80}",
        format(secret, "s"),
        format(secret, ".3"),
        "%s" % secret,  # noqa: UP031 - one of the ways to format
        "{0.name} {0!r}".format(secret),  # noqa: UP032 - one of the ways to format
        repr([secret]),
        repr({"k": secret}),
        repr(Holder(secret)),
        str(asdict(Holder(secret))),
        str(ValueError(secret)),
        record.getMessage(),
        pretty_repr(secret),
        json.dumps({"k": secret}, default=str),
        repr(copy.copy(secret)),
        repr(copy.deepcopy([secret])),
    ]
    for text in shown:
        assert VALUE not in text
        assert "API_KEY" in text


def test_serializers_raise(secret: Secret) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(secret, protocol)
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        secret.__getstate__()
    with pytest.raises(TypeError):
        vars(secret)
    with pytest.raises(TypeError):
        bytes(secret)  # type: ignore[call-overload] # the point of the test
    with pytest.raises(TypeError):
        list(secret)  # type: ignore[call-overload] # the point of the test


def test_introspection_does_not_show_it(secret: Secret) -> None:
    assert VALUE not in repr(inspect.getmembers(secret))
    console = Console(file=io.StringIO(), width=200)
    rich_inspect(secret, console=console, all=True, value=True)
    assert VALUE not in console.file.getvalue()  # type: ignore[attr-defined] # a StringIO


def test_tracebacks_with_locals_do_not_show_it(secret: Secret) -> None:
    def fail(credential: Secret) -> None:
        raise RuntimeError(f"no luck with {credential}")

    console = Console(file=io.StringIO(), width=200)
    try:
        fail(secret)
    except RuntimeError as error:
        captured = traceback.TracebackException.from_exception(error, capture_locals=True)
        console.print(Traceback.from_exception(type(error), error, None, show_locals=True))
        console.print(
            Traceback.from_exception(type(error), error, error.__traceback__, show_locals=True)
        )
    assert VALUE not in "".join(captured.format())
    assert VALUE not in console.file.getvalue()  # type: ignore[attr-defined] # a StringIO


def test_comparing_tells_secrets_apart_and_strings_never_match(secret: Secret) -> None:
    assert secret == Secret(VALUE, "ANOTHER_NAME")
    assert hash(secret) == hash(Secret(VALUE, "ANOTHER_NAME"))
    assert secret != Secret(VALUE + "x", "API_KEY")
    assert secret != VALUE


def test_a_secret_does_not_change(secret: Secret) -> None:
    for name in ("name", "_reveal", "other"):
        with pytest.raises(AttributeError):
            setattr(secret, name, "x")
        with pytest.raises(AttributeError):
            delattr(secret, name)
    with contextlib.suppress(AttributeError):
        object.__setattr__(secret, "other", "x")
    assert secret.reveal() == VALUE


def test_a_fingerprint_means_nothing_to_another_process(secret: Secret) -> None:
    code = f"from understudy.credentials.secret import Secret; print(Secret({VALUE!r}, 'API_KEY'))"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert elsewhere.stdout.decode().strip() != str(secret)
