"""Facts about pseudonyms: stable for a salt, different between salts, blank for blank."""

import stat

from difffuse_hf.preprocessing.identity import load_salt, pseudonym


def test_a_pseudonym_depends_on_the_identifier_and_the_salt_only(tmp_path):
    salt = load_salt(tmp_path / "private")
    assert load_salt(tmp_path / "private") == salt
    assert pseudonym("1.2.3", salt) == pseudonym("1.2.3", salt) != pseudonym("1.2.4", salt)
    assert pseudonym("1.2.3", salt) != pseudonym("1.2.3", load_salt(tmp_path / "other"))
    assert len(pseudonym("1.2.3", salt)) == 16 and pseudonym("", salt) == ""


def test_the_salt_is_its_owners_alone(tmp_path):
    load_salt(tmp_path)
    assert stat.S_IMODE((tmp_path / "salt").stat().st_mode) == 0o600
