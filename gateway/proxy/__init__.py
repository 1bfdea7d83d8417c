"""The data plane: protocols on both sides; a coroutine only for exchanges that have to wait."""
