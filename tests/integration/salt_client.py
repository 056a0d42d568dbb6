"""Runs in the Python of a Salt series, without anything of ours: take requests, one JSON a line, and answer them.

A request is a list of `local` (a minion's function), `runner` or `event`, a name, arguments and named arguments. The
answer has what it returned, in the text of each outputter too. With `listen FILE` it takes down the master's bus.
"""

import json
import sys
import traceback

import salt.client
import salt.config
import salt.output
import salt.runner
import salt.utils.event

OUTPUTTERS = (
    "nested",
    "highstate",
    "json",
    "yaml",
    "pprint",
    "raw",
    "txt",
    "key",
    "table",
    "no_return",
    "quiet",
    "progress",
)


def shown(returned, opts):
    """What each outputter makes of it; the text of its error where it cannot."""
    found = {}
    for name in OUTPUTTERS:
        try:
            found[name] = str(salt.output.out_format(returned, name, opts))
        except Exception:
            found[name] = traceback.format_exc()
    return found


def answer(opts, client, request):
    kind, name, arguments, options = request
    if kind == "local":
        returned = client.cmd("lab", name, arguments, kwarg=options, timeout=60, full_return=True)
        returned = returned.get("lab") or {}
    elif kind == "runner":
        returned = {"ret": salt.runner.RunnerClient(dict(opts)).cmd(name, arguments, kwarg=options, print_event=False)}
    else:
        bus = salt.utils.event.get_event("master", opts=opts, sock_dir=opts["sock_dir"], listen=False)
        returned = {"ret": bus.fire_event(options, name)}
    result = returned.get("ret") if isinstance(returned, dict) else returned
    return {"returned": result, "whole": repr(returned), "shown": shown({"lab": result}, opts)}


def listen(opts, path):
    with salt.utils.event.get_event("master", opts=opts, sock_dir=opts["sock_dir"], listen=True) as bus:
        bus.connect_pub()
        with open(path, "w") as file:
            print("ready", flush=True)
            while True:
                event = bus.get_event(wait=1, full=True)
                if event:
                    file.write(f"{event['tag']} {event['data']!r}\n")
                    file.flush()


def main():
    directory, what, *arguments = sys.argv[1:]
    opts = salt.config.client_config(directory + "/master")
    if what == "listen":
        listen(opts, *arguments)
        return
    client = salt.client.LocalClient(directory + "/master")
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            found = answer(opts, client, json.loads(line))
        except Exception:
            found = {"returned": None, "whole": traceback.format_exc(), "shown": {}}
        print(json.dumps(found, default=repr), flush=True)


if __name__ == "__main__":
    main()
