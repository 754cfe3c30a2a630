"""The signals that tell `stageline up` to stop."""

import signal

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heard_signals() -> list[signal.Signals]:
    """The signals to stop at: all but those that were ignored on entry, as SIGHUP is under nohup."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
