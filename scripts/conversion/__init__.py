"""Parts of `python -m scripts.convert_checkpoint`: reading TensorFlow's checkpoint files, and the folder made of them."""
