"""Time whole training steps of processes that take turns: ours against transformers' Trainer, sparse against dense.

    python -m benchmarks.training_speed --trainer

Each side is a process of its own, which makes a step when it is its turn, so that a change of the machine's speed meets
all of them. The median of each and the greatest memory of its process are printed. The steps of ours are those of
`tirazh finetune` without Ray: DeepSpeed, gradient clipping, AdamW.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from benchmarks.machine import Machine, describe_machine
from tirazh.actors.rendezvous import training_environment

_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A model and the batch of its steps. The default is GPT-2 Small with the vocabulary of ruGPT-3."""

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    vocab: int = 50_264
    length: int = 256
    batch: int = 8
    micro_batch: int = 4
    sparse_mode: Literal["none", "alternating"] = "none"

    @property
    def tokens(self) -> int:
        return self.batch * self.length


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of those that take turns. `masked`: sparse layers compute dense attention under their mask."""

    name: str
    trainer: Literal["tirazh", "transformers"]
    dtype: str
    shape: Shape
    masked: bool = False


@dataclass(slots=True)
class Measured:
    """Seconds and CPU seconds of each timed step, the last loss, and the process's greatest memory in bytes."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    loss: float = float("nan")
    peak: int = 0


class Turns:
    """A process's end of the turns: `begin` waits for its turn, `end` reports its step."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._started = (0.0, 0.0)

    def begin(self) -> None:
        """Wait for the turn."""
        self._connection.recv()
        self._started = (time.perf_counter(), time.process_time())

    def end(self, loss: float) -> None:
        seconds, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        self._connection.send((seconds, cpu, loss, peak_memory()))


def take_turns(sides: list[Side], *, rounds: int, threads: int, limit_s: float = math.inf) -> dict[str, Measured]:
    """Run all sides, each in its own process, for one untimed round and `rounds` timed ones.

    No round begins that would end after `limit_s` seconds, if it took as long as the one before; one round is always
    timed.
    """
    measured = {side.name: Measured() for side in sides}
    begin = time.perf_counter()
    with _started(sides, rounds + 1, threads) as connections:
        for number in range(rounds + 1):
            last_s = sum(each.seconds[-1] for each in measured.values()) if number > 1 else 0.0
            if time.perf_counter() - begin + last_s > limit_s and number > 1:
                break
            for name, connection in connections.items():
                connection.send(True)
                if not connection.poll(_TIMEOUT_S):
                    raise TimeoutError(f"{name} made no step in {_TIMEOUT_S:g} s")
                seconds, cpu, loss, peak = connection.recv()
                each = measured[name]
                each.loss, each.peak = loss, peak
                if number:
                    each.seconds.append(seconds)
                    each.cpu_seconds.append(cpu)
    return measured


@contextmanager
def _started(sides: list[Side], steps: int, threads: int) -> Iterator[dict[str, Connection]]:
    """Start the processes; they end with the block."""
    context = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    processes: list[SpawnProcess] = []
    try:
        for side in sides:
            here, there = context.Pipe()
            process = context.Process(target=run_side, args=(side, steps, there), daemon=True)
            # OpenMP reads its variables once, when torch is imported.
            with patch.dict(os.environ, _environment(side, threads)):
                process.start()
            there.close()  # a side that dies then ends the wait for it
            connections[side.name] = here
            processes.append(process)
        yield connections
    finally:
        for process in processes:
            process.kill()


def _environment(side: Side, threads: int) -> Mapping[str, str]:
    own = {"LOCAL_RANK": "0"} | training_environment(device="cpu", threads=threads, is_one_host=True)
    variables = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    return variables | own if side.trainer == "tirazh" else variables


def run_side(side: Side, steps: int, connection: Connection) -> None:
    """In a process: build the model, then make a step at each turn."""
    turns = Turns(connection)
    (_run_tirazh if side.trainer == "tirazh" else _run_transformers)(side, steps, turns)


def token_ids(shape: Shape, steps: int) -> Any:
    """Return the ids of all steps, int32 [steps, batch, length]: the same for every side."""
    import numpy as np

    return np.random.default_rng(0).integers(0, shape.vocab, (steps, shape.batch, shape.length), dtype=np.int32)


def _run_tirazh(side: Side, steps: int, turns: Turns) -> None:
    import numpy as np
    import torch
    import torch.distributed as dist

    from benchmarks.training_speed import MaskedAttention, attention_of_models
    from tirazh.model.attention.full_sequence import window_attention
    from tirazh.model.config import ModelConfig
    from tirazh.model.gpt import RuGPT3Config, RuGPT3ForCausalLM
    from tirazh.model.training.batch import TrainedModel, build_microbatch
    from tirazh.model.training.zero import ZeroEngine

    shape = side.shape
    config = ModelConfig(
        num_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        vocab_size=shape.vocab,
        max_position_embeddings=max(1024, shape.length),
        sparse_mode=shape.sparse_mode,
    )
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    torch.manual_seed(0)
    model = TrainedModel(RuGPT3ForCausalLM(RuGPT3Config.from_model_config(config)).train())
    engine = ZeroEngine(model, _training_config(side, steps), micro_steps=shape.batch // shape.micro_batch)
    del model
    roles = np.ones(shape.length, dtype=np.uint8)
    with attention_of_models(MaskedAttention() if side.masked else window_attention):
        for ids in token_ids(shape, steps):
            turns.begin()
            texts = [(row, roles) for row in ids]
            microbatches = [
                build_microbatch(texts[first : first + shape.micro_batch], (0.0, 1.0, 1.0))
                for first in range(0, shape.batch, shape.micro_batch)
            ]
            loss, _ = engine.step(microbatches, float(shape.batch * (shape.length - 1)), 1e-4)
            turns.end(loss)
    dist.destroy_process_group()


def _training_config(side: Side, steps: int) -> Any:
    from tirazh.model.config import ModelSettings
    from tirazh.model.training.config import OptimizerConfig, TrainingConfig

    no_files: dict[str, Any] = {name: "" for name in ("model", "train_data", "checkpoints", "log", "stop_request")}
    return TrainingConfig(
        training="0" * 32,
        model_settings=ModelSettings(),
        dtype=side.dtype,
        device="cpu",
        eval_data=None,
        label_data=None,
        total_steps=steps,
        batch_size=side.shape.batch,
        micro_batch_size=side.shape.micro_batch,
        seed=0,
        role_weights=(0.0, 1.0, 1.0),
        optimizer=OptimizerConfig(learning_rate=1e-4),
        **no_files,
    )


def _run_transformers(side: Side, steps: int, turns: Turns) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

    class OneAtATime(TrainerCallback):  # type: ignore[misc]
        """Makes the Trainer wait for its turn before each step."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            turns.begin()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in (logs or {}):
                turns.end(float(logs["loss"]))

    shape = side.shape
    set_seed(0)
    config = GPT2Config(
        vocab_size=shape.vocab,
        n_positions=max(1024, shape.length),
        n_embd=shape.hidden,
        n_layer=shape.layers,
        n_head=shape.heads,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    )
    rows = token_ids(shape, steps).reshape(-1, shape.length).tolist()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=shape.micro_batch,
            gradient_accumulation_steps=shape.batch // shape.micro_batch,
            learning_rate=1e-4,
            weight_decay=0.01,
            bf16=side.dtype == "bfloat16",
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        data = [{"input_ids": row, "labels": row} for row in rows]
        trainer = Trainer(GPT2LMHeadModel(config), arguments, train_dataset=data, callbacks=[OneAtATime()])
        trainer.train()


def peak_memory() -> int:
    """Return the greatest resident memory of this process so far, bytes; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


def compare(sides: list[Side], *, rounds: int, threads: int, limit_s: float = math.inf) -> dict[str, Measured]:
    """Time the sides, print a line for each, and return the figures."""
    measured = take_turns(sides, rounds=rounds, threads=threads, limit_s=limit_s)
    shape = sides[0].shape
    made = min(len(each.seconds) for each in measured.values())
    print(f"{sides[0].dtype}, batch {shape.batch} x {shape.length} tokens, {threads} threads, {made} rounds:")
    slowest = max(statistics.median(each.seconds) for each in measured.values())
    for name, each in measured.items():
        seconds = statistics.median(each.seconds)
        print(
            f"  {name:22} {seconds:7.2f} s a step, {shape.tokens / seconds:7.0f} tokens/s ({slowest / seconds:.2f}x), "
            f"{statistics.median(each.cpu_seconds):7.2f} CPU s, peak {each.peak / 1e9:.2f} GB, loss {each.loss:.4f}",
            flush=True,
        )
    return measured


def computes_bfloat16(machine: Machine) -> bool:
    """Whether the CPU has instructions for bfloat16; without them torch emulates it, many times as slow as float32."""
    return any(name in machine.instructions for name in ("avx512_bf16", "amx_bf16"))


def compare_all(*, rounds: int, threads: int, dtype: str | None = None, limit_s: float = math.inf) -> None:
    """Compare with the Trainer in bfloat16 and float32, then sparse with masked layers at 2,048 tokens.

    Each of the cases takes about `limit_s` seconds at most. `dtype` None leaves out bfloat16 where it is emulated.
    """
    machine = describe_machine()
    print(
        f"{machine.processor}, {machine.num_cores} cores ({machine.instructions}), {machine.memory_gib:g} GiB; load "
        f"{machine.load_average:.1f}; torch {machine.libraries.get('torch')}, transformers "
        f"{machine.libraries.get('transformers')}",
        flush=True,
    )
    dtypes = ["bfloat16", "float32"] if dtype is None else [dtype]
    if dtype is None and not computes_bfloat16(machine):
        dtypes = ["float32"]
        print(
            "bfloat16 is left out: this CPU has neither AVX512-BF16 nor AMX and would emulate it; --dtype bfloat16 "
            "times it all the same",
            flush=True,
        )
    for each_dtype in dtypes:
        trainers: tuple[Literal["tirazh", "transformers"], ...] = ("tirazh", "transformers")
        compare(
            [Side(name=each, trainer=each, dtype=each_dtype, shape=Shape()) for each in trainers],
            rounds=rounds,
            threads=threads,
            limit_s=limit_s,
        )
    long = Shape(
        layers=4, hidden=512, heads=8, vocab=8_192, length=2_048, batch=2, micro_batch=1, sparse_mode="alternating"
    )
    sides = [
        Side(name=name, trainer="tirazh", dtype="float32", shape=long, masked=name == "masked")
        for name in ("sparse", "masked")
    ]
    compare(sides, rounds=rounds, threads=threads, limit_s=limit_s)
