"""What a placeholder looks like, and how one is minted."""

from __future__ import annotations

import math
import secrets
import string
import zlib
from dataclasses import dataclass
from typing import Literal

MINIMUM_RANDOM_BITS = 128

Alphabet = Literal["alphanumeric", "base64url", "hex"]

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_CHARACTERS: dict[Alphabet, str] = {
    "alphanumeric": string.ascii_letters + string.digits,
    "base64url": string.ascii_letters + string.digits + "-_",
    "hex": "0123456789abcdef",
}
_CHECKSUM_LENGTH = 6


@dataclass(frozen=True, slots=True)
class PlaceholderShape:
    """Prefix, alphabet and length of a provider's keys.

    Every character is safe in a header, a URL and JSON. Raises ValueError where the random part
    would hold fewer than 128 bits.
    """

    prefix: str
    length: int
    """Characters after the prefix."""
    alphabet: Alphabet = "alphanumeric"
    checksum: Literal["crc32-base62"] | None = None
    """How real keys end, where programs can tell; a placeholder always ends wrongly."""

    def __post_init__(self) -> None:
        free = self.length - (_CHECKSUM_LENGTH if self.checksum else 0)
        if free * math.log2(len(_CHARACTERS[self.alphabet])) < MINIMUM_RANDOM_BITS:
            raise ValueError(
                f"a placeholder of {self.length} {self.alphabet} characters holds fewer than "
                f"{MINIMUM_RANDOM_BITS} random bits; make it longer"
            )

    def mint(self) -> str:
        """A fresh placeholder with at least 128 random bits, never a valid real key."""
        characters = _CHARACTERS[self.alphabet]
        while True:
            body = "".join(secrets.choice(characters) for _ in range(self.length))
            if self.checksum is None or body[-6:] != github_checksum(body[:-6]):
                return self.prefix + body


DEFAULT_SHAPE = PlaceholderShape(prefix="placeholder-", length=40)


def github_checksum(text: str) -> str:
    """The six base-62 digits of CRC-32 that end a real GitHub or npm token."""
    number = zlib.crc32(text.encode("ascii"))
    digits = ""
    while number:
        number, digit = divmod(number, len(_BASE62))
        digits = _BASE62[digit] + digits
    return digits.rjust(_CHECKSUM_LENGTH, "0")
