"""Parts of `python -m scripts.train_simbert`: corpus and vocabulary, first vectors, network, batches, dev measures, export."""
