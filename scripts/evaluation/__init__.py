"""Parts of `python -m scripts.evaluate`: measures of rankings, floors without a model, a search over files."""
