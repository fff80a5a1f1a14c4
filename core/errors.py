"""The one exception a person is meant to read."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["EXIT_INTERRUPTED", "EXIT_USER_ERROR", "UserError", "counted"]

# Bad input, bad configuration, or a run that stopped itself (NaN loss, full disk).
EXIT_USER_ERROR = 2
# EX_TEMPFAIL: SIGTERM or SIGUSR1 was honoured, a checkpoint is saved, start the same command again.
EXIT_INTERRUPTED = 75


class UserError(Exception):
    """Something the user can mend: what is wrong, where it is, and what to do about it.

    Commands print it as one paragraph and leave with exit code 2; ``--debug`` adds the traceback.

    Args:
        what: the fault, with what was found and what was expected.
        where: file, key, or record the fault sits in.
        cure: what to do.
    """

    def __init__(self, what: str, *, where: str | None = None, cure: str | None = None) -> None:
        self.what = what
        self.where = where
        self.cure = cure
        sentences = [_sentence(f"{where}: {what}" if where else what)]
        if cure:
            sentences.append(_sentence(cure))
        super().__init__(" ".join(sentences))

    def __reduce__(self) -> tuple[Callable[..., UserError], tuple[str | None, ...]]:
        """Survive the trip from a data-loading worker to the main process."""
        return _rebuild, (self.what, self.where, self.cure)


def counted(count: int, noun: str) -> str:
    """A number and its noun: "1 scan", "4,071 scans"."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}s"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else text + "."


def _rebuild(what: str, where: str | None, cure: str | None) -> UserError:
    return UserError(what, where=where, cure=cure)
