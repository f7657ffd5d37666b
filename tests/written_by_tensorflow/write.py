"""Write the checkpoint beside this file with TensorFlow (2.21 was used): `python write.py`; the tests need only the result."""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
v1.disable_eager_execution()
with v1.Graph().as_default():
    v1.get_variable("bert/embeddings/word_embeddings", initializer=np.arange(12, dtype=np.float32).reshape(4, 3) / 8)
    for layer in range(20):
        v1.get_variable(f"bert/encoder/layer_{layer}/output/dense/bias", initializer=np.full(2, layer, np.float32))
    v1.get_variable("double", initializer=np.array([[-2.5, 0.5]]))
    v1.get_variable("global_step", initializer=np.int64(7))
    v1.get_variable("half", initializer=np.array([0.5, -2, 65504], np.float16))
    v1.get_variable("short", initializer=tf.constant([1.0, -0.5, 3.140625], tf.bfloat16))
    v1.get_variable("words", initializer=tf.constant(["a", "b"]))
    halves = v1.fixed_size_partitioner(2)
    v1.get_variable("sliced", shape=(4, 3), initializer=v1.zeros_initializer(), partitioner=halves)
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        folder = Path(sys.argv[0]).parent
        v1.train.Saver().save(session, str(folder / "model.ckpt"), write_meta_graph=False, write_state=False)
