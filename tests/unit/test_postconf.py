"""The execution module `postconf`, with the real postconf(1) and a main.cf that nobody uses."""

import pytest
from salt.exceptions import SaltInvocationError

from _ispmail_errors import InvalidInput
from _modules import postconf

from .postfix_files import postfix
from .test_ispmail_reapply import fails

MAIN_CF = """\
biff = no
relayhost = $ours
ours = [mx.example.org]
smtp_sasl_password_maps = static:user:secret
"""
WRITTEN = dict(line.split(" = ") for line in MAIN_CF.splitlines())


@pytest.fixture
def directory(on_minion, tmp_path):
    """A configuration directory that pillar names."""
    found = postfix(tmp_path, MAIN_CF)
    on_minion(postconf, ispmail={"postfix": {"config_directory": found}})
    return found


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ("biff", {"biff": "no"}),
        (["biff", "relay_domains", "ours"], {"biff": "no", "ours": "[mx.example.org]"}),
        (("biff",), {"biff": "no"}),
        ("relay_domains", {}),
        ([], {}),
    ],
)
def test_what_main_cf_sets(directory, parameters, found):
    assert postconf.get(parameters, directory) == found


def test_all_that_main_cf_sets(directory):
    """Without a password. postconf may print a directory that is not the default one, too."""
    more = {"compatibility_level": "3.6", "smtp_sasl_password_maps": "static:***"}
    found = postconf.get(config_directory=directory)
    assert found == {**WRITTEN, **more, **{name: directory for name in found if name == "config_directory"}}


def test_defaults_have_to_be_asked_for(directory):
    assert postconf.get(["biff", "mail_owner"], directory, defaults=True) == {"biff": "no", "mail_owner": "postfix"}


@pytest.mark.parametrize("test", [True, False])
def test_parameters_are_set_and_taken_out(directory, tmp_path, test):
    """A dry run tells the same and writes nothing."""
    dry = {"test": True} if test else {}
    before = (tmp_path / "main.cf").read_text()
    assert postconf.set_({"biff": False, "relayhost": "x"}, directory, **dry) == {
        "relayhost": {"old": "$ours", "new": "x"}
    }
    after = before if test else before.replace("relayhost = $ours", "relayhost = x")
    assert (tmp_path / "main.cf").read_text() == after
    nothing = {"biff": None, "relay_domains": None}
    assert postconf.set_(nothing, directory, **dry) == {"biff": {"old": "no", "new": None}}
    assert ("biff" in (tmp_path / "main.cf").read_text()) is test
    assert postconf.set_({}, directory) == {}


@pytest.mark.parametrize(
    ("function", "parameters", "kind"),
    [
        (postconf.get, 5, "a name or a list of names"),
        (postconf.get, {"biff": "no"}, "a name or a list of names"),
        (postconf.get, {"biff"}, "a name or a list of names"),
        (postconf.set_, "biff", "a mapping of names to values"),
        (postconf.set_, [["biff", "no"]], "a mapping of names to values"),
        (postconf.set_, None, "a mapping of names to values"),
    ],
)
def test_parameters_of_another_kind_are_refused(directory, function, parameters, kind):
    with pytest.raises(SaltInvocationError, match=f"^the parameters must be {kind}$"):
        function(parameters, directory)


@pytest.mark.parametrize(("function", "given"), [(postconf.get, []), (postconf.set_, [{}])])
def test_a_directory_is_the_default_one_or_one_that_is_known(directory, monkeypatch, function, given):
    """Else whoever may call it could read and write any file of that name."""
    with pytest.raises(SaltInvocationError, match=r"^config_directory must be /etc/postfix, one that pillar names"):
        function(*given, config_directory="/srv")
    asked = []
    monkeypatch.setattr(
        "_ispmail_postconf.known_directory", lambda *known: asked.append(known) or fails(InvalidInput())()
    )
    with pytest.raises(SaltInvocationError):
        function(*given)
    assert asked == [("/etc/postfix", [directory])]
