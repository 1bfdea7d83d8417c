"""An OpenAI-compatible mock engine: real sockets, modelled timing, faults on demand."""
