"""The login of a site in sdb: what a new password is made of, in which order it is written, what cannot be."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

import _ispmail_stored
from _ispmail_errors import Failed, InvalidInput
from _ispmail_stored import Login, Store

PASSWORD, USER = "sdb://mail/main", "sdb://mail/main-user"
SECRET = "Zx9-a secret"


class Sdb(dict):
    """A store that keeps what it is given, and in which order."""

    def __init__(self, **values):
        super().__init__({f"sdb://mail/{key.replace('_', '-')}": value for key, value in values.items()})
        self.written = []
        self.fails_at = None

    def put(self, uri, value):
        if uri == self.fails_at:
            raise OSError(5, "Input/output error", value)
        self.written.append(uri)
        self[uri] = value

    def store(self, user=USER, accounts=None):
        return Store(PASSWORD, user, accounts, self.get, self.put)


def test_a_new_password_needs_no_quotes_and_is_never_the_same():
    found = {_ispmail_stored.new_password() for _ in range(2000)}
    assert len(found) == 2000 and {len(each) for each in found} == {24}
    assert {each[0] for each in found} == set(string.ascii_letters)
    assert set("".join(found)) == set(string.ascii_letters + string.digits)


def test_the_user_is_written_before_the_password_and_put_back_after_it():
    sdb = Sdb(main="p", main_user="u_a")
    store = sdb.store()
    before = store.read()
    assert before == Login("u_a", "p") and "'p'" not in repr(before)
    store.write(Login("u_b", "q"))
    assert sdb.written == [USER, PASSWORD] and store.read() == Login("u_b", "q")
    assert store.put_back(before) == [] and sdb.written[2:] == [PASSWORD, USER] and store.read() == before
    store.write(before)
    assert len(sdb.written) == 4, "what is there already is not written"


class Secret(Sdb):
    """A store that keeps only the value that was written last, as the driver of Vault without `patch: true`."""

    def put(self, uri, value):
        self.clear()
        super().put(uri, value)


def test_a_store_that_drops_the_one_value_for_the_other():
    """The password has to stay there: the user is no secret, and is told."""
    sdb = Secret(main=SECRET, main_user="u_a")
    store = sdb.store()
    before = store.read()
    with pytest.raises(Failed, match=rf"^{USER} was dropped by the write of the other value: "):
        store.write(Login("u_b", "q"))
    (left,) = store.put_back(before)
    assert dict(sdb) == {PASSWORD: SECRET}
    assert f"{USER} has to be u_a" in left and SECRET not in left


def test_what_can_be_put_back_is_put_back():
    sdb = Sdb(main="q", main_user="u_b")
    sdb.fails_at = PASSWORD
    (left,) = sdb.store().put_back(Login("u_a", "p"))
    assert sdb[USER] == "u_a" and left.count("cannot be written") == 1


def test_only_the_password_is_stored():
    sdb = Sdb(main="p")
    store = sdb.store(user=None)
    store.write(Login(None, "q"))
    assert (store.read(), sdb.written) == (Login(None, "q"), [PASSWORD])


def test_a_write_that_fails_tells_no_secret():
    sdb = Sdb(main="p", main_user="u_a")
    sdb.fails_at = PASSWORD
    with pytest.raises(
        Failed, match=rf"^{PASSWORD} cannot be written \(OSError \(Input/output error\)\): the driver"
    ) as err:
        sdb.store().write(Login("u_b", SECRET))
    assert SECRET not in str(err.value) and err.value.__suppress_context__
    (left,) = sdb.store().put_back(Login("u_a", SECRET))
    assert left.startswith(f"The login of before could not be put back: {PASSWORD} cannot be") and SECRET not in left


def test_a_write_that_writes_nothing():
    """As Salt's driver env does, which keeps a value that is there."""
    sdb = Sdb(main="p")
    store = sdb.store(user=None)._replace(put=lambda uri, value: value)
    with pytest.raises(Failed, match=rf"^{PASSWORD} was not changed by a write"):
        store.write(Login(None, "q"))


@pytest.mark.parametrize("value", [None, "", 7, {"password": "x"}, PASSWORD])
def test_what_holds_no_password(value):
    with pytest.raises(Failed, match=rf"^{PASSWORD} holds no text on the master"):
        Sdb(main=value).store(user=None).read()


def test_a_read_that_fails_tells_no_secret():
    def get(uri):
        raise ValueError(SECRET)

    with pytest.raises(Failed, match=rf"^{PASSWORD} cannot be read \(ValueError\)") as err:
        Sdb().store(user=None)._replace(get=get).read()
    assert err.value.__suppress_context__


@pytest.mark.parametrize(
    ("user", "accounts", "other"), [("u_a", None, "u_b"), ("u_b", None, "u_a"), ("x", ["x", "y"], "y")]
)
def test_the_other_one_of_two_users(user, accounts, other):
    assert Sdb().store(accounts=accounts).other_user(user) == other


@pytest.mark.parametrize(("user", "accounts"), [("x", None), ("x", ["y", "z"]), ("u_a", ["y", "z"])])
def test_a_user_that_is_none_of_two(user, accounts):
    with pytest.raises(InvalidInput, match=f"^{USER} holds none of two users"):
        Sdb().store(accounts=accounts).other_user(user)


def find(site, opts=None):
    return _ispmail_stored.store("main", site, {"mail": {"driver": "x"}} if opts is None else opts, dict, dict)


def test_where_a_site_has_its_login():
    found = find({"sdb_password": "mail/a/b"})
    assert (found.password_uri, found.user_uri, found.accounts) == ("sdb://mail/a/b", None, None)
    found = find({"sdb_password": "mail/a", "sdb_user": "mail/u", "accounts": ["x", "y"]})
    assert (found.user_uri, found.accounts) == ("sdb://mail/u", ["x", "y"])


@pytest.mark.parametrize("patch", [{}, {"patch": False}, {"patch": "yes"}])
def test_a_vault_that_would_drop_what_else_its_secret_holds(patch):
    """Each other value of that secret is lost by the first write, be it of this site or of somebody else."""
    profile = {"driver": "vault", **patch}
    with pytest.raises(InvalidInput, match=r"^ispmail:sites:main:sdb_password names the profile mail, .*patch: true"):
        find({"sdb_password": "mail/secret/mail/main"}, {"mail": profile})
    assert find({"sdb_password": "mail/secret/mail/main"}, {"mail": {**profile, "patch": True}})


def test_a_site_that_does_not_say_where():
    with pytest.raises(InvalidInput, match=r"^ispmail:sites:main:sdb_password is missing: name what pillar looks up"):
        find({})


@given(st.sampled_from(["sdb_password", "sdb_user"]), st.sampled_from([{}, {"Zx9": "text"}, {"Zx9": {}}]))
def test_what_is_no_profile_is_not_shown(key, opts):
    """Where the key has a URI, Salt puts the password in its place, which may have a slash in it."""
    site = {"sdb_password": "mail/a", key: "Zx9/secret"}
    with pytest.raises(InvalidInput, match=f"^ispmail:sites:main:{key} begins with no sdb profile") as err:
        find(site, {"mail": {"driver": "x"}, **opts})
    assert "Zx9" not in str(err.value)
