"""`spillway demo`: being built."""
