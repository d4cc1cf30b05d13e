"""vLLM, on a CPU or a GPU, in an environment of its own. `serve.py` calls the methods of `Engine`."""

from __future__ import annotations

import time
from typing import Any

import vllm

Tokens = list[int]

_MOST_SEQUENCES, _STEP_TOKENS = 256, 2048
# Tokens of a cache block: vLLM's own choice, and the least that its kernels like. Only whole blocks are shared, so
# small ones leave least to compute again.
_BLOCK, _SHARED_BLOCK = 128, 32
# Of a GPU's memory. Our process has freed its model and cache then, but not what CUDA itself takes.
_GPU_SHARE = 0.8


def engine_settings(*, device: str, caches_prefixes: bool) -> dict[str, Any]:
    """Return what is chosen for a device, as arguments of `vllm.LLM`. On a GPU the rest is vLLM's own choice."""
    settings: dict[str, Any] = {"enable_prefix_caching": caches_prefixes, "max_num_seqs": _MOST_SEQUENCES}
    if device == "cuda":
        return settings | {"gpu_memory_utilization": _GPU_SHARE}
    block = _SHARED_BLOCK if caches_prefixes else _BLOCK
    return settings | {"block_size": block, "max_num_batched_tokens": _STEP_TOKENS}


class Engine:
    """One model; `open` loads another."""

    def __init__(self) -> None:
        self._opened: dict[str, Any] = {}
        self._engine: Any = None

    def open(
        self, *, model: str, dtype: str, threads: int, caches_prefixes: bool, device: str = "cpu"
    ) -> dict[str, Any]:
        """Load the GPT-2 directory `model`, or empty the prefix cache of the loaded one.

        The number of threads on a CPU is that of the environment variable VLLM_CPU_OMP_THREADS_BIND.
        """
        wanted = {"model": model, "dtype": dtype, "threads": threads, "caches_prefixes": caches_prefixes}
        if wanted != self._opened:
            assert not self._opened, "a process loads one model"
            self._engine = vllm.LLM(
                model=model,
                dtype=dtype,
                skip_tokenizer_init=True,
                seed=0,
                **engine_settings(device=device, caches_prefixes=caches_prefixes),
            )
            self._opened = wanted
            self.generate(prompts=[[1] * 40, [2] * 40], num_new=[4, 4])
        if caches_prefixes:
            assert self._engine.reset_prefix_cache()
        return {}

    def generate(self, *, prompts: list[Tokens], num_new: list[int]) -> dict[str, Any]:
        """Continue each prompt by exactly `num_new` tokens, the most likely ones."""
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        params = [
            vllm.SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False) for count in num_new
        ]
        begin = time.perf_counter()
        results = self._engine.generate(inputs, params, use_tqdm=False)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "tokens": [list(result.outputs[0].token_ids) for result in results]}

    def score(self, *, prompts: list[Tokens], num_prefix: int, labels: list[Tokens]) -> dict[str, Any]:
        """Return the log-likelihood of every label behind every prompt.

        A request for each beginning of a label asks for the log-probabilities of the tokens that follow it. What
        requests begin with in common comes from the prefix cache.
        """
        following: dict[tuple[int, ...], set[int]] = {}
        for label in labels:
            for end, token in enumerate(label):
                following.setdefault(tuple(label[:end]), set()).add(token)
        inputs = [{"prompt_token_ids": [*prompt, *before]} for prompt in prompts for before in following]
        params = [
            vllm.SamplingParams(
                temperature=0,
                max_tokens=1,
                ignore_eos=True,
                detokenize=False,
                logprob_token_ids=sorted(tokens),
            )
            for _ in prompts
            for tokens in following.values()
        ]
        begin = time.perf_counter()
        results = iter(self._engine.generate(inputs, params, use_tqdm=False))
        scores = []
        for _ in prompts:
            found = {before: next(results).outputs[0].logprobs[0] for before in following}
            scores.append([_log_likelihood(label, found) for label in labels])
        return {"seconds": time.perf_counter() - begin, "scores": scores}


def _log_likelihood(label: Tokens, found: dict[tuple[int, ...], Any]) -> float:
    """Return the sum over the label's tokens; `found` has the log-probabilities behind each beginning of a label."""
    return sum(float(found[tuple(label[:end])][token].logprob) for end, token in enumerate(label))
