"""Where backends are found that are not listed: Kubernetes, DNS, files. It knows nothing of the fleet."""
