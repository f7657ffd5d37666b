"""Write a trained network as a model folder that transformers and sentence-transformers load too, and its curves."""

import csv
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from scripts.model_folder import make_readable, write_dense, write_json, write_modules, write_tokenizer
from scripts.training.network import SimBert


def export(network: SimBert, tokenizer: Tokenizer, folder: Path, card: Mapping[str, object], max_tokens: int) -> None:
    """Write `network` in half precision, its tokenizer and `card` (moverank.json) into `folder`; other files there stay.

    Modules: Transformer → WordWeights → Pooling mean → Dense → Normalize, which give normalise(Dense(mean_i w_i h_i)).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"bert.{name}": value for name, value in network.bert.state_dict().items() if "position_ids" not in name}
    # The head under the names of transformers' BertForMaskedLM; its output matrix is that of the input.
    head = "cls.predictions."
    tensors |= {f"{head}transform.dense.{name}": value for name, value in network.transform.state_dict().items()}
    tensors |= {
        f"{head}transform.LayerNorm.{name}": value for name, value in network.transform_norm.state_dict().items()
    }
    tensors |= {f"{head}bias": network.output_bias}
    halves = {name: value.detach().cpu().to(torch.float16).contiguous() for name, value in tensors.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    # The files are half precision, but the network computes in single: sentence-transformers' own modules are single too.
    config = network.bert.config.to_dict() | {"architectures": ["BertForMaskedLM"], "dtype": "float32"}
    write_json(folder / "config.json", {name: value for name, value in config.items() if not name.startswith("_")})
    write_tokenizer(tokenizer, folder, max_tokens)
    kinds = ("Transformer", "WordWeights", "Pooling", "Dense", "Normalize")
    places = write_modules(folder, kinds, max_tokens, {"add_pooling_layer": False})
    weights = network.weights().detach().cpu()
    words = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    rounded = {word: round(float(weight), 5) for word, weight in zip(words, weights, strict=True)}
    write_json(places[1] / "config.json", {"vocab": words, "word_weights": rounded, "unknown_word_weight": 1.0})
    save_file({"emb_layer.weight": torch.tensor([[rounded[word]] for word in words])}, places[1] / "model.safetensors")
    pooling = {"embedding_dimension": network.dense.in_features, "pooling_mode": "mean", "include_prompt": True}
    write_json(places[2] / "config.json", pooling)
    write_dense(places[3], network.dense.weight.detach().cpu().numpy())
    # WRD does not see the scale of the table. WMD does: a mean length of 1 keeps 1 / (1 + WMD) in a useful range.
    table = network.table.detach().cpu().float()
    table = table / torch.linalg.vector_norm(table, dim=1).mean()
    save_file({"table": table.to(torch.float16).contiguous()}, folder / "static.safetensors")
    make_readable(folder)
    write_json(folder / "moverank.json", card)


CURVES = (
    ("loss", "in_batch", "pairs", "mover", "cosent", "unlike", "related", "apart", "seq2seq", "masked"),
    ("spearman", "recall@1", "mrr@10"),
)
"""What the upper and the lower pictures show."""


def write_curves(
    rows: Sequence[Mapping[str, float | str]], folder: Path, curves: Sequence[Sequence[str]] = CURVES
) -> None:
    """Write `rows` as curves.csv and the columns `curves` (losses, development measures) of each stage as curves.png."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with tempfile.NamedTemporaryFile(
        "w", dir=folder, suffix=".part", delete=False, newline="", encoding="utf-8"
    ) as part:
        writer = csv.DictWriter(part, names)
        writer.writeheader()
        writer.writerows(
            [
                {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()}
                for row in rows
            ]
        )
    Path(part.name).replace(folder / "curves.csv")
    (folder / "curves.csv").chmod(0o644)
    stages = list(dict.fromkeys(str(row["stage"]) for row in rows))
    figure, axes = plt.subplots(2, len(stages), figsize=(4.5 * len(stages), 5), squeeze=False)
    for column, stage in enumerate(stages):
        for axis, chosen in zip(axes[:, column], curves, strict=True):
            for name in chosen:
                points = [
                    (float(row["seconds"]), float(row[name])) for row in rows if row["stage"] == stage and name in row
                ]
                if points:
                    axis.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "", label=name)
            axis.set_xlabel("seconds of training")
            axis.grid(alpha=0.3)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=7)
        axes[0, column].set_title(f"{stage}: losses")
        axes[1, column].set_title(f"{stage}: development")
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=70)
    plt.close(figure)
