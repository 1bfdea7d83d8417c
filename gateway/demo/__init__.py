"""`spillway demo`: three mock clusters, a gateway in front, and a wave of clients that spills and returns.

children.py runs the processes, fleet.py says which, load.py sends the wave, watch.py reads the gateway's own
numbers, screen.py draws them, command.py is the story from start to end.
"""

from __future__ import annotations

from gateway.demo.command import add_arguments, run

__all__ = ["add_arguments", "run"]
