"""Hypothesis tries the same cases at every run: what fails here fails everywhere. Signals are as in a terminal."""

import signal

from hypothesis import settings

settings.register_profile("stageline", derandomize=True, database=None, deadline=None)
settings.load_profile("stageline")

# after nohup, or in the background of a script, this process ignores these signals, and so would every cluster that it
# starts; a handler that does nothing is not inherited
for number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)
