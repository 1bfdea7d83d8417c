"""`spillway top`: what one or several gateways do now, from the two pages that each shows on its admin port.

samples.py reads the pages, rates.py tells what happened between two samples, rows.py makes the rows of the
picture from them, drawing.py draws rows, following.py asks the gateways, command.py is the verb.
"""

from __future__ import annotations

from gateway.top.command import add_arguments, run

__all__ = ["add_arguments", "run"]
