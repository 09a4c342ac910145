"""`grkd watch`: the report page of a run while it goes on."""

import argparse
from pathlib import Path

SUMMARY = "serve the report page of an unfinished run"
DESCRIPTION = """\
Serve the report page of a run from this machine and keep it up to date: curves of the current training, and the table
as soon as a student is evaluated. Nothing is written into the run's folder. Ctrl-C ends it.

  grkd watch runs/mine                       # then open the printed address
  grkd watch runs/mine --port 9000 --every 5
  ssh -L 8765:localhost:8765 gpu-machine     # on your own machine, if the run is remote; then open localhost:8765

The page shows prompts and responses, so by default only this machine can open it; --host changes that.
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = command.add_argument
    add("run", type=Path, metavar="RUN", help="a run's folder, the recipe's output")
    add("--port", type=int, default=8765, metavar="N", help="port (default: 8765); 0: any free port")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1, only this machine")
    add("--every", type=int, default=10, metavar="SECONDS", help="how often the page refreshes (default: 10)")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    from grkd.errors import UserError

    if options.every < 1 or not 0 <= options.port < 65536:
        raise UserError(f"--every must be 1 or more and --port 0 to 65535, got {options.every} and {options.port}")
    if not options.host:
        raise UserError("--host is empty; 127.0.0.1 is this machine alone, 0.0.0.0 lets the network read the page")
    if not options.run.is_dir():
        raise UserError(f"{options.run}: no such folder; give the folder that a recipe's `output` names")
    from grkd.watching.server import WatchServer

    server = WatchServer(options.run, host=options.host, port=options.port, every_seconds=options.every)
    print(f"watching {options.run} at {server.url} (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        print("ended")
    finally:
        server.server_close()
    return 0
