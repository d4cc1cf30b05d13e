"""CTranslate2: a C++ engine for CPUs, run on batches of rows of similar length.

A callback stops each row at its own length, and a finished row leaves its batch. Batches go to `workers` that share
the cores: one worker with all threads, or one worker per core. Prompts are passed as strings of tokens. The model is
converted from the GPT-2 directory once; the dtype is chosen when it is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.model_under_test import ModelUnderTest
from benchmarks.peers.peer import Outcome, Peer, Setting, sample_batches, static_batches, timed
from benchmarks.workloads import Row, Tokens, Workload


class CTranslate2(Peer):
    family = "CTranslate2"
    library = "ctranslate2"
    kinds = frozenset({"generate"})
    probe_rows = 32

    def why_absent(self) -> str | None:
        if find_spec("ctranslate2") is None:
            return "ctranslate2 is not installed (pip install -e '.[bench]')"
        import ctranslate2

        supported = ctranslate2.get_supported_compute_types(self.device)
        return None if self.dtype in supported else f"no {self.dtype} on this machine ({', '.join(sorted(supported))})"

    def settings(self, workload: Workload) -> list[Setting]:
        if self.device == "cuda":
            return [{"batch": size, "workers": 1} for size in (128, 64)]
        threads = torch.get_num_threads()
        settings: list[Setting] = [{"batch": 32, "workers": 1}, {"batch": 16, "workers": 1}]
        if threads > 1:
            settings.append({"batch": 16, "workers": threads})
        # int8 is measured for information, so one setting is enough.
        return settings if self.dtype != "int8" else settings[:1]

    def sample(self, workload: Workload, num_rows: int, setting: Setting) -> Workload:
        least = setting["batch"] * setting["workers"]  # a batch for every worker
        return sample_batches(workload, max(num_rows, least), setting["batch"])

    def open(self, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> None:
        import ctranslate2

        directory = under_test.workdir / f"ctranslate2-{under_test.shape.name}"
        if not directory.exists():
            _convert(under_test.gpt2_directory, directory)
        self.model = ctranslate2.Generator(
            str(directory),
            device=under_test.device,
            compute_type=self.dtype,
            inter_threads=setting["workers"],
            intra_threads=max(1, torch.get_num_threads() // setting["workers"]),
        )

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        tokens: dict[int, Tokens] = {}
        with timed() as watch:
            batches = static_batches(workload.rows, setting["batch"])
            pending = [self._start([workload.rows[index] for index in batch]) for batch in batches]
            for batch, results in zip(batches, pending, strict=True):
                made = (result.result().sequences_ids[0] for result in results)
                tokens |= {index: tuple(ids) for index, ids in zip(batch, made, strict=True)}
        return Outcome(seconds=watch.seconds, tokens=[tokens[index] for index in range(len(workload.rows))])

    def _start(self, rows: list[Row]) -> Any:
        """Queue a batch; blocks while the queues of all workers are full."""
        return self.model.generate_batch(
            [[_word(token) for token in row.prompt] for row in rows],
            max_length=max(row.num_new for row in rows),
            end_token=[],
            include_prompt_in_result=False,
            sampling_topk=1,
            callback=_stop_at_own_length(rows),
            asynchronous=True,
        )


def _stop_at_own_length(rows: list[Row]) -> Callable[[Any], bool] | None:
    """Return None where all rows have the same length, because a callback for every token costs time."""
    if len({row.num_new for row in rows}) == 1:
        return None
    made: Counter[int] = Counter()

    def is_done(step: Any) -> bool:
        row: int = step.batch_id
        made[row] += 1
        return made[row] >= rows[row].num_new

    return is_done


def _convert(gpt2_directory: Path, directory: Path) -> None:
    """Convert the model as `ct2-transformers-converter` does, but without a tokenizer: words are token ids."""
    from ctranslate2.converters.transformers import GPT2Loader
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(gpt2_directory)
    spec = GPT2Loader().get_model_spec(model)
    spec.register_vocabulary([_word(token) for token in range(model.config.vocab_size)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = _word(0)
    spec.validate()
    spec.optimize(quantization="float32")
    directory.mkdir(parents=True)
    spec.save(str(directory))


def _word(token: int) -> str:
    return f"t{token}"
