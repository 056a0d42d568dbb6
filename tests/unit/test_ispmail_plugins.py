"""Which login plugin gets which answer, against scrambles that others have computed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysql import _auth

from _ispmail_errors import DatabaseError
from _ispmail_plugins import first_reply, next_reply

NONCE = bytes(range(65, 85))
SECRET = "gr\u00fc\u00dfe-\u20ac".encode()
NATIVE, SHA2 = "mysql_native_password", "caching_sha2_password"
NEVER = ["mysql_clear_password", "dialog", "mysql_old_password", "client_ed25519", "auth_pam", "", "not_invented_yet"]


def switch(plugin, nonce=NONCE):
    return b"\xfe" + plugin.encode() + b"\0" + nonce + b"\0"


@pytest.mark.parametrize("password", [SECRET, b"", b"x" * 300])
def test_scrambles_are_those_of_pymysql(password):
    native = _auth.scramble_native_password(password, NONCE)
    sha2 = _auth.scramble_caching_sha2(password, NONCE)
    assert first_reply(NATIVE, password, NONCE).data == next_reply(switch(NATIVE), SHA2, password, False).data == native
    assert first_reply(SHA2, password, NONCE).data == next_reply(switch(SHA2), NATIVE, password, False).data == sha2


@pytest.mark.parametrize("offered", [*NEVER, "sha256_password"])
def test_other_plugins_of_a_greeting_get_the_scramble_of_a_known_one(offered):
    """The server asks again if the account needs another; sha256_password would have had the password at once."""
    assert first_reply(offered, SECRET, NONCE) == first_reply(NATIVE, SECRET, NONCE)


@pytest.mark.parametrize("verified", [False, True])
@pytest.mark.parametrize("plugin", NEVER)
def test_other_plugins_get_nothing_anywhere(plugin, verified):
    with pytest.raises(DatabaseError, match=r"clear-text password, which was not given|not supported"):
        next_reply(switch(plugin), NATIVE, SECRET, verified)
    with pytest.raises(DatabaseError, match="not supported"):
        next_reply(b"\xfe", NATIVE, SECRET, verified)


@pytest.mark.parametrize(
    ("packet", "plugin"), [(switch("sha256_password"), NATIVE), (b"\1\4", SHA2)], ids=["sha256", "caching_sha2"]
)
def test_the_password_itself_goes_only_to_a_verified_server(packet, plugin):
    assert next_reply(packet, plugin, SECRET, True).data == SECRET + b"\0"
    assert next_reply(packet, plugin, b"", False).data == b"\0"
    with pytest.raises(DatabaseError, match="clear-text password, which was not given"):
        next_reply(packet, plugin, SECRET, False)


def test_a_scramble_that_was_taken_is_answered_by_waiting():
    assert next_reply(b"\1\3", SHA2, SECRET, False).data is None


@given(st.binary(max_size=60), st.sampled_from([NATIVE, SHA2, "sha256_password", *NEVER]))
def test_no_packet_gets_the_password(packet, plugin):
    for start in (b"", b"\1", b"\1\4", b"\xfe", b"\xfesha256_password\0", b"\xfecaching_sha2_password\0"):
        try:
            reply = next_reply(start + packet, plugin, SECRET, False)
        except DatabaseError as err:
            assert SECRET.decode() not in str(err)
        else:
            assert len(reply.data or b"") in (0, 20, 32) and SECRET not in repr(reply).encode()


@pytest.mark.parametrize(
    ("packet", "plugin"),
    [
        (b"\1\4", NATIVE),
        (b"\1\3", NATIVE),
        (b"\1\4", "sha256_password"),
        (b"\1\5", SHA2),
        (b"\1", SHA2),
        (b"\2\4", SHA2),
        (b"\0\4", SHA2),
        (b"", SHA2),
    ],
)
def test_what_is_not_of_the_protocol_gets_nothing_of_a_verified_server_either(packet, plugin):
    """Extra data means something for caching_sha2_password only, and two of its bytes do."""
    with pytest.raises(DatabaseError, match="does not keep to the login protocol"):
        next_reply(packet, plugin, SECRET, True)


def test_only_the_first_byte_of_extra_data_counts():
    assert next_reply(b"\1\4more", SHA2, SECRET, True).data == SECRET + b"\0"
    assert next_reply(b"\1\3more", SHA2, SECRET, False).data is None


@pytest.mark.parametrize("plugin", ["mysql_clear_password", "dialog"])
def test_who_asks_for_the_clear_password_is_told_apart_from_what_is_not_supported(plugin):
    """The first may be another server in its place, the second is an account to be changed."""
    with pytest.raises(DatabaseError, match="clear-text password, which was not given") as caught:
        next_reply(switch(plugin), NATIVE, SECRET, True)
    assert caught.value.number != 2059
    with pytest.raises(DatabaseError, match="error 2059") as caught:
        next_reply(switch("client_ed25519"), NATIVE, SECRET, True)
    assert caught.value.number == 2059


def test_what_a_server_gets_is_not_in_the_repr():
    assert repr(first_reply(NATIVE, SECRET, NONCE)) == f"Reply(plugin='{NATIVE}')"
