"""Live reload: the configuration file, read again while the gateway serves."""
