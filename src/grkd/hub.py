"""Whether the hub can be reached: without a network its clients try for most of a minute before they give up.

And what it refuses, in one line.
"""

import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

from grkd.console import console
from grkd.errors import UserError

_SECONDS = 5.0


def check_path(name: str, where: str = "") -> None:
    """Raises UserError for a path that is not there: it would be looked for on the hub.

    where: begins the message, such as "student.model: ".
    """
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_like_path and not Path(name).expanduser().exists():
        raise UserError(f"{where}{name}: no such folder, and a hub name has the form 'organisation/model'")


def look_for(name: str) -> None:
    """Before a hub name is loaded: if the hub is out of reach, only what was downloaded before is used, at once.

    Nothing happens for a path that is there, in the libraries' own offline mode, and behind a proxy.
    """
    if not Path(name).expanduser().exists():
        _offline_if_out_of_reach()


def folder_of(name: str) -> Path:
    """Where a model's files lie: the path itself, or what was downloaded of a hub name; nothing is fetched."""
    from huggingface_hub import snapshot_download

    path = Path(name).expanduser()
    if path.exists():
        return path
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):  # never downloaded, or no name of the hub
        return path


@contextmanager
def hub_errors(where: str, name: str, *, out_of_reach: str) -> Iterator[None]:
    """Raises what the hub or its client raises inside as a UserError of one line.

    where: begins the line. name: the repository. out_of_reach: ends the line where the hub does not answer.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError:
        raise UserError(f"{where}: not logged in; run `hf auth login`, or set HF_TOKEN") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        mend = (
            "check the token's rights (`hf auth login`) and the owner's name" if status in (401, 403) else "try again"
        )
        raise UserError(f"{where}: the hub refuses {name} ({_one_line(error)}); {mend}") from None
    except (HfHubHTTPError.__bases__[0], OSError) as error:  # the errors of whichever client the hub's library has
        raise UserError(f"{where}: the hub cannot be reached ({_one_line(error)}); {out_of_reach}") from None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + " ..."


@cache
def _offline_if_out_of_reach() -> None:
    from huggingface_hub import constants

    place = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or urllib.request.getproxies() or place.hostname is None:
        return
    if _answers(place.hostname, place.port or (80 if place.scheme == "http" else 443)):
        return
    os.environ["HF_HUB_OFFLINE"] = "1"  # of libraries that are imported later, and of processes that are started
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    text = f"{place.hostname} cannot be reached: only models and data that were downloaded before are used"
    console.print(f"[yellow]{text}[/yellow]", soft_wrap=True)


def _answers(host: str, port: int) -> bool:
    """Whether a connection is made in time; in a thread, since looking up a name has no limit of its own."""
    made: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_SECONDS).close()
        except OSError:
            return
        made.append(True)

    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return bool(made)
