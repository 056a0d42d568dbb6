"""postfix_doctor between a real Postfix and a real MariaDB: each fault is found, named, and nothing else is."""

import re
import smtplib
import time
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from _ispmail_tablefile import parse, text_of
from lab import HOST, free_port, scratch
from lab.mariadb import MariaDB, native_hash
from lab.minion import Minion
from lab.postfix import Postfix, write_cold
from lab.smtp import rcpt

from ..conftest import only_host, release
from .database import ACCOUNT, NAME, NATIVE, NEW, OLD, OTHER, TWO, AskingServer, call, guide, pillar, run


@pytest.fixture
def mail(server, postfix):
    """A minion whose Postfix asks the guide's own tables, and where all else is well."""
    guide(server)
    server.sql("SET GLOBAL max_connections = 1000")
    server.sql("SET GLOBAL wait_timeout = 28800")
    with scratch() as path:
        minion = Minion(path, mail_pillar(server, postfix))
        call(minion, "account")
        apply(minion)
        yield minion
    server.sql("SET GLOBAL max_connections = 151")
    server.sql("SET GLOBAL wait_timeout = 28800")


def mail_pillar(server, postfix, password=OLD, **sections):
    found = pillar(server, password)
    found["ispmail"]["postfix"] = {"config_directory": str(postfix.config_directory)}
    found["ispmail"]["database"].update(only_host())
    found["ispmail"]["database"].update(sections.pop("database", {}))
    found["ispmail"].update(sections)
    return found


def apply(minion):
    result = minion.apply()["postfix_map.managed"]
    assert result["result"] is True, result["comment"]


def findings(minion):
    """Check and place to result and fix, of all that is not well."""
    rows = minion.call("postfix_doctor.check")
    assert {tuple(row) for row in rows} == {("check", "where", "result", "fix")}
    assert all((row["result"] == "ok") == (row["fix"] == "") for row in rows)
    return {(row["check"], row["where"]): (row["result"], row["fix"]) for row in rows if row["result"] != "ok"}


INDEX = "the query uses an index"
SET_UP = "the database is as ispmail.database sets it up"


def test_doctor_names_the_indexes_that_the_guide_does_not_have(mail, server):
    where = f"{HOST}:{server.port}"
    found = findings(mail)
    for map_, table, column in (("domains", "domains", "name"), ("alias", "aliases", "source")):
        name = "virtual_mailbox_domains" if map_ == "domains" else "virtual_alias_maps"
        result, fix = found.pop((INDEX, f"{name} on {where}"))
        assert result == "fault"
        assert (
            f"reads all of virtual_{table} for each question: ALTER TABLE virtual_{table} ADD INDEX ({column})" in fix
        )
    result, fix = found.pop((SET_UP, "the database server"))
    assert result == "warning" and "virtual_aliases is missing index on source" in fix
    assert found == {}
    call(mail, "tables")
    assert findings(mail) == {}


def test_doctor_without_the_admin_asks_with_what_the_files_hold(mail, server):
    call(mail, "tables")
    bare = mail.pillar
    del bare["ispmail"]["server"]
    mail.pillar = bare
    assert findings(mail) == {}
    server.sql(f"GRANT INSERT ON mailserver.* TO {ACCOUNT}")
    fix = findings(mail)["the account may only read", f"{NAME} on {HOST}:{server.port}"][1]
    assert fix.startswith(f"{NAME} has SELECT, INSERT ON `mailserver`.*: give the program that needs it an account")


@dataclass(frozen=True)
class Expected:
    """What the doctor must find, and how many findings more may follow from the same fault."""

    check: str
    where: str
    result: str
    fix: str
    follows: int = 0


def wrong_password(mail, server, postfix):
    server.sql(f"ALTER USER {ACCOUNT} {NATIVE} %s", native_hash(OTHER))
    where = f"{HOST}:{server.port} for virtual_mailbox_domains, virtual_alias_maps, virtual_mailbox_maps"
    fix = "error 1045: access is denied: check user and password"
    return Expected("the login works", where, "fault", fix, follows=2)


def manage_only_loopback(mail):
    """Without accounts_host all accounts of the user are managed."""
    found = mail.pillar
    found["ispmail"]["server"]["accounts_host"] = HOST
    mail.pillar = found


def another_account(mail, server, postfix):
    manage_only_loopback(mail)
    server.sql(f"DROP USER {ACCOUNT}")
    server.sql(f"CREATE USER mailserver@'127.%%' {NATIVE} %s", native_hash(OLD))
    server.sql("GRANT SELECT ON mailserver.* TO mailserver@'127.%'")
    where = f"mailserver@127.% on {HOST}:{server.port}"
    fix = "logins from here use the account mailserver@127.%, which a rotation does not change"
    return Expected("the login uses the managed account", where, "warning", fix, follows=2)


def unmanaged_account(mail, server, postfix):
    manage_only_loopback(mail)
    server.sql("CREATE USER mailserver@'198.51.100.7'")
    fix = "a rotation does not change mailserver@198.51.100.7: drop it"
    return Expected("all accounts of the user are managed", "the database server", "warning", fix)


def too_few_grants(mail, server, postfix):
    server.sql(f"REVOKE SELECT ON mailserver.* FROM {ACCOUNT}")
    server.sql(f"GRANT SELECT ON mailserver.virtual_domains TO {ACCOUNT}")
    where = f"virtual_alias_maps on {HOST}:{server.port}"
    return Expected("the query works", where, "fault", "error 1142: access to that table is denied", follows=3)


def short_wait_timeout(mail, server, postfix):
    server.sql("SET GLOBAL wait_timeout = 30")
    where = f"{HOST}:{server.port}"
    return Expected("the server keeps idle connections", where, "fault", "wait_timeout is 30 s")


def too_few_connections(mail, server, postfix):
    server.sql("SET GLOBAL max_connections = 151")
    where = f"{HOST}:{server.port}"
    fix = "100 processes with 3 maps each may open 300 connections"
    return Expected("the server takes enough connections", where, "warning", fix)


def alias_file(postfix):
    return postfix.config_directory / "mariadb-virtual-alias-maps.cf"


def open_table_file(mail, server, postfix):
    alias_file(postfix).chmod(0o644)
    fix = f"chmod 0640 {alias_file(postfix)}"
    return Expected("the table file is private", "virtual_alias_maps", "fault", fix, follows=2)


AS_PILLAR_SAYS = "files and main.cf are as pillar says"


def another_pillar(mail, server, postfix):
    mail.pillar = mail_pillar(server, postfix, database={"require_result_set": True})
    return Expected(AS_PILLAR_SAYS, "this server", "warning", "virtual_alias_maps, virtual_mailbox_maps")


def pillar_that_is_refused(mail, server, postfix):
    mail.pillar = mail_pillar(server, postfix, NEW)
    return Expected(AS_PILLAR_SAYS, "this server", "fault", "Access denied")


def two_passwords(mail, server, postfix):
    server.sql(f"ALTER USER {ACCOUNT} {TWO}")
    return Expected("the account accepts one password", NAME, "warning", "it accepts 2: a rotation is under way")


def plugin_that_cannot_be_rotated(mail, server, postfix):
    server.sql(f"ALTER USER {ACCOUNT} {NATIVE} '{native_hash(OLD)}' OR unix_socket")
    return Expected("a rotation can change the account's passwords", NAME, "fault", "it logs in by unix_socket")


def locked_account(mail, server, postfix):
    server.sql(f"ALTER USER {ACCOUNT} ACCOUNT LOCK")
    return Expected("the account is not locked", NAME, "fault", "UNLOCK", follows=3)


def password_that_expires(mail, server, postfix):
    server.sql(f"ALTER USER {ACCOUNT} PASSWORD EXPIRE INTERVAL 90 DAY")
    day = server.sql("SELECT DATE_FORMAT(FROM_UNIXTIME(UNIX_TIMESTAMP() + 90 * 86400), '%Y-%m-%d')")[0][0]
    return Expected("the account's password does not expire", NAME, "warning", f"it expires on {day}, and every lookup")


def password_that_has_expired(mail, server, postfix):
    """Doctor spoke of the admin's password, and the beacon was silent."""
    server.sql(f"ALTER USER {ACCOUNT} PASSWORD EXPIRE")
    assert [login["user"] for login in call(mail, "refused")] == ["mailserver"]
    where = f"{HOST}:{server.port} for virtual_mailbox_domains, virtual_alias_maps, virtual_mailbox_maps"
    fix = "error 1820: the account's password has expired: change the password, or run ALTER USER"
    return Expected("the login works", where, "fault", fix, follows=5)


def make_older(server, days):
    """As if the account had got its password so long ago."""
    changed = "JSON_SET(Priv, '$.password_last_changed', UNIX_TIMESTAMP() - %s)"
    server.sql(f"UPDATE mysql.global_priv SET Priv = {changed} WHERE User = 'mailserver'", days * 86400)


def password_that_is_too_old(mail, server, postfix):
    make_older(server, 31)
    mail.pillar = mail_pillar(server, postfix, rotation={"max_age": "30d"})
    fix = "it is 31 days old, and rotation:max_age is 30 days: run salt-run ispmail.new_password SITE on the master, or"
    return Expected("the account's password is not too old", NAME, "fault", fix)


def no_directory_for_metrics(mail, server, postfix):
    path = str(postfix.directory / "nowhere" / "ispmail.prom")
    mail.pillar = mail_pillar(server, postfix, watch={"textfile": path})
    return Expected("the metrics for Prometheus can be written", path, "fault", "install prometheus-node-exporter, or")


def table_in_utf8mb3(mail, server, postfix):
    """One RCPT by anybody stopped the mail of all for a minute, and doctor said ok."""
    change = "CONVERT TO CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci"
    server.sql(f"ALTER TABLE mailserver.virtual_aliases {change}")
    fix = "ALTER TABLE virtual_aliases CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
    where = f"virtual_alias_maps on {HOST}:{server.port}"
    return Expected("the query takes every address", where, "fault", fix, follows=1)


def account_left_behind(mail, server, postfix):
    server.sql(f"CREATE USER oldserver@'127.0.0.1' {NATIVE} %s", native_hash(OTHER))
    server.sql("GRANT SELECT ON mailserver.* TO oldserver@'127.0.0.1'")
    fix = "oldserver@127.0.0.1 may read the maps' tables (nobody is connected now): DROP USER 'oldserver'@'127.0.0.1'"
    return Expected("no table file's old account is left behind", "the database server", "warning", fix)


def older_process(mail, server, postfix):
    assert rcpt(postfix.port, "john@example.org")[0] == 250
    write_cold(alias_file(postfix), alias_file(postfix).read_text(), 0o640, "postfix")
    return Expected("no process uses older table files", "this server", "warning", "smtpd ")


def file_closed_to_proxymap(mail, server, postfix):
    hidden = postfix.directory / "hidden"
    hidden.mkdir()
    maps = {"virtual_alias_maps": {"proxy": True, "file": str(hidden / "a.cf")}}
    mail.pillar = mail_pillar(server, postfix, maps=maps)
    apply(mail)
    hidden.chmod(0o700)
    fix = f"proxymap cannot read {hidden}/a.cf"
    return Expected("proxymap can read the table file", "virtual_alias_maps", "fault", fix, follows=1)


def empty_table_file(mail, server, postfix):
    """smtpd could not even greet, and doctor said that it can ask its maps."""
    write_cold(alias_file(postfix), "", 0o640, "postfix")
    postfix.reload()
    fix = f"main.cf names {alias_file(postfix)}, missing or empty: apply ispmail"
    # Not as pillar says, and smtpd does not answer.
    return Expected("the table files are there", "this server", "fault", fix, follows=2)


# Each breaks one thing.
FAULTS = (
    wrong_password,
    another_account,
    short_wait_timeout,
    too_few_connections,
    open_table_file,
    another_pillar,
    pillar_that_is_refused,
    two_passwords,
    plugin_that_cannot_be_rotated,
    locked_account,
    older_process,
    unmanaged_account,
    too_few_grants,
    file_closed_to_proxymap,
    password_that_expires,
    password_that_has_expired,
    password_that_is_too_old,
    no_directory_for_metrics,
    table_in_utf8mb3,
    account_left_behind,
    empty_table_file,
)


@pytest.mark.parametrize("break_it", FAULTS, ids=lambda function: function.__name__)
def test_doctor_names_one_fault(mail, server, postfix, break_it):
    call(mail, "tables")
    expected = break_it(mail, server, postfix)
    found = findings(mail)
    result, fix = found[expected.check, expected.where]
    assert result == expected.result
    assert expected.fix in fix
    assert len(found) <= 1 + expected.follows, found
    assert not [text for _, text in found.values() if OLD in text or OTHER in text or native_hash(OLD) in text]


def test_one_address_of_anybody_stops_nobodys_mail(mail, server, postfix):
    """On utf8mb3 tables its RCPT made Postfix ignore the database for a minute."""
    call(mail, "tables")
    for table in ("domains", "users", "aliases"):
        change = "CONVERT TO CHARACTER SET utf8mb3 COLLATE utf8mb3_general_ci"
        server.sql(f"ALTER TABLE mailserver.virtual_{table} {change}")
    assert rcpt_utf8(postfix.port, "j\U0001f602@example.org") == 451
    call(mail, "tables")
    postfix.reload()
    assert rcpt_utf8(postfix.port, "j\U0001f602@example.org") == 550
    assert rcpt(postfix.port, "john@example.org")[0] == 250
    assert findings(mail) == {}


def test_doctor_tells_what_a_later_postfix_will_not_have(mail, postfix):
    """As far as this Postfix tells: of parameters from 3.9 on, and Debian's of hash and btree from 3.11 on."""
    call(mail, "tables")
    aliases = postfix.directory / "aliases"
    aliases.write_text("a: b\n")
    postfix.command("postmap", f"hash:{aliases}")
    postfix.command("postconf", "-e", f"alias_maps=hash:{aliases}, btree:$config_directory/gone", "smtpd_use_tls=no")
    found = findings(mail)
    result, fix = found.pop(("a later Postfix will have all that is used here", "this server"), ("", ""))
    assert found == {} and result == ("warning" if release() >= (3, 9) else "")
    assert ('"smtpd_use_tls" will be removed; instead, specify "smtpd_tls_security_level"' in fix) == bool(result)
    assert (f"{aliases}: hash/btree support is deprecated" in fix) == (release() >= (3, 11))


def test_the_metrics_of_a_server(mail, server, postfix):
    """Of one that is well, and of one whose login is refused; they go to where the schedule is told to put them."""
    call(mail, "tables")
    with scratch() as folder:
        path = folder / "node-exporter" / "ispmail.prom"
        path.parent.mkdir()
        mail.pillar = mail_pillar(server, postfix, watch={"textfile": str(path)})
        apply(mail)
        applied = time.time()
        make_older(server, 31)

        def measured():
            mail.call("postfix_doctor.check", notify=True)
            found = text_string_to_metric_families(path.read_text())
            return {each.name: each.value for family in found for each in family.samples}

        found = measured()
        assert found["ispmail_password_age_seconds"] == pytest.approx(31 * 86400, abs=60)
        assert found["ispmail_last_apply_timestamp_seconds"] == pytest.approx(applied, abs=10)
        assert found["ispmail_doctor_timestamp_seconds"] == pytest.approx(time.time(), abs=60)
        counts = ("ispmail_doctor_faults", "ispmail_doctor_warnings", "ispmail_refused_logins")
        assert [found[name] for name in counts] == [0, 0, 0], findings(mail)
        server.sql(f"ALTER USER {ACCOUNT} {NATIVE} %s", native_hash(OTHER))
        found = measured()
        assert found["ispmail_refused_logins"] == 1 and found["ispmail_doctor_faults"] >= 1
        assert OLD not in path.read_text() and path.stat().st_mode & 0o777 == 0o644


def rcpt_utf8(port, address):
    """The reply to one RCPT by SMTPUTF8."""
    with smtplib.SMTP(HOST, port, timeout=10) as client:
        client.ehlo()
        client.command_encoding = "utf-8"
        client.mail("test@sender.test", ["SMTPUTF8"])
        return client.rcpt(address)[0]


def test_doctor_follows_a_whole_rotation(mail, server, postfix):
    """To a password that is not ASCII: Postfix logs in with the bytes of the file, and so must doctor."""
    call(mail, "tables")
    new = "gr\u00fc\u00dfe-\u20ac"
    mail.pillar = mail_pillar(server, postfix, new)
    assert set(findings(mail)) == {(AS_PILLAR_SAYS, "this server")}
    call(mail, "credential_accepted")
    apply(mail)
    assert set(findings(mail)) == {("the account accepts one password", NAME)}
    call(mail, "credential_sole")
    assert findings(mail) == {}
    assert rcpt(postfix.port, "john@example.org")[0] == 250


def test_doctor_compares_hosts(mail, server, postfix, directory):
    """A replica that lags answers otherwise, and Postfix takes hosts in random order."""
    call(mail, "tables")
    with MariaDB(directory / "replica", free_port()) as replica:
        guide(replica)
        second = mail_pillar(replica, postfix)
        second["ispmail"]["server"] = {"unix_socket": replica.socket}
        mail.pillar = second
        call(mail, "tables")
        call(mail, "account")
        hosts = [f"{HOST}:{one.port}" for one in (server, replica)]
        answers = [{"map": "virtual_mailbox_maps", "question": "john@example.org", "answer": True}]
        mail.pillar = mail_pillar(server, postfix, database={"hosts": hosts}, answers=answers)
        apply(mail)
        differ = "all hosts give the same answers"
        assert [key for key in findings(mail) if key[0] == differ] == []
        run(replica, "UPDATE virtual_users SET email = 'jon@example.org'; DELETE FROM virtual_aliases LIMIT 1")
        found = findings(mail)
        assert f"rows of virtual_aliases differ on {hosts[0]} and {hosts[1]}" in found[differ, "virtual_alias_maps"][1]
        assert "answers to john@example.org differ" in found[differ, "virtual_mailbox_maps"][1]
        assert (differ, "virtual_mailbox_domains") not in found


def test_doctor_names_a_plugin_that_is_missing_only_in_the_chroot(mail, server, postfix):
    """The server's own greeting names another one than the account's: that is not the one in use."""
    call(mail, "tables")
    file = postfix.config_directory / "mariadb-virtual-alias-maps.cf"
    with AskingServer("caching_sha2_password") as other:
        where = f"{HOST}:{other.port}"
        write_cold(file, file.read_text().replace(f"{HOST}:{server.port}", where), 0o640, "postfix")
        found = findings(mail)
    result, fix = found["smtpd's chroot has the login plugin", where]
    assert result == "fault"
    assert "the account logs in by caching_sha2_password, which is missing in smtpd's chroot" in fix
    result, fix = found["Postfix can ask the map", "virtual_alias_maps"]
    assert result == "fault" and "caching_sha2_password" in fix


SECOND = "ispmail_submission"


@pytest.fixture
def both(mail, server):
    """A second Postfix with a map of its own, by the login of the first."""
    call(mail, "tables")
    with scratch() as path, Postfix(path / "mail") as instance:
        mine = mail.pillar
        maps = dict.fromkeys(("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps"))
        maps["smtpd_sender_login_maps"] = {"query": "SELECT email FROM virtual_users WHERE email='%s'"}
        mine[SECOND] = mail_pillar(server, instance, maps=maps)["ispmail"]
        mine["ispmail"]["instances"] = [SECOND]
        mail.pillar = mine
        mail.call("postfix_map.apply", SECOND)
        yield instance


def test_doctor_looks_at_all_instances(mail, server, both):
    assert findings(mail) == {}
    host, name = f"{HOST}:{server.port}", f"{SECOND}: smtpd_sender_login_maps"
    rows = {(row["check"], row["where"]) for row in mail.call("postfix_doctor.check")}
    # One login is one, whoever shares it; and so is the database's admin.
    assert (INDEX, f"{name} on {host}") in rows
    assert len([where for check, where in rows if check == "the login works"]) == 1
    assert len([where for check, where in rows if check == SET_UP]) == 1
    server.sql("SET GLOBAL max_connections = 350")
    server.sql("ALTER TABLE mailserver.virtual_users DROP INDEX email")
    file = both.config_directory / "mariadb-smtpd-sender-login-maps.cf"
    file.chmod(0o644)
    found = findings(mail)
    assert found["the table file is private", name] == (
        "fault",
        f"every local user can read the password in it: run chmod 0640 {file}",
    )
    assert found[AS_PILLAR_SAYS, f"{SECOND}: this server"][0] == "warning"
    assert "ADD INDEX (email)" in found[INDEX, f"{name} on {host}"][1]
    few = found["the server takes enough connections", host][1]
    assert f"{SECOND}: 100 processes with 1 map each may open 400 connections, but max_connections is 350" in few


def test_a_host_that_is_named_twice_is_looked_at_once(mail, server, postfix):
    call(mail, "tables")
    host = f"{HOST}:{server.port}"
    mail.pillar = mail_pillar(server, postfix, database={"hosts": [host, host]})
    apply(mail)
    rows = [(row["check"], row["where"]) for row in mail.call("postfix_doctor.check")]
    assert len(rows) == len(set(rows)) > 10


def test_doctor_names_a_login_of_another_instance_by_its_key(mail, server, both):
    mine = mail.pillar
    mine[SECOND]["database"]["user"] = "submission"
    mine[SECOND]["server"]["unix_socket"] = "/nowhere"
    mail.pillar = mine
    server.sql(f"CREATE OR REPLACE USER submission@'{HOST}' {NATIVE} %s", native_hash(OLD))
    server.sql(f"GRANT SELECT, INSERT ON mailserver.* TO submission@'{HOST}'")
    mail.call("postfix_map.apply", SECOND)
    found = findings(mail)
    server.sql(f"DROP USER submission@'{HOST}'")
    where = f"submission@{HOST} on {SECOND}: {HOST}:{server.port}"
    assert set(found) == {
        ("the account may only read", where),
        (SET_UP, f"{SECOND}: the database server"),
    }


def test_a_report_reads_as_one_table(mail, server):
    """Through salt-call itself, whose outputter indents it."""
    mail.command("saltutil.sync_all")
    server.sql(f"GRANT INSERT ON mailserver.* TO {ACCOUNT}")
    done = mail.command("postfix_doctor.check", "width=110")
    head, *lines = done.stdout.rstrip("\n").split("\n")
    assert head == "local:" and all(line.startswith("    ") or not line for line in lines), done.stdout
    lines = [line.removeprefix("    ") for line in lines]
    assert max(map(len, lines)) <= 110
    assert lines[0].split() == ["result", "check", "where", "fix"]
    results = [line.split(" ")[0] for line in lines[2:-2] if line[:1].strip()]
    assert results == sorted(results, key=["fault", "warning", "ok"].index) and results.count("fault") == 2
    assert lines[-2] == "" and re.fullmatch(r"2 faults, 2 warnings, \d+ checks ok", lines[-1])
    text = " ".join(" ".join(lines).split())
    assert "ALTER TABLE virtual_domains" in text and OLD not in text
    assert "width must be a number, 60 or more" in mail.command("postfix_doctor.check", "width=59").stderr


LEFT_BEHIND = ("no table file's old account is left behind", "the database server")


def test_an_account_that_a_table_has_from_an_option_file_is_not_left_behind(mail, server, postfix):
    """Doctor took such a table for one of Postfix's own user, and advised to drop the account by which it asks."""
    call(mail, "tables")
    account_left_behind(mail, server, postfix)
    table, option_file = (postfix.config_directory / f"by-hand.{ending}" for ending in ("cf", "cnf"))
    keys = parse(alias_file(postfix).read_bytes())
    write_cold(table, text_of({**keys, "user": "", "password": OTHER, "option_file": str(option_file)}))
    postfix.command("postconf", "-e", f"sender_canonical_maps=mysql:{table}")
    write_cold(option_file, "[client]\nuser = oldserver\n")
    assert postfix.postmap("jack@example.org", f"mysql:{table}") == "john@example.org,jane@example.org"
    assert findings(mail) == {}
    # What cannot be read may name any account.
    option_file.unlink()
    option_file.mkdir()
    result, fix = findings(mail)[LEFT_BEHIND]
    assert result == "warning" and f"Drop none yet: Postfix may log in by one of them ({option_file} is no" in fix
    assert "DROP USER" not in fix
    table.unlink()
    assert f"({table} is missing or empty)" in findings(mail)[LEFT_BEHIND][1]
    write_cold(table, text_of(keys))
    assert "DROP USER 'oldserver'@'127.0.0.1'" in findings(mail)[LEFT_BEHIND][1]


def test_the_advice_on_an_option_file_clears_its_warning(mail, postfix):
    """It was to put user and password into the table file, where they were already."""
    call(mail, "tables")
    option_file = postfix.config_directory / "x.cnf"
    write_cold(option_file, "[client]\nconnect-timeout = 5\n")
    given = mail.pillar
    given["ispmail"]["maps"] = {"virtual_alias_maps": {"option_file": str(option_file), "proxy": True}}
    mail.pillar = given
    apply(mail)
    assert {"user", "password", "option_file"} < parse(alias_file(postfix).read_bytes()).keys()
    ((where, (result, fix)),) = findings(mail).items()
    assert where == ("the login works", "virtual_alias_maps")
    assert result == "warning" and fix.endswith("and take option_file out")
    del given["ispmail"]["maps"]
    mail.pillar = given
    apply(mail)
    assert findings(mail) == {}
