"""The decisions: pure functions and one mutable picture. No I/O, no clock, no randomness, no logging."""
