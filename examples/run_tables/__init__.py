"""What `examples/runs.py` runs: a module for classifiers, for anomaly maps, and for the models that are shipped."""
