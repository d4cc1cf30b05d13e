"""llama.cpp: continuous batching over its C API, as its own server does it.

Every step holds one token of each running sequence, then chunks of the next prompts, up to the step's size. A finished
sequence is replaced at once, and the longest rows start first. Keys and values are kept in the model's own dtype. The
weights are written to a GGUF file of the GPT-2 architecture without a vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.model_under_test import ModelUnderTest
from benchmarks.peers.peer import Outcome, Peer, Setting, timed
from benchmarks.workloads import Row, Tokens, Workload

_STEP_TOKENS = 512  # tokens per step; the library's default


class LlamaCpp(Peer):
    family = "llama.cpp"
    library = "llama-cpp-python"
    kinds = frozenset({"generate"})

    def why_absent(self) -> str | None:
        missing = [name for name in ("llama_cpp", "gguf") if find_spec(name) is None]
        return f"{' and '.join(missing)} not installed (pip install -e '.[bench-llama]')" if missing else None

    def settings(self, workload: Workload) -> list[Setting]:
        return [{"sequences": 32}, {"sequences": 16}] if self.dtype == "float32" else [{"sequences": 32}]

    def sample(self, workload: Workload, num_rows: int, setting: Setting) -> Workload:
        """Take enough rows that few steps at the end are half empty."""
        return workload.sample(max(num_rows, 2 * setting["sequences"]))

    def open(self, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> None:
        path = under_test.workdir / f"{under_test.shape.name}-{self.dtype}.gguf"
        if not path.exists():
            write_gguf(under_test, self.dtype, path)
        self.model = _Context(
            path,
            dtype=self.dtype,
            num_sequences=setting["sequences"],
            max_length=workload.max_length,
            vocab_size=under_test.shape.vocab_size,
            num_gpu_layers=999 if self.device == "cuda" else 0,
        )

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        with timed() as watch:
            tokens = _Scheduler(self.model, workload.rows, setting["sequences"]).run()
        return Outcome(seconds=watch.seconds, tokens=tokens)

    def close(self) -> None:
        if self.model is not None:
            self.model.free()
        super().close()


@dataclass(slots=True)
class _Running:
    """A row that occupies a sequence; `num_seen` tokens of its prompt have been computed."""

    index: int
    row: Row
    num_seen: int = 0
    made: list[int] = field(default_factory=list)


class _Scheduler:
    """Runs rows to their completions. `run` may be called once."""

    def __init__(self, context: _Context, rows: Sequence[Row], num_sequences: int) -> None:
        self.context, self.rows = context, rows
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].prompt) - rows[i].num_new)
        self.waiting = deque(order)
        self.running: list[_Running | None] = [None] * num_sequences
        self.finished: dict[int, Tokens] = {}

    def run(self) -> list[Tokens]:
        while len(self.finished) < len(self.rows):
            self._admit()
            self._step()
        return [self.finished[index] for index in range(len(self.rows))]

    def _admit(self) -> None:
        for sequence, row in enumerate(self.running):
            if row is None and self.waiting:
                index = self.waiting.popleft()
                self.running[sequence] = _Running(index, self.rows[index])

    def _step(self) -> None:
        batch, readers = self.context.batch, []
        batch.clear()
        for sequence, row in enumerate(self.running):
            if row is not None and row.made:
                batch.add(row.made[-1:], len(row.row.prompt) + len(row.made) - 1, sequence, is_read=True)
                readers.append(sequence)
        for sequence, row in enumerate(self.running):
            if row is None or row.made or batch.space == 0:
                continue
            chunk = row.row.prompt[row.num_seen : row.num_seen + batch.space]
            is_last = row.num_seen + len(chunk) == len(row.row.prompt)
            batch.add(chunk, row.num_seen, sequence, is_read=is_last)
            row.num_seen += len(chunk)
            readers += [sequence] if is_last else []
        for sequence, token in zip(readers, self.context.decode(len(readers)), strict=True):
            self._append(sequence, token)

    def _append(self, sequence: int, token: int) -> None:
        row = self.running[sequence]
        assert row is not None
        row.made.append(token)
        if len(row.made) == row.row.num_new:
            self.finished[row.index] = tuple(row.made)
            self.running[sequence] = None
            self.context.forget(sequence)


class _Context:
    """A loaded model with its cache. Greedy tokens only."""

    def __init__(
        self, path: Path, *, dtype: str, num_sequences: int, max_length: int, vocab_size: int, num_gpu_layers: int
    ) -> None:
        import llama_cpp

        self.library = llama_cpp
        llama_cpp.llama_backend_init()
        _silence(llama_cpp)
        of_model = llama_cpp.llama_model_default_params()
        of_model.n_gpu_layers = num_gpu_layers
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), of_model)
        params = llama_cpp.llama_context_default_params()
        # The library rounds the tokens of a sequence up to a multiple of 256.
        params.n_ctx = num_sequences * (-(-max_length // 256) * 256)
        params.n_seq_max = num_sequences
        params.n_batch = params.n_ubatch = _STEP_TOKENS
        params.n_threads = params.n_threads_batch = torch.get_num_threads()
        params.type_k = params.type_v = _ggml_type(llama_cpp, dtype)
        params.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"llama.cpp gave no context for {path.name}")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.batch = _Batch(llama_cpp)
        self.vocab_size = vocab_size

    def decode(self, num_read: int) -> list[int]:
        """Run the batch; return the most likely token at each of its `num_read` outputs, in order."""
        code = self.library.llama_decode(self.context, self.batch.struct)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")
        if num_read == 0:
            return []
        pointer = self.library.llama_get_logits(self.context)
        logits_RV: NDArray[np.float32] = np.ctypeslib.as_array(pointer, shape=(num_read, self.vocab_size))
        tokens: list[int] = torch.from_numpy(logits_RV).argmax(1).tolist()
        return tokens

    def forget(self, sequence: int) -> None:
        """Empty a sequence's cache."""
        self.library.llama_memory_seq_rm(self.memory, sequence, -1, -1)

    def free(self) -> None:
        self.batch.free()
        self.library.llama_free(self.context)
        self.library.llama_model_free(self.model)


class _Batch:
    """The C struct of one step, written through numpy where that is faster than ctypes."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.struct = library.llama_batch_init(_STEP_TOKENS, 0, 1)
        of = {name: getattr(self.struct, name) for name in ("token", "pos", "n_seq_id", "logits")}
        self.view = {name: np.ctypeslib.as_array(pointer, shape=(_STEP_TOKENS,)) for name, pointer in of.items()}
        self.view["n_seq_id"][:] = 1

    @property
    def space(self) -> int:
        return _STEP_TOKENS - int(self.struct.n_tokens)

    def clear(self) -> None:
        self.struct.n_tokens = 0

    def add(self, tokens: Sequence[int], start: int, sequence: int, *, is_read: bool) -> None:
        """Add tokens of a sequence from position `start`; `is_read` requests the logits of the last one."""
        begin = int(self.struct.n_tokens)
        end = begin + len(tokens)
        self.view["token"][begin:end] = tokens
        self.view["pos"][begin:end] = range(start, start + len(tokens))
        self.view["logits"][begin:end] = 0
        self.view["logits"][end - 1] = is_read
        for index in range(begin, end):
            self.struct.seq_id[index][0] = sequence
        self.struct.n_tokens = end

    def free(self) -> None:
        self.library.llama_batch_free(self.struct)


def write_gguf(under_test: ModelUnderTest, dtype: str, path: Path) -> None:
    """Write the model under test as a GGUF file. Norms, biases and positions stay in float32, as llama.cpp requires."""
    import gguf

    shape, weights = under_test.shape, under_test.weights
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(shape.num_layers)
    writer.add_context_length(shape.num_positions)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(4 * shape.hidden_size)
    writer.add_head_count(shape.num_heads)
    writer.add_layer_norm_eps(shape.config("dense").layer_norm_eps)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(shape.vocab_size)
    for name, weight in _gguf_tensors(shape.num_layers, weights):
        is_wide = weight.dim() == 1 or name == "position_embd.weight" or dtype == "float32"
        if not is_wide and dtype == "bfloat16":
            bits = weight.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint8)
            writer.add_tensor(name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(name, weight.to(torch.float32 if is_wide else torch.float16).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_tensors(num_layers: int, weights: dict[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    tensors = [
        ("token_embd.weight", weights["model.embed_tokens.weight"]),
        ("position_embd.weight", weights["model.embed_positions.weight"]),
    ]
    for kind in ("weight", "bias"):
        tensors.append((f"output_norm.{kind}", weights[f"model.norm.{kind}"]))
        for layer in range(num_layers):
            ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
            joined = torch.cat([weights[f"{ours}.self_attn.{x}_proj.{kind}"] for x in "qkv"])
            tensors.append((f"{theirs}.attn_qkv.{kind}", joined))
            for name, gguf_name in _GGUF_NAMES:
                tensors.append((f"{theirs}.{gguf_name}.{kind}", weights[f"{ours}.{name}.{kind}"]))
    return tensors


_GGUF_NAMES = (
    ("input_layernorm", "attn_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
)


def _ggml_type(library: Any, dtype: str) -> int:
    return int({"float32": library.GGML_TYPE_F32, "float16": library.GGML_TYPE_F16}.get(dtype, 30))  # 30: bfloat16


@cache
def _silence(library: Any) -> Any:
    """Turn the library's log off, once. The callback must live as long as the process, so it is cached."""
    callback = library.llama_log_callback(lambda *_: None)
    library.llama_log_set(callback, None)
    return callback
