"""Prepare and check the database that Postfix's maps read, and change its login, see mysql_table(5).

It is a MariaDB, a MySQL or, if the maps are of type pgsql, a PostgreSQL. Passwords reach the server as hashes that are
computed here: its logs never hold a password.
"""

import logging

import _ispmail_stamp

_ispmail_stamp.require("a425983357b9")

import _ispmail_applied
import _ispmail_holders
import _ispmail_logins
import _ispmail_salt
import _ispmail_servers
from _ispmail_errors import Failed
from _ispmail_holders import Site
from _ispmail_salt import cache_folder, for_salt

log = logging.getLogger(__name__)


@for_salt
def read(pillar="ispmail"):
    """
    Read what there is on the database server, without secrets.

    pillar : ispmail
        The pillar key that holds the configuration.

    Returns a dict: ``server`` (its version), ``database`` (its name, None where there is none), ``tables`` (table to a
    list of what it is missing, ``table`` for all of it), ``accounts`` (``user@host``, all hosts of the maps' user,
    to a dict of ``managed``, ``grants``, ``plugins``, ``passwords``, how many are accepted, ``locked``,
    ``age``, of the password in seconds, None where the server does not know it, as a PostgreSQL, and ``expires``, None
    or a dict of ``seconds`` from now and ``date``), ``pair`` (``user@host`` of the other account of a
    pair to a dict of ``locked`` and ``connections``), ``others`` (``user@host`` of other accounts
    that may read all of the maps' tables, to a dict of ``drop``, a statement, and ``connections``, how many there are
    now from each host, None where the admin may not see that), and ``refused_logins`` (of all accounts, since the
    server's start; None where it does not count them, as a MySQL).

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where the server cannot be asked.

    A PostgreSQL's accounts are roles, named without a host.

    Source: SHOW GRANTS, information_schema, mysql.global_priv, pg_authid

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.read
    """
    config = _ispmail_salt.database(__pillar__, __opts__, pillar)
    return _ispmail_servers.of(config).read(config)


@for_salt
def tables(pillar="ispmail", test=False):
    """
    Create the database and the guide's tables, with the indexes that the maps need. Existing tables get only what they
    are missing, and keep their data. Tables in utf8mb3 are converted to utf8mb4: in utf8mb3 any sender can make the
    maps' queries fail.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done.

    Returns a dict: ``changes`` (``database``, or a table, to what is new) and ``warnings`` (a list of sentences).

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where the server refuses.

    Source: CREATE TABLE, ALTER TABLE, CREATE INDEX, the ISPmail guide

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.tables test=True
    """
    config = _ispmail_salt.database(__pillar__, __opts__, pillar)
    return _ispmail_servers.of(config).tables(config, test)


@for_salt
def account(pillar="ispmail", test=False):
    """
    Create the maps' account with pillar's password that never expires, and have it SELECT on the database. An account
    that exists keeps its password; its other rights are revoked only with ``server:revoke_other_grants``, and are in
    ``warnings`` either way, with the hosts that are connected as that user now. One of two accounts also gets the
    rights, the demands and the limits of the other one, which is dropped once ``rotation:keep`` is over.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done.

    Returns a dict: ``changes`` (``user@host`` to what changed, secrets as ``***``) and ``warnings`` (a list of
    sentences).

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where the server refuses; the text says which
    accounts are done.

    Source: CREATE USER, CREATE ROLE, GRANT, REVOKE, DROP USER, DROP ROLE

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.account test=True
    """
    config = _ispmail_salt.database(__pillar__, __opts__, pillar, password_needed=True)
    return _noted(_ispmail_servers.of(config).account(config, test), pillar, test)


@for_salt
def credential_accepted(pillar="ispmail", test=False):
    """
    Have the account accept pillar's password, as the first one, beside those that it accepts now. Clients that use an
    old password notice nothing, and the old password itself need not be known.

    With ``rotation:method: two_accounts``: make pillar's user, or give it the password and unlock it, with the rights
    of the other account, which stays as it is.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done.

    Returns a dict: ``changes`` (``user@host`` to ``password``, ``***``, and ``passwords``, how many are accepted; for
    two accounts to ``account``, ``password``, ``locked`` and ``grants``, as far as they change) and ``warnings`` (a
    list of sentences).

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where the account does not exist, logs in by
    a plugin that smtpd's chroot does not have, or, on a MySQL, which keeps one old password, accepts two others
    already; and where pillar's user of two accounts is not locked and has another password. Nothing is changed then.

    Source: ALTER USER … IDENTIFIED VIA … OR … (MariaDB), … RETAIN CURRENT PASSWORD (MySQL), … ACCOUNT UNLOCK,
    ALTER ROLE … PASSWORD (PostgreSQL)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.credential_accepted test=True
    """
    config = _ispmail_salt.database(__pillar__, __opts__, pillar, password_needed=True)
    return _noted(_ispmail_servers.of(config).credential(config, "accept", test), pillar, test)


@for_salt
def credential_sole(pillar="ispmail", test=False):
    """
    Have the account accept pillar's password only. It has to accept that already, as the first one.

    With ``rotation:method: two_accounts``: lock the other account. Connections that it has open go on. Once it has been
    locked for as long as ``rotation:keep`` says, drop it; what keeps it from that is in ``warnings``.

    pillar : ispmail
        The pillar key that holds the configuration.

    test : False
        Whether only to tell what would be done.

    Returns a dict as ``credential_accepted`` does.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where the account does not exist, or does not
    accept pillar's password: clients that use another one would be locked out.

    Source: ALTER USER … IDENTIFIED VIA (MariaDB), … DISCARD OLD PASSWORD (MySQL), … ACCOUNT LOCK,
    ALTER ROLE … NOLOGIN (PostgreSQL), DROP USER, DROP ROLE

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.credential_sole test=True
    """
    config = _ispmail_salt.database(__pillar__, __opts__, pillar, password_needed=True)
    return _ispmail_servers.of(config).credential(config, "sole", test)


@for_salt
def refused(pillar="ispmail"):
    """
    List the logins in the live table files and option files that the database refuses. A database that is down or
    silent has not refused. Whatever the servers do, the answer is there within three seconds.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are looked at too.

    Returns a list of dicts: ``host`` and ``user``; ``maps``, the names of those that log in so (with the pillar key
    before it, for another instance; ``consumer:dovecot`` for a consumer); and ``changed``, when the newest of their
    files did, in ns since 1970.

    Raises SaltInvocationError for faults in pillar, CommandExecutionError where a table file cannot be read, not all
    logins could be tried in time, or Salt's Python has no PyMySQL for a map that needs it.

    Source: mysql_table(5), pgsql_table(5)

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.refused
    """
    found = _ispmail_salt.instances(__pillar__, pillar)
    consumers = [_ispmail_salt.consumer_logins(__pillar__, key) for key in found]
    return _ispmail_logins.refused(found, pillar, consumers)


@for_salt
def holders(site_hosts=None, search="all", pillar="ispmail", connections=()):
    """
    Find who else holds the password of the maps' account, or is connected by it, and that pillar does not name:
    files below /etc, /usr/local and /var/spool/cron, files that an apply left with an older password, programs of this
    server, tables of Postfix, other servers.

    site_hosts : None
        On the database server: a list of the names and addresses of the site's servers. Its admin is asked then, and
        every other host that is connected is told.

    search : all
        Which passwords files are searched for: ``all`` that are in use on this server; only the ``old`` ones in use,
        which pillar does not have any more; or ``none``.

    pillar : ispmail
        The pillar key that holds the configuration; the ``instances`` that it names are included.

    connections : ()
        A list of connections of the other account of a pair, as the database server returned them: the programs of this
        server that own them are told too. This server cannot ask for them once it has the new login.

    Returns a dict: ``unnamed``, a list of dicts of ``kind`` (``file``, ``program``, ``table`` or ``server``),
    ``where`` (a path, in which backslashes stand for what cannot be printed; the name of a program, an address) and
    ``text`` (a sentence, with what to do); ``notes``, a list of sentences on what is not known; and
    ``connections``, where the admin was asked, and the other account of a pair has any: a list of addresses with ports.
    No secret is in them.

    Raises SaltInvocationError for faults in pillar or another argument, CommandExecutionError where this
    server or, with site_hosts, the database cannot be asked.

    Source: SHOW PROCESSLIST, pg_stat_activity, proc(5), sock_diag(7), postconf(1) -x

    CLI Example:

    .. code-block:: bash

        salt '*' postfix_database.holders
    """
    scope = _ispmail_salt.scope(__pillar__, __opts__, pillar, as_admin=site_hosts is not None)
    site = None if site_hosts is None else Site(site_hosts, _ispmail_servers.of(scope.database).listed)
    return _ispmail_holders.find(scope, site, search, connections).describe()


def _noted(done, pillar, test):
    """Write down when the account got its password: not every server keeps that."""
    if not test and any("password" in change for change in done["changes"].values()):
        try:
            _ispmail_applied.note(cache_folder(__opts__), pillar, _ispmail_applied.PASSWORD)
        except Failed as err:
            log.warning("how old the password is may not be known: %s", err)
    return done
