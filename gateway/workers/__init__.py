"""`workers: N`: several gateways on one port, and the parent that starts and watches them."""
