"""Virtual time: models of engines and workloads that drive the same decisions as the live gateway."""
