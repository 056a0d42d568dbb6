"""What main.cf reaches by any spelling, and that apply and remove decide by it."""

import os
import random
import shutil
import smtplib
import subprocess
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

import _ispmail_expand
import _ispmail_inventory
import _ispmail_transaction
from _ispmail_command import run
from _ispmail_errors import Failed
from _ispmail_maincf import BLANKS, same, values_of
from _ispmail_transaction import Change
from lab import wait_until
from lab.postfix import Postfix, write_cold
from lab.smtp import rcpt

from ..conftest import release
from ..unit.test_ispmail_expand import EXPANDED, VALUES
from .test_apply import ANSWERED, contents, everything, managed, replies

ALIASES = "mariadb-virtual-alias-maps.cf"


@pytest.mark.parametrize("text, expanded", EXPANDED)
def test_postconf_expands_as_we_do(scratch_directory, text, expanded):
    values = {name: value for name, value in VALUES.items() if name != "circle"}
    printed = by_postconf(scratch_directory, {**values, "relay_domains": text}, ["relay_domains"])
    assert printed["relay_domains"].split() == _ispmail_expand.expand(text, VALUES).split() == expanded.split()


def by_postconf(directory, values, names):
    """What postconf makes of some of the parameters of a main.cf."""
    write_cold(directory / "main.cf", "".join(f"{name} = {value}\n" for name, value in values.items()))
    write_cold(directory / "master.cf", "")
    return values_of(run("postconf", ["-c", str(directory), "-x", *names]).stdout)


REFERRED = {"a": "hello", "b": "mysql:/x.cf", "c": "$a-$b", "empty": "", "n_1": "10", "A": "3.9"}
TEXTS = ["x", " x", "x ", "", "mysql:/a.cf", "a b", "10", "9", "2", "$$", "a$$b", "hello", " hello ", "/$a/x"]


class Expressions(random.Random):
    """Random values with all that Postfix takes, well-formed: blanks count in braces, and not around them."""

    def blank(self):
        return self.choice(["", "", " ", "  "])

    def braces(self, depth):
        return f"{self.blank()}{{{self.expression(depth)}}}{self.blank()}"

    def level(self):
        return f"{self.blank()}{{{self.choice(['3', ' 3.6', '3.10', '3.9.1', '$A', '$n_1'])}}}{self.blank()}"

    def compared(self, depth):
        operator = self.choice(["==", "!=", "<", ">", "<=", ">="])
        if self.randrange(4):
            return self.braces(depth) + operator + self.braces(depth)
        return f"{self.level()}{operator}level{self.level()}"

    def choices(self, depth):
        first, second = self.choice("?:"), self.choice(["", f":{self.braces(depth)}", f":{self.bare()}"])
        return first + self.braces(depth) + (second if first == "?" else "")

    def bare(self):
        return self.choice(["x", " x", "x ", "/a: b", "a?b", "$a", ""])

    def expression(self, depth):
        name = self.choice([*REFERRED, "undefined"])
        if not depth or not self.randrange(5):
            spaced = f"${{{self.blank()}{name}{self.blank()}}}"
            return self.choice([self.choice(TEXTS), f"${name}", spaced, f"$({name})"])
        depth -= 1
        return self.choice(
            [
                f"${{{self.blank()}{name}{self.blank()}{self.choices(depth)}}}",
                f"${{{self.blank()}{name}{self.blank()}{self.choice('?:')}{self.bare()}}}",
                f"${{{self.compared(depth)}{self.choices(depth)}}}",
                f"${{{self.compared(depth)}}}",
                self.expression(depth) + self.choice(["", "/", ", "]) + self.expression(depth),
            ]
        )


@pytest.mark.parametrize("seed", range(4))
def test_postconf_expands_any_reference_as_we_do(scratch_directory, seed):
    """Blanks in braces were taken out: a comparison held that does not, and a table in use was not seen."""
    some = Expressions(seed)
    texts = {f"p{number}": some.expression(3).strip(BLANKS) for number in range(500)}
    # postconf prints a parameter of the admin's own where another one uses it.
    values = {"compatibility_level": "3.6", **REFERRED, **texts, "alias_maps": " ".join(f"${name}" for name in texts)}
    printed = by_postconf(scratch_directory, values, texts)
    assert printed.keys() == texts.keys()
    # postconf prints blanks behind a comma as one.
    ours = {name: _ispmail_expand.expand(text, values) for name, text in texts.items()}
    assert not {texts[name]: (printed[name], ours[name]) for name in texts if not same(printed[name], ours[name])}


def test_every_spelling_is_found(postfix):
    directory = postfix.config_directory
    postfix.write_main_cf(
        own=f"mysql:{directory}/own.cf",
        virtual_alias_maps="proxy:mysql:$config_directory/a.cf, $own",
        virtual_mailbox_maps="unionmap:{mysql:${config_directory}//b.cf, hash:/x}",
        smtpd_restriction_classes="ours",
        ours="check_sender_access sqlite:$config_directory/c.cf, permit",
        smtpd_recipient_restrictions="ours, permit",
        virtual_uid_maps="mysql:./relative.cf",
        virtual_transport="virtual",
        transport_maps="mysql:names_in_main_cf",
    )
    with open(postfix.master_cf, "a") as file:
        file.write("10.0.0.1:2525 inet n - n - - smtpd -o { smtpd_sender_login_maps = mysql:$config_directory/d.cf }\n")
    os.utime(postfix.master_cf, (1, 1))
    (directory / "own.cf").symlink_to(directory / "real.cf")
    inventory = _ispmail_inventory.read(str(directory))
    found = {each.table: each for each in inventory.tables}
    queue = postfix.queue_directory
    assert set(found) == {
        f"mysql:{directory}/real.cf",
        f"proxy:mysql:{directory}/a.cf",
        f"mysql:{directory}/b.cf",
        f"sqlite:{directory}/c.cf",
        f"mysql:{directory}/d.cf",
        f"mysql:{queue}/relative.cf",
        "mysql:names_in_main_cf",
    }

    def readers(table):
        return {(each.program, each.user, each.chroot) for each in found[table].readers}

    assert readers(f"proxy:mysql:{directory}/a.cf") == {("proxymap", "postfix", None)}
    assert readers(f"mysql:{queue}/relative.cf") == {("virtual", "postfix", None)}
    assert readers(f"sqlite:{directory}/c.cf") == {("smtpd", "postfix", str(queue)), ("smtpd", "postfix", None)}
    assert readers(f"mysql:{directory}/d.cf") == {("smtpd", "postfix", None)}
    assert ("cleanup", "postfix", str(queue)) in readers(f"mysql:{directory}/real.cf")
    places = {(each.name, each.word.text) for each in found[f"mysql:{directory}/real.cf"].places}
    assert ("virtual_alias_maps", "$own") in places and ("own", f"mysql:{directory}/own.cf") in places


# How main.cf may spell the guide's alias table, and what else it then has.
SPELLINGS = {
    "expanded": ("mysql:$config_directory/" + ALIASES, {}),
    "braced": ("mysql:${config_directory}/" + ALIASES, {}),
    "doubled slashes": ("mysql:$config_directory//" + ALIASES, {}),
    "linked": ("mysql:$config_directory/link.cf", {}),
    "a parameter of its own": ("$alias_maps_mysql", {"alias_maps_mysql": "mysql:$config_directory/" + ALIASES}),
    "a condition": ("${nothing?{hash:/x}:{mysql:$config_directory/" + ALIASES + "}}", {}),
    "unionmap": ("unionmap:{mysql:$config_directory/" + ALIASES + "}", {}),
    "among others": ("inline:{{a@example.org=john@example.org}}, mysql:$config_directory/" + ALIASES, {}),
}


@pytest.mark.parametrize("spelling, own", SPELLINGS.values(), ids=SPELLINGS)
def test_another_spelling_of_our_file_is_ours(minion, postfix, spelling, own):
    """It was added a second time, and clean deleted the file while the parameter still named it: 451 for all."""
    assert managed(minion)["result"] is True
    (postfix.config_directory / "link.cf").symlink_to(postfix.config_directory / ALIASES)
    domains, mailboxes = (
        f"mysql:{postfix.config_directory}/mariadb-virtual-mailbox-{name}.cf" for name in ("domains", "maps")
    )
    postfix.write_main_cf(
        virtual_alias_maps=spelling, virtual_mailbox_domains=domains, virtual_mailbox_maps=mailboxes, **own
    )
    postfix.reload()
    assert replies(postfix) == ANSWERED
    before = everything(postfix)
    result = managed(minion)
    assert result["result"] is True and result["changes"] == {}, result["comment"]
    assert everything(postfix) == before
    assert minion.call("postfix_map.read")["virtual_alias_maps"]["in_parameter"] is True

    removed = minion.apply("ispmail.clean")["postfix_map.absent"]
    assert removed["result"] is True, removed["comment"]
    assert not [
        table for table in _ispmail_inventory.read(str(postfix.config_directory)).tables if table.type == "mysql"
    ]
    assert not list(postfix.config_directory.glob("mariadb-*"))
    # No map is left, so nothing is known; but nothing fails.
    assert set(replies(postfix).values()) == {554}


@pytest.mark.parametrize("parameter", ["virtual_mailbox_domains", "virtual_alias_maps"])
def test_a_table_that_a_file_names_is_ours_and_stays(minion, postfix, parameter):
    """A pattern file, or a memcache table's backup: it was added again, and a removal deleted it: 451 for all."""
    managed(minion)
    file = postfix.config_directory / "named"
    (table,) = postfix.postconf(parameter).values()
    if parameter == "virtual_alias_maps":
        write_cold(file, f"memcache = inet:127.0.0.1:1\nbackup = {table}\n")
        word = f"memcache:{file}"
    else:
        write_cold(file, f"# our domains\n{table}\n")
        word = str(file)
    postfix.command("postconf", "-e", f"{parameter}={word}")
    postfix.reload()
    assert replies(postfix) == ANSWERED
    before = everything(postfix)
    result = managed(minion)
    assert result["result"] is True and result["changes"] == {}, result["comment"]
    with pytest.raises(CommandExecutionError) as caught:
        minion.call("postfix_map.remove", [parameter])
    assert f"asked by {parameter} ({word})" in str(caught.value)
    assert everything(postfix) == before and replies(postfix) == ANSWERED


@pytest.mark.parametrize(
    "spelling",
    ["proxy:unionmap:{TABLE}", "proxy:pipemap:{proxy:TABLE}", "unionmap:{proxy:unionmap:{TABLE}}", "memcache"],
)
def test_what_proxymap_opens_is_read_by_proxymap(minion, postfix, spelling):
    """It was taken for what smtpd in its chroot opens; and proxymap does not allow it alone."""
    managed(minion)
    (table,) = postfix.postconf("virtual_alias_maps").values()
    if spelling == "memcache":
        file = postfix.config_directory / "named"
        write_cold(file, f"memcache = inet:127.0.0.1:1\nbackup = {table}\n")
        word = f"proxy:memcache:{file}"
    else:
        word = spelling.replace("TABLE", table)
    postfix.command("postconf", "-e", f"virtual_alias_maps={word}")
    postfix.reload()
    assert replies(postfix) == ANSWERED
    asked = ["-c", str(postfix.config_directory), "-q", "jack@example.org", f"proxy:{table}"]
    assert "proxymap service is not configured for table" in run("postmap", asked).stderr
    found = {each.table: each for each in _ispmail_inventory.read(str(postfix.config_directory)).tables}
    assert {each.program for each in found[table].readers} == {"proxymap"}
    before = contents(postfix)
    result = managed(minion)
    assert result["result"] is False
    assert f"virtual_alias_maps is read as {table} inside {word} in main.cf: write {table} there" in result["comment"]
    assert contents(postfix) == before


def test_a_table_in_braces_with_others_is_not_removed(minion, postfix):
    managed(minion)
    tables = f"unionmap:{{mysql:$config_directory/{ALIASES}, inline:{{a=b}}}}"
    postfix.command("postconf", "-e", f"virtual_alias_maps={tables}")
    postfix.reload()
    before = contents(postfix)
    result = minion.apply("ispmail.clean")["postfix_map.absent"]
    assert result["result"] is False
    # What main.cf holds itself may be passwords.
    shown = tables.replace("{a=b}", "***")
    assert f"virtual_alias_maps ({shown})" in result["comment"] and "take them out there first" in result["comment"]
    assert contents(postfix) == before
    assert replies(postfix) == ANSWERED


def test_proxy_by_a_parameter_of_the_admins_own_is_refused(minion, postfix, pillar):
    """proxy: true changed only one of two, and both were asked."""
    managed(minion)
    postfix.write_main_cf(virtual_alias_maps="$own", own=f"mysql:$config_directory/{ALIASES}")
    before = contents(postfix)
    minion.pillar = pillar(maps={"virtual_alias_maps": {"proxy": True}})
    result = managed(minion)
    assert result["result"] is False
    assert "ispmail:maps:virtual_alias_maps is read as mysql:" in result["comment"]
    assert "by $own in main.cf: give the map parameter: own" in result["comment"]
    assert contents(postfix) == before


def test_a_proxied_table_keeps_its_spelling_and_is_allowed(minion, postfix, pillar):
    """proxymap compares texts: what a reader of another parameter asks for has to stand there as it is spelt."""
    maps = {"own_maps": {"proxy": True, "file": ALIASES, "query": "SELECT '%s'"}, "virtual_alias_maps": None}
    spelling = f"proxy:mysql:$config_directory//{ALIASES}"
    postfix.write_main_cf(own_maps=spelling)
    minion.pillar = pillar(maps=maps)
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    assert (
        postfix.command("postconf", "-x", "proxy_read_maps")
        .strip()
        .endswith(f"proxy:mysql:{postfix.config_directory}//{ALIASES}")
    )
    assert managed(minion)["changes"] == {}


def test_what_others_ask_through_proxymap_stays_allowed(minion, postfix, pillar):
    """Their spelling of our file was replaced in proxy_read_maps: cleanup died at each message, and all said True."""
    assert managed(minion)["result"] is True
    (postfix.directory / "link").symlink_to(postfix.config_directory)
    spelling = f"proxy:mysql:{postfix.directory}/link/{ALIASES}"
    maps = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
    postfix.write_main_cf(
        **postfix.postconf(*maps),
        recipient_bcc_maps=spelling,
        proxy_read_maps=f"{spelling}, $virtual_mailbox_maps",
    )
    postfix.reload()
    minion.pillar = pillar(maps={"virtual_alias_maps": {"proxy": True}})
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    assert postfix.postconf("proxy_read_maps")["proxy_read_maps"].startswith(f"{spelling}, $virtual_mailbox_maps, ")
    assert replies(postfix) == ANSWERED
    assert managed(minion)["changes"] == {}


def test_two_maps_on_one_file_are_refused(minion, postfix, pillar):
    """By a link: each apply flipped the live answers, and said True."""
    (postfix.config_directory / "same.cf").symlink_to(postfix.config_directory / ALIASES)
    before = everything(postfix)
    minion.pillar = pillar(
        maps={"more": {"parameter": "virtual_alias_maps", "file": "same.cf", "query": "SELECT '%s'"}}
    )
    result = managed(minion)
    assert result["result"] is False
    assert "ispmail:maps:more:file is the file of virtual_alias_maps too: each map needs its own" in result["comment"]
    assert everything(postfix) == before


def test_two_instances_with_one_directory_are_refused(minion, postfix, pillar):
    both = pillar(instances=["second"])
    both["second"] = {"database": both["ispmail"]["database"], "postfix": both["ispmail"]["postfix"]}
    (postfix.config_directory.parent / "link").symlink_to(postfix.config_directory)
    both["second"]["postfix"] = {"config_directory": str(postfix.config_directory.parent / "link")}
    minion.pillar = both
    before = everything(postfix)
    for pillar_key, other in (("ispmail", "second"), ("second", "ispmail")):
        with pytest.raises(SaltInvocationError, match=f"{pillar_key}:postfix:config_directory is .* {other} too"):
            minion.call("postfix_map.apply", pillar_key)
        with pytest.raises(SaltInvocationError, match=f"is the one of {other} too"):
            minion.call("postfix_map.remove", None, pillar_key)
    assert everything(postfix) == before


@pytest.mark.parametrize(
    "parameter, reason",
    [
        ("smtpd_sender_restrictions", "is a list of restrictions, no list of tables: name a parameter of your own"),
        *((name, "does not take lookup tables") for name in ("soft_bounce", "mail_owner", "command_directory")),
        ("inet_interfaces", "does not take lookup tables"),
        ("smtp_destination_concurrency_limit", "does not take lookup tables"),
        ("local_login_sender_maps", "is read by postdrop(1), as the local user who runs it"),
        *((f"authorized_{name}_users", "is read by") for name in ("submit", "flush", "mailq")),
    ],
)
def test_a_parameter_that_takes_no_tables_is_refused(minion, postfix, pillar, parameter, reason):
    """With soft_bounce the change went live; with command_directory each reload failed ever after."""
    minion.pillar = pillar(maps={"wrong": {"parameter": parameter, "query": "SELECT '%s'"}})
    before = everything(postfix)
    for test in (True, False):
        result = managed(minion, test=test)
        assert result["result"] is False
        assert f"ispmail:maps:wrong:parameter {parameter} {reason}" in " ".join(result["comment"].split())
    assert everything(postfix) == before


COMMANDS = {
    "local_login_sender_maps": ("sendmail", "-f", "a@example.org", "b@example.org"),
    "authorized_submit_users": ("sendmail", "b@example.org"),
    "authorized_flush_users": ("postqueue", "-f"),
    "authorized_mailq_users": ("postqueue", "-p"),
}


@pytest.mark.parametrize("parameter", COMMANDS)
def test_what_local_users_read_cannot_be_a_map(minion, postfix, pillar, parameter):
    """The map was taken, the apply was in order, and sendmail of each local user ended with 75, or by the other two."""

    def run_by_nobody(value):
        """That command, which takes no other configuration than that in /etc/postfix."""
        postfix.write_main_cf(**{parameter: value})
        mounted = f'mount --bind {postfix.config_directory} /etc/postfix && exec "$@"'
        nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
        command = ["unshare", "-m", "sh", "-c", mounted, "sh", *nobody, *COMMANDS[parameter]]
        done = subprocess.run(command, input="Subject: x\n\nx\n", text=True, capture_output=True, check=False)
        return done.returncode, done.stderr

    for path in Path("/etc/postfix").glob("dynamicmaps*"):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, postfix.config_directory / path.name)
    assert run_by_nobody("static:*")[0] == 0
    maps = {"ours": {"parameter": "ours", "query": "SELECT '*' FROM virtual_users WHERE email='%s'"}}
    minion.pillar = pillar(maps=maps)
    assert managed(minion)["result"] is True
    code, said = run_by_nobody(f"mysql:{postfix.config_directory}/mariadb-ours.cf")
    assert code and "mariadb-ours.cf: Permission denied" in said
    # By another parameter too: refused where the map comes into it.
    postfix.write_main_cf(**{parameter: "$ours"})
    result = managed(minion)
    assert result["result"] is False
    assert "ispmail:maps:ours:parameter ours is read by " in result["comment"]


def test_what_the_refusal_advises_works(minion, postfix, pillar):
    """A parameter of one's own, and check_sender_access $own: applied, asked, and removed."""
    postfix.write_main_cf(smtpd_sender_restrictions="check_sender_access $blocked_senders, reject_non_fqdn_sender")
    query = "SELECT 'REJECT' FROM virtual_users WHERE email='%s'"
    minion.pillar = pillar(maps={"blocked_senders": {"query": query}})
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    assert replies(postfix) == ANSWERED
    assert managed(minion)["changes"] == {}
    before = contents(postfix)
    # Without it check_sender_access would stand alone, and smtpd would answer 451 to all.
    with pytest.raises(
        CommandExecutionError, match=r"asked by smtpd_sender_restrictions \(check_sender_access \$blocked"
    ):
        minion.call("postfix_map.remove", ["blocked_senders"])
    assert contents(postfix) == before
    assert replies(postfix) == ANSWERED


def test_a_second_table_behind_a_check_is_refused(minion, postfix, pillar):
    """smtpd asked it by recipient: a sender in it was taken, and a recipient in it rejected."""
    checks = "check_sender_access $blocked, check_sender_access $blocked_2, permit"
    postfix.write_main_cf(smtpd_recipient_restrictions=checks, blocked_2="static:DUNNO")
    one = {"parameter": "blocked", "query": "SELECT 'REJECT' FROM virtual_users WHERE email='%s'"}
    two = {"parameter": "blocked", "query": "SELECT 'REJECT' FROM dual WHERE '%s' IN ('test@sender.test')"}
    minion.pillar = pillar(maps={"one": one})
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    assert replies(postfix) == ANSWERED
    before = everything(postfix)
    minion.pillar = pillar(maps={"one": one, "two": two})
    for test in (True, False):
        result = managed(minion, test=test)
        said = "ispmail:maps:two:parameter blocked stands behind check_sender_access in smtpd_recipient_restrictions"
        assert result["result"] is False and said in " ".join(result["comment"].split()), result["comment"]
    assert everything(postfix) == before
    # What it advises.
    postfix.write_main_cf(**{**postfix.postconf(), "blocked_2": ""})
    minion.pillar = pillar(maps={"one": one, "two": {**two, "parameter": "blocked_2"}})
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    code, text = rcpt(postfix.port, "john@example.org")
    assert code == 554 and "Sender address rejected" in text


def data(postfix):
    """What Postfix replies to a mail for john@example.org: the code."""
    with smtplib.SMTP("127.0.0.1", postfix.port, timeout=10) as client:
        try:
            client.sendmail("test@sender.test", ["john@example.org"], "Subject: x\r\n\r\nx")
        except smtplib.SMTPDataError as refused:
            return refused.smtp_code
    return 250


@pytest.mark.parametrize("braces", ["unionmap:{$bcc}", "pipemap:{inline:{{a=b}}, $bcc}"])
def test_braces_do_not_become_empty(minion, postfix, pillar, braces):
    """unionmap:{} was left: RCPT was taken, and each mail got 451 after DATA."""
    postfix.write_main_cf(recipient_bcc_maps=braces)
    query = "SELECT email FROM virtual_users WHERE email='%s' AND 1=2"
    minion.pillar = pillar(maps={"bcc": {"parameter": "bcc", "query": query}})
    assert managed(minion)["result"] is True and data(postfix) == 250
    before = contents(postfix)
    for test in (True, False):
        with pytest.raises(CommandExecutionError) as caught:
            minion.call("postfix_map.remove", ["bcc"], test=test)
        assert "asked by recipient_bcc_maps (" in str(caught.value) and "$bcc" in str(caught.value)
    assert contents(postfix) == before and data(postfix) == 250


@pytest.mark.parametrize("restriction", ["check_recipient_access", "Check_Recipient_Access"])
def test_the_case_of_a_restriction_is_nothing_to_postfix(minion, postfix, pillar, restriction):
    """An apply took the map, a removal left the word alone: 451 after DATA for all mail."""
    managed(minion)
    path = postfix.config_directory / "mariadb-ours.cf"
    query = "SELECT 'REJECT' FROM virtual_users WHERE email='%s' AND 1=2"
    database = minion.pillar["ispmail"]["database"]
    keys = {"user": "mailserver", **database, "dbname": "mailserver", "query": query}
    write_cold(path, "".join(f"{name} = {value}\n" for name, value in keys.items()))
    tables = postfix.postconf("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
    postfix.write_main_cf(**tables, smtpd_data_restrictions="$ours", ours=f"{restriction} mysql:{path}")
    postfix.reload()
    assert data(postfix) == 250
    minion.pillar = pillar(maps={"ours": {"query": query}})
    before = everything(postfix)
    assert "ours is a list of restrictions" in " ".join(managed(minion)["comment"].split())
    with pytest.raises(SaltInvocationError, match="ours is a list of restrictions"):
        minion.call("postfix_map.remove", ["ours"])
    assert everything(postfix) == before and data(postfix) == 250


def test_a_table_of_another_instance_is_not_removed(minion, postfix):
    """It was deleted; the other Postfix, which is not in pillar, answered 451 to each RCPT after its next reload."""
    managed(minion)
    tables = postfix.postconf("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
    with Postfix(postfix.directory / "second", **tables) as second:
        assert replies(second) == ANSWERED
        postfix.write_main_cf(**tables, multi_instance_directories=second.config_directory)
        before = contents(postfix)
        for test in (True, False):
            with pytest.raises(CommandExecutionError) as caught:
                minion.call("postfix_map.remove", test=test)
            assert f"{ALIASES}) of the Postfix in {second.config_directory}" in str(caught.value)
        assert contents(postfix) == before
        second.reload()
        assert replies(second) == ANSWERED
        second.write_main_cf(**dict.fromkeys(tables))
        assert set(minion.call("postfix_map.remove")["changes"]) == {*tables, "main.cf"}


def test_a_table_of_another_instance_of_pillar_is_not_removed(minion, postfix):
    """Pillar names it, main.cf does not: the file was deleted by a removal, and by a rollback."""
    managed(minion)
    tables = postfix.postconf("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
    second = Postfix(postfix.directory / "second", **tables)
    pillar = minion.pillar
    pillar["out"] = {"postfix": {"config_directory": str(second.config_directory)}, "maps": dict.fromkeys(tables)}
    minion.pillar = {**pillar, "ispmail": {**pillar["ispmail"], "instances": ["out"]}}
    before = contents(postfix)
    for function in ("postfix_map.remove", "postfix_map.rollback"):
        with pytest.raises(CommandExecutionError) as caught:
            minion.call(function)
        assert f"{ALIASES}) of the Postfix in {second.config_directory}" in str(caught.value)
    assert contents(postfix) == before
    second.write_main_cf(**dict.fromkeys(tables))
    assert set(minion.call("postfix_map.remove")["changes"]) == {*tables, "main.cf"}


@pytest.mark.parametrize(
    "spelling", ["${{$process_name} == {smtpd} ? {TABLE} : {static:x}}", "$own", "${{$service_name} != {} ? {TABLE}}"]
)
def test_a_table_that_only_some_processes_ask_is_not_removed(minion, postfix, spelling):
    """postconf's own name was taken for smtpd's: the file was deleted, and each RCPT answered by 451."""
    managed(minion)
    tables = postfix.postconf()
    table = tables["virtual_mailbox_maps"]
    own = f"${{{{smtpd}} == {{$process_name}} ? {{{table}}}}}"
    postfix.write_main_cf(**{**tables, "virtual_mailbox_maps": spelling.replace("TABLE", table), "own": own})
    postfix.reload()
    assert replies(postfix) == ANSWERED
    before = contents(postfix)
    for test in (True, False):
        with pytest.raises(CommandExecutionError, match="leads to SQL tables cannot be told: that depends on"):
            minion.call("postfix_map.remove", ["virtual_mailbox_maps"], test=test)
        result = managed(minion, test=test)
        assert result["result"] is False and "cannot be told: that depends on $" in " ".join(result["comment"].split())
    assert contents(postfix) == before and replies(postfix) == ANSWERED


@pytest.mark.parametrize("spelling", ["-o own={}", "-oown={}", "-vvoown={}", "{{-oown = {}}}", "-o {{ own = {} }}"])
def test_a_table_by_an_option_that_a_parameter_refers_to_is_not_removed(minion, postfix, spelling):
    """Only the option makes it a table of that service: the file was deleted, and each RCPT answered by 451.

    However the option is written: postconf cuts one that is attached at each o.
    """
    managed(minion)
    tables = postfix.postconf()
    postfix.write_main_cf(**{**tables, "virtual_mailbox_maps": "mysql:$config_directory/mariadb-$own.cf", "own": "x"})
    option = spelling.format(Path(tables["virtual_mailbox_maps"]).stem.removeprefix("mariadb-"))
    with_option = f" smtpd\n  {option}\n"
    write_cold(postfix.master_cf, postfix.master_cf.read_text().replace(" smtpd\n", with_option))
    postfix.reload()
    assert replies(postfix) == ANSWERED
    before = contents(postfix)
    for test in (True, False):
        with pytest.raises(CommandExecutionError, match=r"asked by .*/inet/virtual_mailbox_maps"):
            minion.call("postfix_map.remove", ["virtual_mailbox_maps"], test=test)
    assert contents(postfix) == before and replies(postfix) == ANSWERED


def test_what_pillar_sets_to_null_is_not_removed(minion, postfix, pillar):
    managed(minion)
    before = contents(postfix)
    minion.pillar = pillar(maps={"virtual_alias_maps": None})
    with pytest.raises(SaltInvocationError, match="to null, which leaves it alone"):
        minion.call("postfix_map.remove", ["virtual_alias_maps"])
    assert contents(postfix) == before
    assert minion.apply("ispmail.clean")["postfix_map.absent"]["result"] is True
    assert (postfix.config_directory / ALIASES).exists()
    assert postfix.postconf("virtual_alias_maps")


def test_a_postfix_that_cannot_be_reloaded_is_not_changed(minion, postfix):
    """Somebody left it broken: that is told before anything is written, in a dry run too."""
    postfix.write_main_cf(daemon_directory="/nowhere")
    before = everything(postfix)
    for test in (True, False):
        result = managed(minion, test=test)
        assert result["result"] is False
        assert "because Postfix cannot be reloaded:\n- daemon_directory is /nowhere, and /nowhere/" in result["comment"]
    assert everything(postfix) == before


def test_postfix_reads_main_cf_before_it_goes_live(postfix, minion):
    """To look changes nothing: `postfix check` would make the directory of the queue that is missing."""
    directory = str(postfix.config_directory)
    missing = postfix.queue_directory / "trace"
    missing.rmdir()
    before = everything(postfix)
    wanted = {"default_process_limit": "abc"}
    with pytest.raises(Failed, match=r"Postfix refuses main.cf as it would be: .*default_process_limit"):
        _ispmail_transaction.rehearse(Change(directory, str(minion.cache), (), wanted))
    good = {"virtual_alias_maps": "inline:{a=b}"}
    _ispmail_transaction.rehearse(Change(directory, str(minion.cache), (), good))
    assert everything(postfix) == before
    assert not missing.exists()
    postfix.command("postfix", "check")
    assert missing.is_dir()


def test_a_map_that_a_service_needs_is_not_removed(minion, postfix, pillar):
    """check_sender_access stood alone in submission then: 451 for every RCPT there, and the removal said True."""
    minion.pillar = pillar(maps={"blocked_senders": {"query": "SELECT 'REJECT' FROM virtual_users WHERE email='%s'"}})
    option = "-o smtpd_sender_restrictions=check_sender_access,$blocked_senders,permit"
    service = f"127.0.0.2:2525 inet n - y - - smtpd {option}\n"
    write_cold(postfix.master_cf, postfix.master_cf.read_text() + service)
    assert managed(minion)["result"] is True
    before = contents(postfix)
    for test in (True, False):
        with pytest.raises(
            CommandExecutionError, match=r"127.0.0.2:2525/inet/smtpd_sender_restrictions \(check_sender"
        ):
            minion.call("postfix_map.remove", ["blocked_senders"], test=test)
    assert contents(postfix) == before


def test_a_restriction_class_is_no_parameter_for_a_map(minion, postfix, pillar):
    table = f"mysql:{postfix.config_directory}/mariadb-ours.cf"
    postfix.write_main_cf(smtpd_restriction_classes="ours", ours=f"check_sender_access {table}, permit")
    minion.pillar = pillar(maps={"ours": {"query": "SELECT 'REJECT' FROM virtual_users WHERE email='%s'"}})
    result = managed(minion)
    assert result["result"] is False
    assert "ispmail:maps:ours:parameter ours is a list of restrictions" in " ".join(result["comment"].split())
    with pytest.raises(SaltInvocationError, match="ours is a list of restrictions"):
        minion.call("postfix_map.remove", ["ours"])


def test_a_default_that_is_in_use_is_kept(minion, postfix):
    """An address in virtual_maps, of which virtual_alias_maps takes its default, was unknown after the first apply."""
    postfix.write_main_cf(
        virtual_maps="inline:{old@example.net=john@example.org}", virtual_alias_domains="example.net, example.com"
    )
    postfix.reload()
    assert managed(minion)["result"] is True
    assert postfix.postconf("virtual_alias_maps")["virtual_alias_maps"].startswith("$virtual_maps, mysql:")
    assert rcpt(postfix.port, "old@example.net")[0] == 250
    assert replies(postfix) == ANSWERED


def test_a_removal_that_opens_the_domains_says_so(minion, postfix):
    managed(minion)
    for test in (True, False):
        found = minion.call("postfix_map.remove", ["virtual_mailbox_maps"], test=test)
        assert "every address of the domains is accepted" in " ".join(found["warnings"])


def test_a_table_is_asked_by_its_real_path_only(minion, postfix, audit):
    """By a link of the caller's own that leads elsewhere a moment later, a job opened any file as root."""
    managed(minion)
    link = postfix.directory / "link.cf"
    link.symlink_to(postfix.config_directory / ALIASES)
    with audit() as seen:
        found = minion.call("postfix_map.lookup", f"mysql:{link}", "jack@example.org")
    assert found["answer"] == "john@example.org"
    assert not [command for command in seen.commands if str(link) in " ".join(command)]


def test_a_directory_that_others_can_write_is_refused(minion, postfix, pillar):
    folder = postfix.directory / "open"
    folder.mkdir()
    folder.chmod(0o777)
    minion.pillar = pillar(maps={"virtual_alias_maps": {"file": str(folder / "a.cf")}})
    result = managed(minion)
    assert result["result"] is False
    assert f"others than root may write in {folder}: choose a directory of root's" in result["comment"]


# A Postfix before 3.11 does not know the second.
NOT_TAKEN = ["{{{}}}", "debug:{}"] if release() < (3, 11) else ["{{{}}}"]


@pytest.mark.parametrize("spelling", NOT_TAKEN)
def test_a_spelling_that_postfix_does_not_take_is_not_ours(minion, postfix, spelling):
    """451 for each recipient, and the apply said "in the correct state", the doctor nothing."""
    assert managed(minion)["result"] is True
    broken = spelling.format(postfix.postconf("virtual_mailbox_maps")["virtual_mailbox_maps"])
    postfix.write_main_cf(**{**postfix.postconf(), "virtual_mailbox_maps": broken})
    said = f"virtual_mailbox_maps also asks {broken}, which is not pillar's and cannot be asked: "
    result = managed(minion, test=True)
    assert result["result"] is False and said in result["comment"], result["comment"]
    faults = [row["fix"] for row in minion.call("postfix_doctor.check") if row["result"] == "fault"]
    assert any("virtual_mailbox_maps" in fix for fix in faults), faults
    # Once Postfix has it, all is broken already.
    postfix.reload()
    assert wait_until(lambda: replies(postfix)["nobody@example.org"] == 451, 10)
    result = managed(minion)
    assert result["result"] is False and said in result["comment"], result["comment"]


@pytest.mark.skipif(release() < (3, 11), reason="debug: tables are there from Postfix 3.11 on")
def test_a_table_whose_lookups_postfix_logs_is_ours(minion, postfix):
    assert managed(minion)["result"] is True
    logged = {"virtual_mailbox_maps": f"debug:{postfix.postconf('virtual_mailbox_maps')['virtual_mailbox_maps']}"}
    postfix.write_main_cf(**{**postfix.postconf(), **logged})
    postfix.reload()
    result = managed(minion)
    assert result["result"] is True and not result["changes"], result
    assert replies(postfix) == ANSWERED and postfix.postconf("virtual_mailbox_maps") == logged


@pytest.mark.parametrize("broken", ["hash:/nonexistent/none", "mysql:/nonexistent/none.cf", "nosuchtype:/x"])
def test_a_broken_table_of_somebody_else_is_named(minion, postfix, pillar, broken):
    """smtpd had not noticed it yet: each apply reloaded, was put back, and named "a table" that the mail log knows."""
    assert managed(minion)["result"] is True
    ours = postfix.postconf("virtual_alias_maps")["virtual_alias_maps"]
    postfix.write_main_cf(**{**postfix.postconf(), "virtual_alias_maps": f"{broken}, {ours}"})
    said = f"virtual_alias_maps also asks {broken}, which is not pillar's and cannot be asked: "
    minion.pillar = pillar(maps={"virtual_mailbox_maps": {"expansion_limit": 7}})
    before, reloads = everything(postfix), postfix.log.count(": reload -- ")
    for test in (True, False):
        result = managed(minion, test=test)
        assert result["result"] is False
        assert "until its next reload, which this needs" in result["comment"] and said in result["comment"]
    # Its replies may have changed: on a busy machine a client gets a new smtpd at any time.
    assert everything(postfix) == before and postfix.log.count(": reload -- ") == reloads > 0
    faults = [row["fix"] for row in minion.call("postfix_doctor.check") if row["result"] == "fault"]
    assert any(fix.startswith(said) for fix in faults), faults
    # Once Postfix knows, an apply is no reason for it any more.
    postfix.reload()
    assert wait_until(lambda: replies(postfix)["nobody@example.org"] == 451, 10)
    result = managed(minion)
    assert result["result"] is True and f"warning: {said}" in result["comment"]
