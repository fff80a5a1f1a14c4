"""The one exception a person is meant to read."""

from __future__ import annotations

__all__ = ["EXIT_INTERRUPTED", "EXIT_USER_ERROR", "UserError"]

EXIT_USER_ERROR = (
    2  # bad input, bad configuration, or a run that stopped itself (NaN loss, full disk)
)
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
        self.what, self.where, self.cure = what, where, cure
        parts = [f"{where}: {what}" if where else what]
        if cure:
            parts.append(cure)
        super().__init__(
            " ".join(part if part.endswith((".", "?", "!")) else part + "." for part in parts)
        )

    def __reduce__(self):
        """Survive the trip from a data-loading worker to the main process."""
        return _rebuild, (self.what, self.where, self.cure)


def _rebuild(what: str, where: str | None, cure: str | None) -> UserError:
    return UserError(what, where=where, cure=cure)
