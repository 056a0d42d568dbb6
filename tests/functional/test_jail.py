"""What postmap sees and a chrooted smtpd does not: an apply must not be fooled by it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import scratch
from lab.mariadb import MariaDB, schema
from lab.minion import Minion

from ..conftest import PASSWORD, pillar_for
from .test_apply import ANSWERED, contents, managed, replies


def openssl(directory, *arguments):
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates():
    """A CA, and a certificate of 127.0.0.1 by it; and another CA that has nothing to do with either."""
    with scratch() as directory:
        for name in ("ca", "other"):
            subject = f"/CN={name}"
            new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3")
            openssl(directory, *new, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", subject)
        openssl(
            directory, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "db.key", "-out", "db.csr", "-subj", "/CN=db"
        )
        (directory / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
        sign = ("x509", "-req", "-in", "db.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3")
        openssl(directory, *sign, "-out", "db.pem", "-extfile", "extensions")
        yield directory


@pytest.fixture(scope="module")
def tls_mariadb(certificates):
    """A MariaDB that lets the account in over TLS only."""
    options = [
        f"--ssl-{key}={certificates}/{file}" for key, file in (("ca", "ca.pem"), ("cert", "db.pem"), ("key", "db.key"))
    ]
    with scratch() as directory, MariaDB(directory / "db", options=options) as server:
        schema(server, PASSWORD)
        server.sql("ALTER USER mailserver@'127.0.0.1' REQUIRE SSL")
        yield server


@pytest.fixture
def tls_minion(postfix, tls_mariadb, certificates):
    database = {"tls_CAfile": str(certificates / "ca.pem"), "tls_verify_cert": True}
    with scratch() as directory:
        yield Minion(directory, pillar_for(postfix, tls_mariadb, database=database))


def in_jail(postfix, path):
    return postfix.queue_directory / path.relative_to("/")


def test_a_ca_file_outside_the_jail_is_refused(tls_minion, postfix, certificates):
    """smtpd reads it when it connects, in its chroot: postmap answers, and every RCPT is a 451."""
    before = contents(postfix)
    result = managed(tls_minion)
    assert result["result"] is False
    jailed = in_jail(postfix, certificates / "ca.pem")
    said = f"ispmail:database:tls_CAfile is read inside the chroot {postfix.queue_directory}, and {jailed} is not there"
    assert said in result["comment"]
    assert contents(postfix) == before
    jailed.parent.mkdir(parents=True)
    shutil.copy(certificates / "ca.pem", jailed)
    assert managed(tls_minion)["result"] is True
    assert replies(postfix) == ANSWERED


def test_proxymap_needs_nothing_in_the_jail(tls_minion, postfix):
    maps = ("virtual_mailbox_domains", "virtual_alias_maps", "virtual_mailbox_maps")
    pillar = tls_minion.pillar
    pillar["ispmail"]["maps"] = {name: {"proxy": True} for name in maps}
    tls_minion.pillar = pillar
    result = managed(tls_minion)
    assert result["result"] is True, result["comment"]
    assert replies(postfix) == ANSWERED


def test_another_file_in_the_jail_is_seen(tls_minion, postfix, certificates):
    """The jail's CA file is another: postmap as root answered, smtpd did not."""
    jailed = in_jail(postfix, certificates / "ca.pem")
    jailed.parent.mkdir(parents=True)
    shutil.copy(certificates / "other.pem", jailed)
    before = contents(postfix)
    result = managed(tls_minion)
    assert result["result"] is False
    assert "Nothing was changed" in result["comment"] and "certificate" in result["comment"]
    assert contents(postfix) == before
    assert replies(postfix) == dict.fromkeys(ANSWERED, 554)


def faults_of(minion):
    """What the doctor says of maps that cannot be asked."""
    rows = minion.call("postfix_doctor.check")
    return [row["fix"] for row in rows if row["result"] == "fault" and row["check"] == "Postfix can ask the map"]


@pytest.mark.parametrize("of", ["socket", "directory"])
@pytest.mark.parametrize("running", [True, False])
def test_a_link_in_the_jail_does_not_lead_out_of_it(minion, postfix, pillar, mariadb, by_socket, of, running):
    """As by ln -s /run/mysqld: followed from outside, all was in order, and each mail got 451."""
    path = Path(mariadb.socket) if of == "socket" else Path(mariadb.socket).parent
    link = in_jail(postfix, path)
    link.parent.mkdir(parents=True)
    link.symlink_to(path)
    minion.pillar = pillar(database={"hosts": by_socket})
    before = contents(postfix)
    if not running:
        postfix.stop()
    result = managed(minion)
    assert result["result"] is False
    said = f"inside the chroot {postfix.queue_directory}, and {link}->{path} is not there"
    assert said in result["comment"] and "a link does not lead out of the chroot" in result["comment"]
    assert contents(postfix) == before
    # What is there itself is used, by a link that leads to it in the jail only too.
    link.unlink()
    elsewhere = postfix.queue_directory / "elsewhere"
    elsewhere.mkdir()
    os.link(mariadb.socket, elsewhere / Path(mariadb.socket).name)
    link.symlink_to(f"/elsewhere/{Path(mariadb.socket).name}" if of == "socket" else "/elsewhere")
    result = managed(minion)
    assert result["result"] is True, result["comment"]
    postfix.start()
    assert replies(postfix) == ANSWERED
    assert faults_of(minion) == []
    link.unlink()
    link.symlink_to(path)
    assert all(f"{link}->{path}" in each and "none leads out of a chroot" in each for each in faults_of(minion))
    assert faults_of(minion)


def test_a_ca_file_by_a_link_is_the_one_that_smtpd_opens(tls_minion, postfix, certificates):
    jailed = in_jail(postfix, certificates / "ca.pem")
    jailed.parent.mkdir(parents=True)
    jailed.symlink_to(certificates / "ca.pem")
    result = managed(tls_minion)
    assert result["result"] is False and f"{jailed}->{certificates}/ca.pem is not there" in result["comment"]
    jailed.unlink()
    # Outside there is no such file.
    jailed.symlink_to("/only-in-jail/ca.pem")
    (postfix.queue_directory / "only-in-jail").mkdir()
    shutil.copy(certificates / "ca.pem", postfix.queue_directory / "only-in-jail")
    result = managed(tls_minion)
    assert result["result"] is True, result["comment"]
    assert replies(postfix) == ANSWERED


def test_certificates_by_links_are_those_that_smtpd_opens(tls_minion, postfix, certificates):
    """cp -a /etc/ssl/certs copies links to the files of another directory, which the jail does not have."""
    folder = certificates / "hashed"
    folder.mkdir()
    (folder / "ca.pem").symlink_to(certificates / "ca.pem")
    openssl(folder, "rehash", ".")
    jailed = in_jail(postfix, folder)
    shutil.copytree(folder, jailed, symlinks=True)
    tls_minion.pillar = {
        "ispmail": {
            **tls_minion.pillar["ispmail"],
            "database": {**tls_minion.pillar["ispmail"]["database"], "tls_CAfile": "", "tls_CApath": str(folder)},
        }
    }
    before = contents(postfix)
    result = managed(tls_minion)
    assert result["result"] is False and contents(postfix) == before
    assert "certificate" in result["comment"] and "no link leads out of a chroot" in result["comment"]
    shutil.copy(certificates / "ca.pem", in_jail(postfix, certificates / "ca.pem"))
    result = managed(tls_minion)
    assert result["result"] is True, result["comment"]
    assert replies(postfix) == ANSWERED
    assert faults_of(tls_minion) == []
    in_jail(postfix, certificates / "ca.pem").unlink()
    assert faults_of(tls_minion)


def test_what_only_smtpd_cannot_use_is_undone(minion, postfix, pillar):
    """postmap takes any answer; to smtpd this one is no action, and each RCPT would be 451."""
    postfix.write_main_cf(ours="inline:{a=OK}", smtpd_client_restrictions="check_client_access $ours, permit")
    assert managed(minion)["result"] is True
    before = contents(postfix)
    query = "SELECT 'no_such_action' FROM virtual_domains WHERE '%s' = '127.0.0.1'"
    minion.pillar = pillar(maps={"ours": {"query": query}})
    result = managed(minion)
    assert result["result"] is False
    assert f"smtpd on 127.0.0.1:{postfix.port} can no longer ask its maps, though postmap can (451" in result["comment"]
    assert "Everything was put back as it was" in result["comment"]
    assert contents(postfix) == before
    assert replies(postfix) == ANSWERED
