"""Values for the tests of the doctor."""

from _ispmail_config import Instance, Map
from _ispmail_config_database import AdminLogin, DatabaseConfig
from _ispmail_doctor_postfix import LiveMap, Postfix, Target
from _ispmail_inventory import Inventory, Settings


def database(host=None, create_tables=True, hosts=(), user="mailserver", max_age=None):
    socket = None if host else "/"
    return DatabaseConfig(
        "ispmail",
        user,
        None,
        "mailserver",
        hosts,
        create_tables,
        AdminLogin("root", None, socket, host),
        max_age=max_age,
    )


def target(
    prefix="", answers=(), tables=None, accounts=None, others=None, pair=None, own_server=True, changes=dict, **config
):
    """`admin_view` gives the tables, accounts, others and pair."""
    return Target(
        instance=Instance("ispmail", "/etc/postfix", ()),
        prefix=prefix,
        database=database(**config),
        own_server=own_server,
        names_socket=False,
        hosts=(),
        has_consumers=False,
        answers=answers,
        changes=changes,
        admin_view=lambda: {
            "login_plugins": ["mysql_native_password"],
            "tables": tables or {},
            "accounts": accounts or {},
            "pair": pair or {},
            "others": others or {},
        },
    )


NOTHING = Inventory(Settings("/etc/postfix", {}, frozenset()), (), (), (), {})


def live_map(
    name="virtual_alias_maps", limit=100, proxy=False, chroot=False, mode=0o640, type_="mysql", of=None, **keys
):
    of = of or target()
    map_ = Map(name, name, type_, proxy, f"/etc/postfix/{name}.cf")
    directory = "/var/spool/postfix" if chroot and not proxy else None
    return LiveMap(f"{of.prefix}{name}", map_, keys, mode, directory, Postfix(of, NOTHING, limit, "postfix"))
