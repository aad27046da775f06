"""What leaves the hospital: identifiers are replaced by salted hashes, and nothing else of the header goes along.

The salt is drawn once for an output folder and kept in `private/salt`, readable by its owner only. Without it the
hashes cannot be traced back; with it, the same patient has the same name in a second batch (copy the file there
before the first run). `private/` is not for passing on.
"""

import hashlib
import os
import secrets
from pathlib import Path

from ..io.files import write_whole

OLDEST_TOLD = 90  # years; higher ages identify people and are given as this one


def load_salt(private: Path) -> bytes:
    """The salt of an output folder, drawn if there is none yet."""
    path = private / "salt"
    private.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_whole(path, _draw_salt)
    return path.read_bytes()


def _draw_salt(path: Path) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))


class Pseudonym(str):
    """16 hexadecimal digits that stand for an identifier."""

    __slots__ = ()


def pseudonym(identifier: str, salt: bytes) -> str:
    """A `Pseudonym` for an identifier, always the same for one salt; "" stays "", and a pseudonym what it is."""
    if not identifier or isinstance(identifier, Pseudonym):
        return identifier
    return Pseudonym(hashlib.blake2b(identifier.encode(), key=salt[:64], digest_size=8).hexdigest())


def told_age(age_years: float | None) -> int | None:
    """Whole years, and of the very old only that they are."""
    return None if age_years is None else min(int(age_years), OLDEST_TOLD)


def secret_shift(identifier: str, salt: bytes, num_bytes: int) -> int:
    """A number of `num_bytes` bytes that hides a time when added to it, the same for all of one identifier.

    What lies between two times of a patient stays, and nothing else of them.
    """
    digest = hashlib.blake2b(identifier.encode(), key=salt[:64], digest_size=num_bytes, person=b"shift").digest()
    return int.from_bytes(digest, "big")
