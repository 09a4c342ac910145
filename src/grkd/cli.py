"""The command line: grkd init | doctor | plan | run | compare | watch | report | eval | ..., each in `commands`."""

import argparse
import errno
import logging
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any

from grkd import __version__
from grkd.commands import COMMANDS
from grkd.errors import UserError, nearest, one_line
from grkd.files import full_disk

_TOGETHER = ("run", "compare", "cache")  # what several processes of a launch do together
_INTERRUPTED = "grkd: interrupted; the same command resumes"
_GRACE_SECONDS = 5.0  # in which a process that is to end may close its files


def parser() -> argparse.ArgumentParser:
    """The command line, with help that teaches."""
    top = argparse.ArgumentParser(
        prog="grkd",
        description="Train a small model to reproduce how a large one ranks candidates (knowledge distillation).",
        epilog="Start with `grkd demo`, or with your own data: init, doctor, plan, run, watch. "
        "A mistake in a recipe or file gives one line and exit status 2.",
    )
    top.add_argument("--version", action="version", version=f"grkd {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.declare(
            commands.add_parser(
                name,
                help=command.SUMMARY,
                description=command.DESCRIPTION,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return top


def _check_launch(command: str) -> None:
    """Raises UserError for a command whose processes would all do the same."""
    if _several() and command not in _TOGETHER:
        raise UserError(
            f"grkd {command} works in one process; start it without accelerate launch (which is for "
            f"{', '.join(_TOGETHER)})"
        )


class _Terminated(BaseException):
    """SIGTERM, as batch systems send it some seconds before they kill."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit status: 0 done, 1 a method failed, 2 a user's mistake, 130 interrupted, 143 terminated."""
    options = _parsed(argv)
    _quiet()
    before = _listen_for_sigterm()
    try:
        _check_launch(options.command)
        status = COMMANDS[options.command].run(options)
        print(end="", flush=True)
        return status
    except UserError as error:
        _say(f"grkd: error: {one_line(str(error))}")
        return 2
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to say, and no error
        return 0
    except KeyboardInterrupt:
        _say(_INTERRUPTED)
        return 130
    except _Terminated:
        _say("grkd: stopped by SIGTERM; the same command resumes")
        return 143
    except Exception as error:
        if _is_of_an_interrupt(error):
            _say(_INTERRUPTED)
            return 130
        message = _of_the_machine(error) or _of_the_launch(error)
        if message is not None:
            _say(f"grkd: error: {one_line(message)}")
            return 2
        if _reports():
            raise
        return 1  # another process has failed before, and this one lost its partner
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _say(line: str) -> None:
    """A line on standard error; of several processes of one launch the first that ends says it."""
    if _reports():
        print(line, file=sys.stderr)


def _reports() -> bool:
    if not _several():  # before the next import, which takes seconds
        return True
    from grkd.ranks import first_to_report

    return first_to_report()


def _several() -> bool:
    """Whether this process is one of several of a launch."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _listen_for_sigterm() -> Any:
    """Have SIGTERM end the command like an interrupt. Returns the handler before; None outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def terminate(*_: object) -> None:
        from multiprocessing import active_children

        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off what is being closed
        for child in active_children():
            if not child.daemon:  # of a comparison; leaving its pool would wait for their jobs
                child.terminate()
        raise _Terminated

    if _several():
        _end_although_blocked()
        threading.Thread(target=_end_with_launcher, args=(os.getppid(),), daemon=True).start()
    return signal.signal(signal.SIGTERM, terminate)


def _end_although_blocked() -> None:
    """End this process some seconds after SIGTERM, also while it waits for others in a collective of the GPU.

    There Python's handler never runs, and the launcher would wait for 30 s. The signal's number arrives on a pipe.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def wait() -> None:
        while os.read(reader, 1) != bytes([signal.SIGTERM]):
            pass
        time.sleep(_GRACE_SECONDS)
        os._exit(143)

    threading.Thread(target=wait, daemon=True).start()


def _end_with_launcher(launcher: int) -> None:
    """SIGTERM for this process when its launcher has died: nobody would end it, and the folder would stay locked."""
    while os.getppid() == launcher:
        time.sleep(_GRACE_SECONDS / 5)
    os.kill(os.getpid(), signal.SIGTERM)


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments; key=value words may also follow an option, where argparse by itself gives up."""
    top, words = parser(), sys.argv[1:] if argv is None else argv
    if any("\0" in word for word in words):
        top.error("an argument holds a NUL character")
    command = next((word for word in words if not word.startswith("-")), "")
    if command not in COMMANDS and (near := nearest(command, COMMANDS)):
        top.error(f"no command {command!r}; did you mean {near!r}?")
    options, rest = top.parse_known_args(argv)
    if rest and (
        options.command not in ("run", "compare", "doctor", "plan") or any(word.startswith("-") for word in rest)
    ):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _is_of_an_interrupt(error: BaseException) -> bool:
    """Whether an interrupt is behind an error: transformers makes a missing module of one that meets its imports."""
    chain = []
    while error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__ or error
    return any(isinstance(one, KeyboardInterrupt) for one in chain)


def _reader_has_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more; a broken pipe of anything else is an error."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # no file behind it
        return False
    if not hasattr(select, "poll"):
        return True  # Windows cannot tell
    poll = select.poll()
    poll.register(number, 0)  # errors and hang-ups are always reported
    return bool(poll.poll(0))


def _of_the_machine(error: Exception) -> str | None:
    """One line for a full disk, a path that cannot be or may not be written, in whatever exception; else None."""
    if isinstance(error, PermissionError):
        return f"{error.filename}: permission denied"
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return f"{error.filename}: {error.strerror}; delete or rename what is in the place of a file or folder of grkd"
    code = getattr(error, "errno", None)
    if full_disk(error):
        return "the disk is full; finished stages are kept, free some space and repeat the command"
    if code in (errno.ENAMETOOLONG, errno.EEXIST, errno.ELOOP, errno.ENOENT, errno.EIO) and error.filename is not None:  # type: ignore[attr-defined]
        return f"{str(error.filename)[:120]}: {error.strerror}"  # type: ignore[attr-defined]
    if code == errno.EROFS:
        return f"{getattr(error, 'filename', None)}: the file system is read-only"
    return None


def _of_the_launch(error: Exception) -> str | None:
    """One line for a process that lost the others in the middle of a collective operation; else None."""
    text = str(error)
    lost = "gloo" in text and ("by peer" in text or "Broken pipe" in text or "Timed out" in text)
    if _several() and (lost or type(error).__name__.startswith("Dist")):  # DistBackendError of NCCL and the store
        return "another process of this launch has ended (killed, or out of memory?); the same command resumes"
    return None


def _quiet() -> None:
    """No telemetry and no log output of libraries; what matters is said by us."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


if __name__ == "__main__":
    sys.exit(main())
