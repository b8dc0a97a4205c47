"""A task's secrets are not in what leaves its worker."""

import orjson
import pytest

from services.worker.task.masking import NOTHING, Mask

SECRET = 'pa"ss wörd\\1'
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQ\n-----END KEY-----\n"


@pytest.mark.parametrize("secret", [SECRET, KEY], ids=["characters to escape", "several lines"])
def test_a_secret_is_found_however_it_is_usually_written(secret: str) -> None:
    mask = Mask([secret])
    written = [
        secret,
        orjson.dumps([secret]).decode(),
        repr({"p": secret}),
        ascii(secret),
        secret.replace("\n", "\r\n"),
    ]
    for text in written:
        for masked in (mask.text(text), mask.log(text.encode())[0].decode()):
            assert "***" in masked
            assert not [line for line in secret.splitlines() if line in masked], masked
    assert mask.text("https://u:pa%22ss%20w%C3%B6rd%5C1@h/") == ("https://u:***@h/" if secret == SECRET else
                                                                  "https://u:pa%22ss%20w%C3%B6rd%5C1@h/")  # fmt: skip


def test_one_secret_that_holds_another_leaves_nothing_of_itself() -> None:
    assert Mask(["abcd", "abcdefgh"]).text("abcdefgh, abcd, abc") == "***, ***, abc"


def test_of_a_secret_that_a_cut_goes_through_no_half_is_left() -> None:
    mask = Mask(["0123456789"])
    assert mask.log(b"begins 01234567", b"3456789 ends") == (b"begins ***", b"*** ends")
    assert mask.text("it was 012345 … 6789, I think") == "it was *** … ***, I think"
    assert mask.text("package 4f…: 0123456789") == "package 4f…: ***"


def test_values_are_masked_to_their_depth() -> None:
    value = {"token hush": ["hush!", {"n": 1, "t": "a hush! b"}], "none": None}
    assert Mask(["hush!", "token"]).value(value) == {"*** hush": ["***", {"n": 1, "t": "a *** b"}], "none": None}


def test_without_secrets_everything_stays() -> None:
    assert NOTHING.text("a … b") == "a … b"
    assert NOTHING.log(b"head", b"tail") == (b"head", b"tail")
    assert NOTHING.value({"a": ["b"]}) == {"a": ["b"]}
