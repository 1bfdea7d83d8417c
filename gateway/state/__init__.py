"""StateStore adapters."""
