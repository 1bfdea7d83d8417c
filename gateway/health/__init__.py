"""Asks backends how they are: probes, synthetic completions, engine metrics. It only tells the fleet."""
