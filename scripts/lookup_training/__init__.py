"""The parts of `python -m scripts.train_lookup`."""
