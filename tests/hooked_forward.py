"""The real network, before which a test does what it likes: wait, or fail."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.encoder import EncoderNetwork, TorchForward
from models.encoder_folder import Pooling, read_encoder_folder


class HookedForward:
    """The real network, before which a test does what it likes."""

    concurrency = 2

    def __init__(self, folder: Path, pooling: Pooling | None = None) -> None:
        self._network = TorchForward(EncoderNetwork(read_encoder_folder(folder, pooling)), "cpu")
        self.before: Callable[[NDArray[np.int64]], None] = lambda _: None

    def __call__(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.before(ids)
        return self._network(ids, mask)
