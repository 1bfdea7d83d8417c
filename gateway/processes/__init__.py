"""Child processes: tied to their parent's life, started again when they end. Import from its modules."""
