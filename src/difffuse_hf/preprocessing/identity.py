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


def pseudonym(identifier: str, salt: bytes) -> str:
    """16 hexadecimal digits for an identifier, always the same for one salt; "" stays ""."""
    if not identifier:
        return ""
    return hashlib.blake2b(identifier.encode(), key=salt[:64], digest_size=8).hexdigest()
