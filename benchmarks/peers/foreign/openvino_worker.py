"""OpenVINO GenAI's continuous batching, in its own environment. `serve.py` calls the methods of `Engine`.

`bfloat16` and `float32` run one file of float32 weights, which OpenVINO converts when it loads them, with a cache of
the same dtype. `int8` has 8-bit weights with a scale for each channel, a cache of 8 bits, and computes in bfloat16.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai

Tokens = list[int]

_CACHE_GIB = 3
_STEP_TOKENS, _SEQUENCES = 512, 256
_LABEL_ROWS = 128  # rows whose labels are scored together
_BLOCK = 32  # tokens of a cache block on a CPU
# Of each dtype of a peer: the precision of arithmetic, and that of the cache.
_PRECISIONS = {"float32": ("f32", "f32"), "bfloat16": ("bf16", "bf16"), "int8": ("bf16", "u8")}
_ANY_TOKEN = 0  # the library asks for an end token, which `ignore_eos` then ignores


class Engine:
    """One model; `open` loads another."""

    def __init__(self) -> None:
        self._opened: dict[str, Any] = {}
        self._pipeline: Any = None
        self._num_requests = 0

    def open(self, *, model: str, dtype: str, threads: int, caches_prefixes: bool) -> dict[str, Any]:
        """Load the GPT-2 directory `model`. Its conversion is kept beside it.

        A pipeline that caches prefixes is made anew, because its cache cannot be emptied.
        """
        wanted = {"model": model, "dtype": dtype, "threads": threads, "caches_prefixes": caches_prefixes}
        if wanted != self._opened or caches_prefixes:
            self._pipeline, self._opened = None, {}
            self._pipeline = _pipeline(_converted(Path(model), dtype), dtype, threads, caches_prefixes)
            self._opened = wanted
            self.generate(prompts=[[1] * 40, [2] * 40], num_new=[4, 4])
        return {}

    def generate(self, *, prompts: list[Tokens], num_new: list[int]) -> dict[str, Any]:
        """Continue each prompt by exactly `num_new` tokens, the most likely ones."""
        inputs, configs = [_tensor(prompt) for prompt in prompts], [_config(count) for count in num_new]
        begin = time.perf_counter()
        results = self._pipeline.generate(inputs, configs)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "tokens": [result.m_generation_ids[0] for result in results]}

    def score(self, *, prompts: list[Tokens], num_prefix: int, labels: list[Tokens]) -> dict[str, Any]:
        """Return the log-likelihood of every label behind every prompt. All prompts begin with the same `num_prefix`
        tokens.

        A request per label echoes those of its tokens that are not in the prefix cache, with their log-probabilities.
        The cache holds each prompt without its last token, so that a request computes this one and the label. Requests
        that run at the same time must not share a cache block that is partly filled, because they overwrite each
        other's tokens in it. So the labels take turns, each with one request per row.

        A prompt that ends with its block would be found whole behind its first label, without the logits of its last
        token. Its labels run at the same time, and their requests compute its last block.
        """
        inputs = [[_tensor(prompt + label) for label in labels] for prompt in prompts]
        cached = [_tensor(prompt[: -1 if len(prompt) % _BLOCK else -_BLOCK]) for prompt in prompts]
        whole = [row for row, prompt in enumerate(prompts) if len(prompt) % _BLOCK == 0]
        found: dict[tuple[int, int], float] = {}

        def score(pairs: list[tuple[int, int]]) -> None:
            outputs = self._run([inputs[row][number] for row, number in pairs], _config(1, logprobs=1, echo=True))
            for pair, output in zip(pairs, outputs, strict=True):
                # The last one belongs to the token that is generated behind the label.
                echoed = output.generated_log_probs[-1 - len(labels[pair[1]]) : -1]
                if len(echoed) < len(labels[pair[1]]):
                    raise RuntimeError("a prompt was found whole in the cache: another one begins with it")
                found[pair] = sum(echoed)

        begin = time.perf_counter()
        if num_prefix >= _BLOCK:
            self._run([_tensor(prompts[0][: num_prefix // _BLOCK * _BLOCK])], _config(1))
        for first in range(0, len(prompts), _LABEL_ROWS):
            rows = range(first, min(first + _LABEL_ROWS, len(prompts)))
            self._run([cached[row] for row in rows], _config(1))
            for number in range(len(labels)):
                score([(row, number) for row in rows if row not in whole])
            for row in whole:
                if row in rows:
                    score([(row, number) for number in range(len(labels))])
        scores = [[found[row, number] for number in range(len(labels))] for row in range(len(prompts))]
        return {"seconds": time.perf_counter() - begin, "scores": scores}

    def _run(self, inputs: list[Any], config: Any) -> list[Any]:
        """Run the requests to their ends and return their outputs."""
        handles = []
        for ids in inputs:
            handles.append(self._pipeline.add_request(self._num_requests, ids, config))
            self._num_requests += 1
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        return [handle.read_all()[0] for handle in handles]


def _tensor(tokens: Tokens) -> Any:
    return openvino.Tensor(np.array([tokens], dtype=np.int64))


def _config(num_new: int, **others: Any) -> Any:
    return genai.GenerationConfig(
        max_new_tokens=num_new, ignore_eos=True, eos_token_id=_ANY_TOKEN, do_sample=False, **others
    )


def _pipeline(directory: Path, dtype: str, threads: int, caches_prefixes: bool) -> Any:
    arithmetic, cache = _PRECISIONS[dtype]
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = _CACHE_GIB
    scheduler.max_num_batched_tokens, scheduler.max_num_seqs = _STEP_TOKENS, _SEQUENCES
    scheduler.enable_prefix_caching = caches_prefixes
    properties = {
        "INFERENCE_PRECISION_HINT": arithmetic,
        "KV_CACHE_PRECISION": cache,
        "INFERENCE_NUM_THREADS": threads,
    }
    return genai.ContinuousBatchingPipeline(str(directory), scheduler, "CPU", properties)


def _converted(model: Path, dtype: str) -> Path:
    """Export the model, once for each width of weights."""
    width = "int8" if dtype == "int8" else "float32"
    directory = model.with_name(f"{model.name}-openvino-{width}")
    if not (directory / "openvino_model.xml").exists():
        from optimum.exporters.openvino import main_export
        from optimum.intel import OVConfig, OVWeightQuantizationConfig

        config = (
            OVConfig(quantization_config=OVWeightQuantizationConfig(bits=8, sym=True))
            if width == "int8"
            else OVConfig(dtype="fp32")
        )
        main_export(str(model), directory, task="text-generation-with-past", stateful=True, ov_config=config)
    return directory
