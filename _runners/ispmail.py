"""What the master does for ispmail: rotate once for many events, re-apply, and prove who uses which password."""

import contextlib
import fcntl
import os
import secrets

import salt.client
import salt.utils.minions
from salt.exceptions import CommandExecutionError, SaltInvocationError

_PING_SECONDS = 5
_NEEDED = ("database", "mail", "canary")


def rotate():
    """
    Rotate the password, once for however many ask at the same time: one rotation is
    under way, one waits for it, and who finds one waiting returns.

    Takes no arguments: ``ispmail:rotation`` in the master's configuration says who is who.

    Returns what ``state.orchestrate orch.rotate`` returns, or a sentence where another one does it.

    Raises SaltInvocationError where the configuration lacks something.

    Source: salt.runners.state.orchestrate

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.rotate
    """
    _rotation()
    return _once("rotate", lambda: __salt__["state.orchestrate"]("orch.rotate"))


def reapply():
    """
    Have every mail server apply what pillar has now. They do it once for however many ask.

    Takes no arguments: ``ispmail:rotation:mail`` in the master's configuration says who.

    Returns the job id.

    Raises SaltInvocationError where the configuration lacks something.

    Source: salt.modules.state.apply

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.reapply
    """
    rotation = _rotation("mail")
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        return client.cmd_async(rotation["mail"], "ispmail.reapply", tgt_type=rotation.get("tgt_type", "glob"))


def prove(timeout=60):
    """
    Prove that every mail server uses the password that the database server's pillar has,
    in every map, with no process left on another one.

    timeout : 60
        How many seconds to wait for a server's answer.

    Returns a dict: server to the number of its maps. Where it cannot be proved a list of sentences that name every
    server which is down, has another password in pillar or in a table file, or a process with an
    older one; the run then counts as failed.

    Raises SaltInvocationError where the configuration lacks something, CommandExecutionError
    where a target matches no server.

    Source: postfix_map.fingerprints

    CLI Example:

    .. code-block:: bash

        salt-run ispmail.prove
    """
    rotation = _rotation()
    kind = rotation.get("tgt_type", "glob")
    nonce = secrets.token_hex(16)
    check = salt.utils.minions.CkMinions(__opts__)
    left_out = set(rotation.get("without", []))
    with salt.client.get_local_client(__opts__["conf_file"]) as client:

        def ask(target, function, *arguments):
            expected = set(check.check_minions(rotation[target], kind)["minions"]) - left_out
            if not expected:
                raise CommandExecutionError(f"ispmail:rotation:{target} matches no server")
            # One that is down is waited for once, and shortly.
            here = client.cmd(sorted(expected), "test.ping", timeout=_PING_SECONDS, tgt_type="list")
            said = client.cmd(sorted(here), function, arguments, timeout=timeout, tgt_type="list") if here else {}
            return {server: said.get(server) for server in sorted(expected)}

        # A function that is called by itself sees pillar as it was at the last refresh.
        for target in ("database", "mail"):
            ask(target, "saltutil.refresh_pillar", True)
        accepted = ask("database", "postfix_map.fingerprints", nonce, False)
        servers = ask("mail", "postfix_map.fingerprints", nonce)
        processes = ask("mail", "postfix_map.old_processes")
    faults = _silent({**accepted, **servers}, dict) + _silent(processes, list)
    wanted = {value for said in accepted.values() if isinstance(said, dict) for value in said["pillar"].values()}
    if len(wanted - {None}) > 1:
        faults.append(f"{', '.join(accepted)}: pillar has not one password for all maps")
    for server, said in servers.items():
        for what, told in (("pillar", "pillar has"), ("live", "the table file has")):
            values = said[what].items() if isinstance(said, dict) else []
            others = [name for name, value in values if value is not None and value not in wanted]
            if others:
                faults.append(f"{server}: {told} another password for {', '.join(others)}")
    faults += [
        f"{server}: {process} still asks with an older table file"
        for server, said in processes.items()
        for process in (said if isinstance(said, list) else [])
    ]
    if faults:
        # An exception would come with Salt's traceback around it.
        __context__["retcode"] = 1
        return [
            "The old password is still accepted, for not every server is seen on the new one:",
            *dict.fromkeys(faults),
            "Mend that and rotate again, or name servers that are gone for good in ispmail:rotation:without.",
        ]
    return {server: len(said["live"]) for server, said in servers.items()}


def _silent(answers, kind):
    """Sentences on the servers that did not answer, or not what was asked."""
    return [
        f"{server}: {'does not answer' if said is None else said}"
        for server, said in answers.items()
        if not isinstance(said, kind)
    ]


def _rotation(*needed):
    rotation = __salt__["config.get"]("ispmail:rotation") or {}
    missing = [name for name in needed or _NEEDED if not rotation.get(name)]
    if missing:
        keys = ", ".join(f"ispmail:rotation:{name}" for name in missing)
        raise SaltInvocationError(f"the master's configuration lacks {keys}: see docs/master.conf")
    return rotation


def _once(name, function):
    """Run a function that reads its input anew; who comes while one waits to begin need not."""
    folder = os.path.join(__opts__["cachedir"], "ispmail")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(open(os.path.join(folder, f"{name}.running"), "a", encoding="ascii"))
        with open(os.path.join(folder, f"{name}.waiting"), "a", encoding="ascii") as waiting:
            try:
                fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "another one is about to begin"
            fcntl.flock(running, fcntl.LOCK_EX)
        return function()
