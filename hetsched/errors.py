"""What a user did wrong, in one line that names the cause and the fix."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: the message names the value, what is allowed, and the fix, on one line. The CLI exits with 2."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


NO_NUMBERS = (
    "the model computes infinities, or what is no number: its weights are damaged, or belong to another config.json; "
    "download the checkpoint again"
)


def one_line(message: object) -> str:
    """A text on one line, whatever values it quotes: line ends are blanks, and what would not be shown is escaped."""
    text = " ".join(str(message).split())
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def known_as(name: str, known: Iterable[str]) -> str:
    """The known name that differs from `name` in case alone; `name` itself where there is none, or it is known."""
    names = list(known)
    return next((other for other in names if other.lower() == name.lower()), name) if name not in names else name


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, whatever its case; "" where none is near."""
    import difflib  # only here: a command has to hear signals before it has imported much

    lowered = {other.lower(): other for other in sorted(known)}
    near = difflib.get_close_matches(name[:100].lower(), lowered, n=1, cutoff=0.4)
    near = near or [other for other in lowered if name and name.lower() in other]
    return lowered[near[0]] if near else ""


class UnknownNameError(InputError):
    """A name that is not installed: the message lists what is, and the nearest match."""

    def __init__(self, kind: str, name: str, known: Iterable[str], fix: str = "") -> None:
        names, near = sorted(known), nearest(name, known)
        hint = f"did you mean {near!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r:.100}: {hint}known: {', '.join(names) or 'none'}{fix and f'; {fix}'}")


class MissingDependencyError(InputError):
    """A package that is not installed: the message holds the exact command that installs it."""

    def __init__(self, package: str, needed_for: str, command: str) -> None:
        super().__init__(f"{package} is not installed, and {needed_for} needs it; run: {command}")


class Terminated(BaseException):
    """The process was asked to end (SIGTERM, SIGHUP): whatever is under way cleans up as after a Ctrl-C."""
