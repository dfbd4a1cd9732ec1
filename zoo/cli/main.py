"""The `blox` command, made of the commands in the files beside this one."""

import _thread
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import click
import jax

import blox as bx
from blox.wording import printable
from blox.zoo.cli import (
    about,
    embed,
    evaluate,
    files,
    generate,
    look,
    predict,
    score,
    search,
    serve,
    train,
)
from blox.zoo.cli.shared import say

# Errors that a user can cause: files, names, numbers, libraries and memory that are not there.
_MENDABLE = (
    ImportError,
    MemoryError,
    OSError,
    TypeError,
    ValueError,
    jax.errors.JaxRuntimeError,
)


class _Group(click.Group):
    """The group of commands; errors that a user can mend end in one line and no traceback."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _one_line():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _one_line(), _interrupts_kept():
                try:
                    super().invoke(ctx)
                finally:
                    sys.stdout.flush()  # Here a closed pipe is no traceback yet.
        except click.ClickException as error:
            if ctx.invoked_subcommand == 'diff':
                # As diff(1) does, whose 1 says that the two differ.
                raise _Misuse(error.message) from error
            raise
        except KeyboardInterrupt:
            click.echo('\nInterrupted', err=True)
            # JAX, interrupted while it compiles, would crash at the usual end of a process.
            os._exit(130)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn what a user can mend into a message, with exit code 2 for wrong usage, else 1."""
    try:
        yield
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else 'blox'
        raise _Misuse(_line(f"{error.format_message()} See '{command} --help'.")) from error
    except BrokenPipeError:
        raise
    except _MENDABLE as error:
        # Python code that XLA calls while it compiles has its interrupts turned into errors of XLA.
        if isinstance(error, jax.errors.JaxRuntimeError) and 'KeyboardInterrupt' in str(error):
            raise KeyboardInterrupt from error
        raise click.ClickException(_line(_message(error))) from error


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Send an interrupt again that fell into a finalizer, where Python drops what is raised.

    JAX has one that runs at every collection of garbage.
    """
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # Not from here: what is raised in the hook is dropped too.
            threading.Timer(0.01, _thread.interrupt_main).start()
        else:
            previous(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous


class _Misuse(click.ClickException):
    exit_code = 2


def _line(message: str) -> str:
    return printable(' '.join(message.split('\n')))


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        named = [str(error.filename)] if error.filename is not None else []
        return ': '.join([*named, error.strerror])
    return str(error) or type(error).__name__


class _Terminal(logging.Handler):
    """Print what the log says as all else is printed."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), err=True)


@click.group(
    cls=_Group,
    invoke_without_command=True,
    epilog='Exit codes: 0 done; 1 the answer is no, or something could not be read or written; '
    '2 wrong usage, and all trouble of diff; 130 interrupted.',
)
@click.version_option(bx.__version__)
@click.pass_context
def main(context: click.Context) -> None:
    """Pretrained models for JAX: run them, convert and compare them."""
    log = logging.getLogger('blox')
    if not any(isinstance(handler, _Terminal) for handler in log.handlers):
        log.addHandler(_Terminal(logging.WARNING))
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


_GROUPS = (about, files, look, predict, evaluate, embed, search, generate, score, serve, train)
for _command in (command for group in _GROUPS for command in group.COMMANDS):
    main.add_command(_command)
