"""A Galera cluster of two MariaDBs on loopback, see its documentation at mariadb.com/kb/en/galera-cluster."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import HOST, START_SECONDS, free_port, wait_until
from lab.mariadb import MariaDB

PROVIDER = Path("/usr/lib/galera/libgalera_smm.so")


@contextlib.contextmanager
def galera(directory: Path) -> Iterator[list[MariaDB]]:
    """Two nodes, both for reads and writes.

    They begin as a cluster that was switched off: with equal data, each knows the other, and nothing is copied.
    RuntimeError where they do not find each other.
    """
    if not PROVIDER.exists():
        raise RuntimeError("Galera needs: apt-get install galera-4")
    ports, names, state = [free_port(), free_port()], sorted(str(uuid.uuid1()) for _ in range(2)), uuid.uuid1()
    peers = ",".join(f"{HOST}:{port}" for port in ports)
    nodes = []
    for number, (port, name) in enumerate(zip(ports, names)):
        provider = f"gmcast.listen_addr=tcp://{HOST}:{port};ist.recv_addr={HOST}:{free_port()};gcache.size=8M"
        options = ["--wsrep-on=ON", f"--wsrep-provider={PROVIDER}", f"--wsrep-provider-options={provider}"]
        options += [f"--wsrep-cluster-address=gcomm://{peers}", f"--wsrep-node-address={HOST}:{port}"]
        options += ["--wsrep-sst-method=skip", "--binlog-format=ROW", "--innodb-autoinc-lock-mode=2"]
        node = MariaDB(directory / str(number), options=options)
        node.directory.mkdir(parents=True)
        data = node.directory / "data"
        subprocess.run(["cp", "-a", node.template(), data], check=True)
        (data / "grastate.dat").write_text(f"version: 2.1\nuuid: {state}\nseqno: 1\nsafe_to_bootstrap: 0\n")
        members = "".join(f"member: {each} 0\n" for each in names)
        view = f"#vwbeg\nview_id: 3 {names[0]} 2\nbootstrap: 0\n{members}#vwend\n"
        (data / "gvwstate.dat").write_text(f"my_uuid: {name}\n{view}")
        nodes.append(node)
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.callback(node.stop)
        # None of them answers before both are there.
        with ThreadPoolExecutor() as pool:
            list(pool.map(MariaDB.start, nodes))
        if not wait_until(lambda: all(map(_is_synced, nodes)), START_SECONDS):
            raise RuntimeError("the nodes of Galera do not find each other")
        yield nodes


def _is_synced(node: MariaDB) -> bool:
    status = dict(node.sql("SHOW STATUS LIKE 'wsrep_%'"))
    return (status["wsrep_local_state_comment"], status["wsrep_cluster_size"]) == ("Synced", "2")
