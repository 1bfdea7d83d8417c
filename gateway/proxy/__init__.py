"""The data plane: protocols on both sides, one coroutine per exchange."""
