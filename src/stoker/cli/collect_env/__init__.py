"""`stoker collect-env`: what a report of a bug should say of where it happened.

`machine` has the hardware and the system, `software` what is installed and set, `command` writes
it. A fact that cannot be had is null; none is worth an error.
"""

from stoker.cli.collect_env.command import collect_env

__all__ = ["collect_env"]
