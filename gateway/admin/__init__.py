"""The operator's port: health, metrics, the fleet as it is, drains. Import what you need from its modules."""
