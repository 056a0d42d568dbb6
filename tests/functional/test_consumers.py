"""Other programs that log in with the maps' account: a real Dovecot, option files, and files that an SLS writes."""

import ctypes
import random
import re
import subprocess
import textwrap
import time
from collections import Counter

import pytest
from salt.exceptions import CommandExecutionError

import _ispmail_dovecot
import _ispmail_optionfile
import _ispmail_postfix
from _ispmail_journal import Journal
from lab import HOST, scratch, wait_until
from lab.dovecot import Dovecot, MailLoad
from lab.mariadb import MariaDB, schema, set_password
from lab.minion import FILE_ROOTS, Minion
from lab.postfix import write_cold
from lab.smtp import Load

from .. import pages

OLD, NEW = "oldSecretJ4x8K2", "newSecretW7q3Z9"
JOHN, MAIL_PASSWORD = "john@example.org", "mailSecret"
NO_MAPS = dict.fromkeys(("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps"))
# A password in an option file is in quotes: all that these have is escaped, or needs no escape.
NASTY = [
    *(
        "in ner",
        "#x",
        "x#y",
        "x #y",
        ";x",
        "x=y",
        "50%",
        "%u%s%{user}",
        "back\\slash",
        "end\\",
        "\\n\\t\\s",
        'quo"te',
        '"x"',
    ),
    *(
        "quo'te",
        "'x'",
        "{}",
        "$x",
        "$$",
        "${x}",
        "$ENV:PATH",
        "</etc/hostname",
        "!include x",
        "[client]",
        "ümläut€",
        "😂",
    ),
    *("tab\tx", "\x01\x7f", "a,b", "`id`", "~", "x" * 200, OLD),
]


@pytest.fixture(scope="module")
def database():
    with scratch() as directory, MariaDB(directory / "db") as server:
        yield server


@pytest.fixture
def db(database):
    """A MariaDB whose account mailserver has the password OLD, and whose user john may log in to Dovecot."""
    schema(database, OLD)
    database.sql("UPDATE mailserver.virtual_users SET password = %s", f"{{PLAIN}}{MAIL_PASSWORD}")
    return database


@pytest.fixture
def mail():
    """A directory that every user may enter."""
    with scratch() as directory:
        yield directory


@pytest.fixture
def dovecot(db, mail):
    """A running Dovecot as docs/consumers.md has it; its option file holds the password OLD."""
    option_file = mail / "dovecot" / "etc" / "ispmail.cnf"
    instance = Dovecot(mail / "dovecot", db.port, option_file=str(option_file))
    option_file.write_text(f'[client]\nuser="mailserver"\npassword="{OLD}"\n')
    with instance:
        yield instance


def option_file(dovecot):
    return dovecot.config_file.with_name("ispmail.cnf")


def consumer_of(dovecot):
    return {"option_file": str(option_file(dovecot)), "config_file": str(dovecot.config_file)}


def section(db, password=NEW, **more):
    """Pillar of a server that has consumers and no maps, unless `more` says otherwise."""
    return {
        "database": {"password": password, "hosts": f"{HOST}:{db.port}"},
        "server": {"unix_socket": db.socket},
        "packages": False,
        "maps": NO_MAPS,
        **more,
    }


@pytest.fixture
def alone(db, dovecot, mail):
    """A minion of a server with a Dovecot and without maps: its Postfix is not there."""
    postfix = {"config_directory": str(mail / "no-postfix")}
    consumers = {"dovecot": consumer_of(dovecot)}
    return Minion(mail / "minion", {"ispmail": section(db, OLD, postfix=postfix, consumers=consumers)})


def change(minion, **more):
    """Change pillar below ispmail."""
    minion.pillar = {"ispmail": {**minion.pillar["ispmail"], **more}}


def take(minion, password):
    """Have pillar hold another password."""
    change(minion, database={**minion.pillar["ispmail"]["database"], "password": password})


def managed(minion, **options):
    return minion.apply("ispmail.maps", **options)["postfix_map.managed"]


def test_dovecot_gets_its_option_file(alone, db, dovecot, audit):
    path = option_file(dovecot)
    path.unlink()
    would = managed(alone, test=True)
    assert (would["result"], path.exists()) == (None, False), would["comment"]
    with audit() as seen:
        done = managed(alone)
    assert done["result"] is True and done["comment"].startswith("1 consumer has been applied"), done["comment"]
    assert (
        would["changes"]
        == done["changes"]
        == {
            "consumer:dovecot": {
                "file": {"old": None, "new": str(path)},
                "user": {"old": None, "new": "mailserver"},
                "password": {"old": None, "new": "***"},
            }
        }
    )
    assert not [command for command in seen.commands if command[0].startswith("post")], "there is no Postfix"
    assert path.read_text() == f'[client]\nuser="mailserver"\npassword="{OLD}"\n'
    assert (path.owner(), path.group(), path.stat().st_mode & 0o7777) == ("root", "dovecot", 0o640)
    assert dovecot.login(JOHN, MAIL_PASSWORD) == dovecot.deliver(JOHN) == "ok"
    again = managed(alone)
    assert (again["result"], again["changes"]) == (True, {}) and "correct state" in again["comment"]
    path.chmod(0o644)
    fixed = managed(alone)["changes"]["consumer:dovecot"]
    assert fixed["mode"] == {"old": "0644", "new": "0640"} and "password" not in fixed


def test_a_new_password_of_dovecot_is_undone(alone, db, dovecot, caplog):
    """A password that the database refuses does not come back; one that it accepts does, and nothing is restarted."""
    path = option_file(dovecot)
    before = path.read_text()
    assert managed(alone)["changes"]["consumer:dovecot"].keys() == {"group", "mode"}
    set_password(db, NEW)
    take(alone, NEW)
    assert managed(alone)["result"] is True
    after = path.read_text()
    (newest, oldest) = alone.call("postfix_map.history")
    assert newest["changes"] == {"consumer:dovecot": {"password": {"old": "***", "new": "***"}}}
    assert oldest["changes"]["consumer:dovecot"]["mode"]["new"] == "0640"
    for test in (True, False):
        with pytest.raises(CommandExecutionError, match=r"the login of the consumers: .*access is denied"):
            alone.call("postfix_map.rollback", test=test)
    assert path.read_text() == after and dovecot.login(JOHN, MAIL_PASSWORD) == "ok"
    set_password(db, OLD)
    assert alone.call("postfix_map.rollback", test=True)["changes"] == newest["changes"]
    assert path.read_text() == after
    caplog.set_level("INFO")
    done = alone.call("postfix_map.rollback")
    assert done["changes"] == newest["changes"] and done["reloaded"] is False
    assert [line for line in caplog.messages if line.startswith("rollback to ")]
    assert path.read_text() == before and path.stat().st_mode & 0o7777 == 0o640
    assert dovecot.login(JOHN, MAIL_PASSWORD) == dovecot.deliver(JOHN) == "ok"
    assert not [secret for secret in (OLD, NEW) if secret in repr([done, newest, oldest])]


def test_an_option_file_that_is_new_is_left(alone, dovecot):
    """Dovecot's configuration names it: without it nobody could log in."""
    path = option_file(dovecot)
    path.unlink()
    assert managed(alone)["result"] is True
    done = alone.call("postfix_map.rollback")
    assert done["changes"] == {} and path.exists()
    assert (
        done["warnings"][0] == f"{path} was left, because a program may log in by it: delete it when nothing names it"
    )


def test_every_password_reaches_dovecot(alone, db, dovecot):
    """The guides' connect line breaks with a blank or a #; an option file holds whatever a table file does."""
    failed = []
    for password in NASTY:
        set_password(db, password)
        take(alone, password)
        done = alone.call("postfix_map.apply")
        # Killed connections would do, but Dovecot 2.3 waits longer and longer after each of them.
        dovecot.restart()
        results = [dovecot.login(JOHN, MAIL_PASSWORD), dovecot.deliver(JOHN)]
        if not done["changes"] or results != ["ok", "ok"]:
            failed.append((password, results, done))
    assert not failed
    assert len(NASTY) > 30


@pytest.mark.parametrize(
    "login",
    [
        {"user": "mailserver", "password": OLD},
        {"option_file": "OWN", "password": OLD},
        {"user": "other", "password": OLD},
    ],
    ids=["as the guide has it", "both", "nothing of ours"],
)
def test_a_dovecot_that_would_not_use_the_option_file(alone, db, dovecot, login):
    """Case: Dovecot keeps the password in its own configuration. The apply says which lines to write, and stops."""
    path = option_file(dovecot)
    before = path.read_bytes()
    dovecot.configure(**{key: value.replace("OWN", str(path)) for key, value in login.items()})
    schema(db, NEW)
    take(alone, NEW)
    for test in (True, False):
        done = managed(alone, test=test)
        assert (done["result"], done["changes"]) == (False, {}), done["comment"]
    assert OLD not in done["comment"] and NEW not in done["comment"]
    assert path.read_bytes() == before
    right = "\n".join(line[4:] for line in done["comment"].splitlines() if line.startswith("    "))
    assert str(path) in right and "password" not in right
    # Write what it says, and it works.
    now = r"^mysql \S+ \{.*?^\}" if dovecot.new else r"^connect = [^\n]*"
    text = dovecot.sql_file.read_text()
    dovecot.sql_file.write_text(re.sub(now, lambda _: right, text, flags=re.MULTILINE | re.DOTALL))
    assert managed(alone)["result"] is True


def random_option_file(chance):
    """An option file with a user, and what libmariadb might read in another way."""
    value = "".join(chance.choice("ab \t\\\"'=#;]sn\v\r\0\xa0\x85\u2028\x1f") for _ in range(chance.randrange(8)))
    before = chance.choice(["user=", "user =", " user\t= ", "user\xa0=", "\x85user="])
    groups = [f"[{name}]\nuser = o\n" for name in ("client-mariadb", "other", " client", "client\xa0")]
    behind = chance.choice(["", *groups])
    return f"[client]\nuser=first\n{before}{value}x\n{behind}".encode()


def test_random_option_files_are_read_as_libmariadb_reads_them(db, mail):
    """As whom the database let it not in."""
    library = ctypes.CDLL("libmariadb.so.3")
    library.mysql_init.restype = library.mysql_real_connect.restype = ctypes.c_void_p
    library.mysql_error.restype = ctypes.c_char_p
    chance, file = random.Random(4), mail / "random.cnf"
    for _ in range(300):
        content = random_option_file(chance)
        file.write_bytes(content)
        handle = ctypes.c_void_p(library.mysql_init(None))
        for option, text in ((4, str(file)), (5, "client")):  # MYSQL_READ_DEFAULT_FILE and _GROUP, see mysql.h
            library.mysql_options(handle, option, ctypes.c_char_p(text.encode()))
        assert not library.mysql_real_connect(handle, HOST.encode(), None, None, None, db.port, None, ctypes.c_ulong(0))
        said = re.search(r"Access denied for user '(.*)'@", library.mysql_error(handle).decode(), re.DOTALL)
        library.mysql_close(handle)
        # The server writes control characters so.
        user = said and re.sub(r"\\([0-9A-F]{4})", lambda found: chr(int(found[1], 16)), said[1])
        users = [value for what, value in _ispmail_optionfile.login_steps(content, "client") if what == "user"]
        assert user == (users[-1] or "root"), content


MAP = "map {\n  pattern = priv/x\n  table = t\n  username_field = u\n  value_field = v\n}\n"


def random_form(chance, number, port):
    """A file with SQL settings of Dovecot 2.3, mostly with a login, in one of the many ways to write it."""
    words = [f"host={HOST}", f"port={port}", "dbname=x"]
    words += [f"user=u{number}"] * (chance.random() < 0.9) + [f"user=w{number}"] * (chance.random() < 0.2)
    words += [f"password=p{chance.choice(['', '#y', 'it', '=z'])}"] * (chance.random() < 0.5)
    chance.shuffle(words)
    usual = [
        *[" "] * 9,
        "  ",
        " \\\n",
        "\\\n",
        "\\ \n\t",
        "\\\t\n # c\n",
        "\\\n#c \\\n",
        " # x\\\n",
        "\\\r\n",
        " \\# x\n",
    ]
    odd = ["#", "'", '"', "=", "\t", "\\", "\n", "\\\n\n"] if chance.random() < 0.2 else []
    value = "".join(chance.choice(usual + odd) + word for word in words)
    quote = chance.choice(["", "", "", "", "'", '"'])
    lines = [
        "# old \\",
        "  # it's \"x \\",
        " \t",
        "# x\r",
        "connect = user=old#",
        "connect = 'a'",
        MAP.replace("x", "y # }"),
    ]
    odd = ["nothing", "}", "map{", "map y{", "map = {", "\\"] if chance.random() < 0.4 else []
    before = [chance.choice(lines + odd) for _ in range(chance.choice([0, 0, 1, 2]))]
    key = chance.choice(["connect = ", "connect=", " connect\t=\t", "connect\\\n= ", "connect \\\n = \\\n"])
    return "\n".join([*before, f"{key}{quote}{value}{quote}", MAP])


BLOCK = "mysql HOST {{\n  port = PORT\n  dbname = x\n  {}\n}}\n"
OWN = BLOCK.format("user = own")
PASSDB = "passdb sql {{\n  query = SELECT 1 as user, 2 as password\n{}}}\n"
USERDB = "userdb sql {{\n  query = SELECT 1 as user\n{}}}\n"
# Where Dovecot 2.4 may have a user, and no user of a test is dovecot or root: as those it logs in where it has none.
PLACES = {
    "in the block": OWN + PASSDB.format("") + USERDB.format(""),
    "around it": "mysql_user = top\n" + BLOCK.format("") + PASSDB.format("") + USERDB.format(""),
    "around it too": OWN + "mysql_user = top\n" + PASSDB.format("") + USERDB.format(""),
    "below it": BLOCK.format("") + PASSDB.format("mysql_user = scoped\n") + USERDB.format(""),
    "below it, last": OWN + PASSDB.format("mysql_user = scoped\n") + USERDB.format(""),
    "below it, first": PASSDB.format("mysql_user = scoped\n") + USERDB.format("") + OWN,
    "two blocks": OWN + PASSDB.format(BLOCK.format("user = in")) + USERDB.format(""),
    "beside each other": PASSDB.format(f"mysql_user = a\n{BLOCK.format('')}")
    + USERDB.format(f"mysql_user = b\n{BLOCK.format('')}"),
    "one alone": PASSDB.format(BLOCK.format("")) + USERDB.format(f"mysql_option_file = FILE\n{BLOCK.format('')}"),
    "in a protocol": BLOCK.format("")
    + PASSDB.format("")
    + USERDB.format("")
    + "protocol auth {\n  mysql_user = p\n}\n",
    "a file below": OWN + PASSDB.format("mysql_option_file = FILE\n") + USERDB.format(""),
    "a file around": "mysql_option_file = FILE\n" + BLOCK.format("user =") + PASSDB.format("") + USERDB.format(""),
    "a group": "group @mysql prod {\n  user = grouped\n}\n"
    + PASSDB.format(BLOCK.format("@mysql = prod"))
    + USERDB.format(BLOCK.format("@mysql = prod")),
    "a group that holds a block": f"group @own prod {{\n  {BLOCK.format('user = grouped')}}}\n"
    + PASSDB.format("@own = prod\n")
    + USERDB.format("@own = prod\n"),
    "a file with the user": f"mysql_user = <NAME\n{BLOCK.format('')}" + PASSDB.format("") + USERDB.format(""),
    "a variable": f"mysql_user = $SET:mail_uid\n{BLOCK.format('')}" + PASSDB.format("") + USERDB.format(""),
}

# Of these nobody can tell the user who reads what doveconf prints: whom the database refused, and what we say.
NOT_TOLD = {
    "a group": ("grouped", "the block group @mysql prod has settings of a login"),
    "a group that holds a block": ("grouped", "the block group @own prod has settings of a login"),
    "a file with the user": ("named", "takes a value from elsewhere"),
    "a variable": ("mail", "takes a value from elsewhere"),
}


@pytest.mark.parametrize("place", PLACES)
def test_places_of_a_user_are_read_as_dovecot_reads_them(db, mail, place):
    dovecot = Dovecot(mail / "dovecot", db.port)
    if not dovecot.new:
        pytest.skip("Dovecot 2.3 has its logins in files of their own")
    file = mail / "option.cnf"
    file.write_text("[client]\nuser = byfile\n")
    before, _, rest = dovecot.config_file.read_text().partition("sql_driver = mysql\n")
    named = mail / "named"
    named.write_text("named")
    text = PLACES[place].replace("HOST", HOST).replace("PORT", str(db.port))
    text = text.replace("FILE", str(file)).replace("NAME", str(named))
    behind = rest[rest.index("userdb sql") :].partition("\n}\n")[2]
    dovecot.config_file.write_text(f"{before}sql_driver = mysql\n{text}{behind}")
    with dovecot:
        dovecot.login(JOHN, MAIL_PASSWORD)
        wait_until(lambda: "Access denied for user" in dovecot.log, 20)
        log = dovecot.log
    refused = set(re.findall(r"Access denied for user '(.*?)'@", log)) - {"dovecot", "root"}
    printed = subprocess.run(["doveconf", "-n", "-c", dovecot.config_file], capture_output=True, text=True, check=True)
    assert refused or place == "one alone", log
    if place in NOT_TOLD:
        user, said = NOT_TOLD[place]
        assert refused == {user}
        with pytest.raises(ValueError, match=said):
            _ispmail_dovecot.new_connections(printed.stdout)
        return
    found = _ispmail_dovecot.new_connections(printed.stdout)
    users = {each.user or ("byfile" if each.option_file == str(file) else None) for each in found}
    assert refused <= users, (refused, found)
    # Who has none of these is not said to have one.
    if place in ("beside each other", "in the block", "around it too"):
        assert users == refused


def test_random_forms_are_read_as_dovecot_reads_them(db, mail):
    """Dovecot's dict server reads such a file for each dictionary, and says as whom the database let it not in."""
    dovecot = Dovecot(mail / "dovecot", db.port)
    if dovecot.new:
        pytest.skip("Dovecot 2.4 has no such files: doveconf reads its blocks")
    chance, folder = random.Random(4), dovecot.directory / "etc"
    texts = [random_form(chance, number, db.port) for number in range(120)]
    dictionaries = [f"  d{number} = mysql:{folder}/{number}.ext" for number in range(len(texts))]
    for number, text in enumerate(texts):
        (folder / f"{number}.ext").write_bytes(text.encode())
    with dovecot.config_file.open("a") as file:
        file.write("\n".join(["default_internal_user = root", "dict {", *dictionaries, "}", ""]))
    with dovecot:
        for number in range(len(texts)):
            asked = ["dict", "get", "-u", JOHN, f"proxy:{dovecot.directory}/run/dict:d{number}", "priv/x"]
            subprocess.run(
                ["doveadm", "-c", dovecot.config_file, *asked], check=False, capture_output=True, timeout=120
            )
        log = dovecot.log
    seen = Counter()
    for number, text in enumerate(texts):
        said = "\n".join(re.findall(rf"Error: d{number}: (.*)", log))
        refused = re.search(r"Access denied for user '(.*?)'@", said)
        try:
            (found,) = _ispmail_dovecot.old_connections("/f", text)
        except ValueError as err:
            # What Dovecot can read, we can.
            assert not refused, (text, said)
            seen["neither"] += "Expecting '='" in said or "Unexpected '}'" in said
            assert str(err).startswith("line ")
            continue
        if refused:
            assert refused[1] == (found.user or "root"), (text, said, found)
            if "using password" in said:
                assert found.has_password == ("using password: YES" in said), (text, said, found)
        else:
            assert "Expecting '='" not in said and "Unexpected '}'" not in said, (text, said, found)
        seen["login"] += refused is not None
    assert seen["login"] > 30 and seen["neither"] > 5, seen


OTHER_FILE = "connect = host={host} port={port} dbname=mailserver option_file={other}"


@pytest.mark.parametrize(
    "lines",
    [
        "# old: \\\nconnect = host={host} port={port}\\\n  user=mailserver password={password} \\ \n dbname=mailserver",
        "connect = host={host} port={port} dbname=mailserver option_file={own}\\\n user=mailserver password={password}",
        OTHER_FILE,
        "connect = host={host} port={port} dbname=mailserver user=mailserver_b password={password}",
        OTHER_FILE.replace("{other}", "{pair}"),
    ],
    ids=["joined lines", "beside the option file", "another option file", "other account", "other account's file"],
)
def test_a_login_that_stays_behind_is_found(alone, db, dovecot, lines):
    """Dovecot logs in so, and a dictionary that does it right is no reason to pass over it."""
    if dovecot.new:
        pytest.skip("Dovecot 2.4 has no such files: doveconf reads its blocks")
    own, other = option_file(dovecot), dovecot.config_file.with_name("other.cnf")
    other.write_text(f"[client]\nuser = mailserver\npassword = {OLD}\n")
    pair = dovecot.config_file.with_name("pair.cnf")
    pair.write_text(f"[client]\nuser = mailserver_b\npassword = {OLD}\n")
    # The next rotation locks it.
    change(alone, rotation={"method": "two_accounts", "accounts": ["mailserver", "mailserver_b"]})
    schema(db, OLD, "mailserver_b")
    good = dovecot.config_file.with_name("good.ext")
    good.write_text(f"connect = host={HOST} port={db.port} option_file={own}\n")
    with dovecot.config_file.open("a") as file:
        file.write(f"dict {{\n  quota = mysql:{good}\n}}\n")
    values = {"host": HOST, "port": db.port, "password": OLD, "own": own, "other": other, "pair": pair}
    text = dovecot.sql_file.read_text()
    dovecot.sql_file.write_text(re.sub(r"^connect = .*", lambda _: lines.format(**values), text, flags=re.MULTILINE))
    own.write_text('[client]\nuser="mailserver"\npassword="not the one"\n')
    dovecot.restart()
    assert dovecot.login(JOHN, MAIL_PASSWORD) == "ok", dovecot.log
    done = managed(alone)
    assert (done["result"], done["changes"]) == (False, {}), done
    assert f"{dovecot.sql_file} " in done["comment"] and OLD not in done["comment"]


def test_the_first_time_is_as_the_page_says(alone, db, dovecot):
    """docs/consumers.md, step by step, with this Dovecot's paths and the database's port."""
    password = "the password"
    schema(db, password)
    dovecot.configure(user="mailserver", password=password)
    take(alone, password)
    path = option_file(dovecot)
    path.unlink()
    install = pages.command("docs/consumers.md", "install -m 640")
    _, *lines = pages.command("docs/consumers.md", "editor /etc/dovecot").text.splitlines()
    subprocess.run(["sh", "-euc", install.text.replace("/etc/dovecot/ispmail.cnf", str(path))], check=True)
    path.write_text(textwrap.dedent("\n".join(lines)) + "\n")
    assert (path.group(), path.stat().st_mode & 0o777) == ("dovecot", 0o640)
    older = pages.block("docs/consumers.md", "**Dovecot 2.3**")
    newer = pages.block("docs/consumers.md", "**Dovecot 2.4**")
    block = newer if dovecot.new else older
    now = r"^mysql \S+ \{.*?^\}" if dovecot.new else r"^connect = [^\n]*"
    right = re.search(now, block.text, re.MULTILINE | re.DOTALL)[0].replace("/etc/dovecot/ispmail.cnf", str(path))
    host = f"{HOST} {{\n  port = {db.port}" if dovecot.new else f"{HOST} port={db.port}"
    right = right.replace(f"{HOST} {{" if dovecot.new else HOST, host)
    text = dovecot.sql_file.read_text()
    dovecot.sql_file.write_text(re.sub(now, lambda _: right, text, flags=re.MULTILINE | re.DOTALL))
    program, *arguments = pages.command("docs/consumers.md", "doveadm reload").words
    subprocess.run([program, "-c", dovecot.config_file, *arguments], check=True)
    assert wait_until(lambda: dovecot.login(JOHN, MAIL_PASSWORD) == "ok", 20), dovecot.log
    would = managed(alone, test=True)
    assert (would["result"], would["changes"]) == (True, {}), would
    assert dovecot.login(JOHN, MAIL_PASSWORD) == "ok"


def test_could_not_tell_is_an_error(alone, dovecot, mail):
    # Dovecot 2.4 reads nothing without its versions.
    lines = dovecot.config_file.read_text().splitlines(keepends=True)
    versions = [line for line in lines if re.match("dovecot_(config|storage)_version", line)]
    dovecot.config_file.write_text("passdb {\n")
    done = managed(alone)
    assert done["result"] is False and "doveconf failed" in done["comment"], done["comment"]
    # What doveconf cannot use it quotes: a password in the wrong line.
    for setting, kind in {"mail_max_userip_connections": "Invalid number", "ssl": "Invalid value"}.items():
        dovecot.config_file.write_text(f"{''.join(versions)}{setting} = S3cretPw9\n")
        comment = managed(alone)["comment"]
        # Dovecot 2.4 tells the setting too.
        assert f"{dovecot.config_file} line {len(versions) + 1}: " in comment, comment
        assert f": {kind}: run doveconf -n -c " in comment and "S3cretPw9" not in comment, comment
    change(alone, consumers={"dovecot": {**consumer_of(dovecot), "config_file": str(mail / "none.conf")}})
    assert "doveconf failed" in managed(alone)["comment"]


def test_a_login_that_the_database_refuses(alone, db, dovecot):
    """What is to be written is tried first: a wrong password in pillar changes nothing."""
    before = option_file(dovecot).read_bytes()
    take(alone, NEW)
    for test in (True, False):
        done = managed(alone, test=test)
        assert done["result"] is False and "log in as before" in done["comment"], done["comment"]
        assert NEW not in done["comment"]
    assert option_file(dovecot).read_bytes() == before
    db.stop()
    try:
        done = managed(alone)
        assert done["result"] is False and "login of the consumers" in done["comment"]
    finally:
        db.start()
    assert option_file(dovecot).read_bytes() == before


@pytest.mark.parametrize("text", ["# nobody but root\n", "", "[mysqldump]\n", "root:*:19000:0:99999:7:::\n"])
def test_a_file_without_the_group_is_somebody_elses(alone, dovecot, text):
    """It was: a file of comments became an option file, without a copy."""
    path = option_file(dovecot)
    path.write_text(text)
    for test in (True, False):
        done = managed(alone, test=test)
        assert done["result"] is False and "is there and has no group [client]" in done["comment"], done["comment"]
    assert path.read_text() == text


def test_settings_of_others_in_the_option_file(alone, dovecot):
    path = option_file(dovecot)
    path.write_text(path.read_text() + f"[mysqldump]\nhost={NEW}\n")
    done = managed(alone)
    assert done["result"] is False and "[mysqldump] host too, which would be lost" in done["comment"], done["comment"]
    assert NEW not in done["comment"]


def test_a_change_without_postfix_that_was_cut_off(alone, dovecot, monkeypatch):
    """The next apply finishes it: there is no Postfix that could be asked or reloaded."""
    monkeypatch.setattr(_ispmail_postfix, "installed", lambda: False)
    path = option_file(dovecot)
    left = path.with_name(f".{path.name}.new")
    path.unlink()
    managed(alone)
    journal = Journal(alone.pillar["ispmail"]["postfix"]["config_directory"], str(alone.cache))
    left.write_text(f"password={NEW}\n")
    with journal.locked():
        journal.write([str(path)])
    done = managed(alone)
    assert done["result"] is True, done["comment"]
    assert not left.exists() and journal.due() is None


def test_the_formula_installs_postfix_only_for_maps(alone):
    def installed():
        shown = alone.call("state.show_sls", "ispmail.packages")
        return [name for state in shown.values() for part in state["pkg"] if "pkgs" in part for name in part["pkgs"]]

    change(alone, packages=True)
    assert "postfix" not in installed()
    change(alone, maps={**NO_MAPS, "virtual_alias_maps": {}})
    assert {"postfix", "postfix-mysql"} <= set(installed())
    change(alone, maps={})
    assert {"postfix", "postfix-mysql"} <= set(installed())


def test_all_faults_at_once(alone):
    change(alone, database={"passwort": "x"}, consumers={"dovecot": {"option_file": "x"}, "y": {}})
    done = managed(alone)
    assert done["result"] is False
    for key in ("database:passwort", "database:password", "consumers:dovecot:option_file", "consumers:y"):
        assert f"- ispmail:{key} " in done["comment"], done["comment"]


def test_a_server_without_maps_takes_part_in_a_rotation(alone, db, dovecot, monkeypatch):
    nonce = "0123456789abcdef"
    assert set(alone.call("postfix_map.fingerprints", nonce)["live"]) == {"consumer:dovecot"}
    take(alone, NEW)
    said = alone.call("postfix_map.fingerprints", nonce)
    assert said["live"]["consumer:dovecot"] not in (None, said["pillar"]["consumer:dovecot"])
    assert alone.call("postfix_database.credential_accepted")["changes"]
    done = alone.apply("ispmail.drained")
    assert all(state["result"] for state in done.values()), done
    assert {"postfix_map.managed", "postfix_map.consumers", "postfix_map.drained"} <= set(done)
    said = alone.call("postfix_map.fingerprints", nonce)
    assert said["live"] == said["pillar"] and len(said["live"]) == 1
    assert alone.call("postfix_database.refused") == []
    assert alone.call("postfix_database.credential_sole")["changes"]
    assert dovecot.restart().login(JOHN, MAIL_PASSWORD) == "ok"
    # Somebody else changes the password: the login in the option file is refused.
    set_password(db, "another")
    (refused,) = alone.call("postfix_database.refused")
    assert (refused["maps"], refused["user"]) == (["consumer:dovecot"], "mailserver")
    monkeypatch.setattr(_ispmail_postfix, "installed", lambda: False)
    done = alone.apply("ispmail.clean")["postfix_map.absent"]
    assert done["result"] is True and f"{option_file(dovecot)} was left" in done["comment"], done["comment"]
    assert option_file(dovecot).exists(), "Dovecot still logs in by it"


def rotate(minion, db, password):
    """A rotation of one server, step by step; what failed."""
    take(minion, password)
    assert minion.call("postfix_database.credential_accepted")["changes"]
    done = minion.apply("ispmail.drained")
    assert minion.call("postfix_database.credential_sole")["changes"]
    return [state["comment"] for state in done.values() if state["result"] is not True]


def test_rotations_under_load(db, dovecot, postfix, mail):
    """Case: a rotation dropped a password that Dovecot still had. 0 failed RCPTs, logins and deliveries."""
    sections = {"postfix": {"config_directory": str(postfix.config_directory)}, "maps": {}}
    minion = Minion(mail / "minion", {"ispmail": section(db, OLD, **sections)})
    change(minion, consumers={"dovecot": consumer_of(dovecot)})
    assert all(state["result"] for state in minion.apply("ispmail").values())
    rcpts = Load(postfix.port, {"jack@example.org": 250, JOHN: 250, "nobody@example.org": 550}, rate=50)
    with rcpts, MailLoad(dovecot.imap_port, dovecot.lmtp_port, JOHN, MAIL_PASSWORD) as load:
        for number in range(5):
            assert rotate(minion, db, f"{NEW}{number}") == []
            time.sleep(1)
        report, counts = rcpts.stop(), load.counts()
    assert counts["failed logins"] == counts["failed mails"] == report.failed == 0, (counts, report.failures[:3])
    assert counts["logins"] > 50 and counts["mails"] > 20 and report.count > 100
    down = time.monotonic()
    with MailLoad(dovecot.imap_port, dovecot.lmtp_port, JOHN, MAIL_PASSWORD) as load:
        db.restart()
        up = time.monotonic()
        assert wait_until(lambda: dovecot.login(JOHN, MAIL_PASSWORD) == "ok", 60)
        time.sleep(3)
    late = [each for each in load.done if each.result != "ok" and not down <= each.at <= up + 1]
    assert not late, late[:3]


def test_what_a_rotation_did_to_dovecot_before(db, mail):
    """The guide's own set-up, with the password in Dovecot's configuration: after the drop nobody can log in."""
    with Dovecot(mail / "dovecot", db.port, user="mailserver", password=OLD) as dovecot:
        assert dovecot.login(JOHN, MAIL_PASSWORD) == "ok"
        set_password(db, NEW)
        assert dovecot.login(JOHN, MAIL_PASSWORD) == "ok", "its connections live on"
        dovecot.restart()
        assert dovecot.login(JOHN, MAIL_PASSWORD, timeout=5) != "ok"
        assert dovecot.deliver(JOHN, timeout=5) != "ok"


def test_a_failed_change_puts_the_option_file_back(db, dovecot, postfix, mail, monkeypatch):
    """Table files and option file are one change: all of it, or nothing."""
    sections = {"postfix": {"config_directory": str(postfix.config_directory)}, "maps": {}}
    minion = Minion(mail / "minion", {"ispmail": section(db, OLD, **sections)})
    change(minion, consumers={"dovecot": consumer_of(dovecot)})
    assert managed(minion)["result"] is True
    path = option_file(dovecot)
    before, since = path.read_bytes(), path.stat().st_ctime_ns
    schema(db, NEW)
    take(minion, NEW)
    # Asked from memory the new table answers; a proxymap in a chroot cannot open its file.
    services = postfix.master_cf.read_text()
    write_cold(postfix.master_cf, re.sub(r"(?m)^(proxymap\s+unix\s+\S+\s+\S+\s+)n", r"\1y", services))
    change(minion, maps={"virtual_alias_maps": {"proxy": True}})
    done = managed(minion)
    assert done["result"] is False and "put back" in done["comment"], done["comment"]
    assert path.read_bytes() == before
    assert path.stat().st_ctime_ns > since, "it was never replaced, so nothing was put back"


WEBMAIL = """
{%- set password = salt['pillar.get']('ispmail:database:password') %}
The webmail has its configuration:
  file.managed:
    - name: PATH
    - contents: "$config['db'] = 'mysql://mailserver:WRITTEN@127.0.0.1/mailserver';"
    - show_changes: False
"""


@pytest.fixture
def webmail(db, mail):
    """A minion of a server with a webmail whose configuration an SLS of the admin writes, and the function to call."""
    path, tree = mail / "db.php", mail / "salt"
    (tree / "webmail").mkdir(parents=True)
    consumers = {"webmail": {"sls": "webmail.config", "holds": [str(path)], "programs": ["php-fpm8.2"]}}
    pillar = {"ispmail": section(db, "a b/c#1", consumers=consumers)}
    minion = Minion(mail / "minion", pillar, file_roots={"base": [*FILE_ROOTS, str(tree)]})
    set_password(db, "a b/c#1")

    def apply(written="{{ password | urlencode }}", **options):
        text = WEBMAIL.replace("PATH", str(path)).replace("WRITTEN", written)
        (tree / "webmail" / "config.sls").write_text(text)
        return minion.apply("ispmail", **options)

    apply.minion, apply.path = minion, path
    return apply


def test_an_sls_of_the_admin_writes_the_password(webmail):
    would = webmail(test=True)
    assert {would[name]["result"] for name in ("file.managed", "postfix_map.consumers")} == {None}
    done = webmail()
    assert all(state["result"] for state in done.values()), done
    assert b"mailserver:a%20b" in webmail.path.read_bytes()
    order = [done[name]["__run_num__"] for name in ("postfix_map.managed", "file.managed", "postfix_map.consumers")]
    assert order == sorted(order)
    said = webmail.minion.call("postfix_map.fingerprints", "0123456789abcdef")
    assert said["live"] == said["pillar"] and list(said["live"]) == ["consumer:webmail"]


def test_an_sls_that_forgets_the_password(webmail):
    done = webmail(written="another")["postfix_map.consumers"]
    assert done["result"] is False and "does not hold the password that pillar has" in done["comment"]
    assert f"holds: {webmail.path} " in done["comment"] and "see what webmail.config writes" in done["comment"]
    assert "a b/c#1" not in done["comment"]
    said = webmail.minion.call("postfix_map.fingerprints", "0123456789abcdef")
    assert said["live"] == {"consumer:webmail": None}
    webmail.path.unlink()
    assert ["is not there" in reason for reason in webmail.minion.call("postfix_map.consumers")] == [True]


@pytest.mark.parametrize("name", ["ispmail", "ispmail.maps", "ispmail.consumers", ".maps"])
def test_an_sls_of_the_formula_is_refused(webmail, name):
    """It would wait for itself: Salt said "Recursive requisites were found", and not where."""
    change(webmail.minion, consumers={"webmail": {"sls": name, "holds": [str(webmail.path)]}})
    for test in (True, False):
        done = webmail(test=test)["postfix_map.managed"]
        fix = "name the one of yours that writes the files in holds"
        assert done["result"] is False
        assert (
            f"ispmail:consumers:webmail:sls is an SLS of this formula, which would wait for itself: {fix}"
            in (done["comment"])
        )


def test_the_sls_waits_for_the_maps(webmail):
    """A password that does not work reaches no program."""
    change(
        webmail.minion,
        consumers={"x": {"option_file": "/nowhere/x.cnf"}, **webmail.minion.pillar["ispmail"]["consumers"]},
    )
    done = webmail()
    assert done["postfix_map.managed"]["result"] is False
    assert done["file.managed"]["result"] is False and not webmail.path.exists()


def test_a_consumer_that_may_break(webmail):
    webmail(written="another")
    change(webmail.minion, consumers={"old": {"holds": [str(webmail.path)], "ignore": True}})
    assert webmail.minion.call("postfix_map.consumers") == []
    assert webmail.minion.call("postfix_map.fingerprints", "0123456789abcdef") == {"pillar": {}, "live": {}}


def test_no_secret_in_logs(alone, db, dovecot, webmail):
    """Whatever is applied or refused: no log of the minion has a password."""
    managed(alone)
    take(alone, NEW)
    managed(alone)
    webmail()
    webmail(written="another")
    for minion, secret in ((alone, OLD), (alone, NEW), (webmail.minion, "a b/c#1")):
        assert secret not in minion.log_file.read_text() if minion.log_file.exists() else True
