"""Random mutations for 30 seconds per test, with new seeds in every run.

A failing test prints its seed.

Run one target with `pytest tests/fuzz/test_longer.py -m slow -k parquet`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzz.ending import attempt
from tests.fuzz.models import RANK_FILE, DamagedCopy, read_model
from tests.fuzz.mutations import mutants
from tests.fuzz.tables import WRITERS, parquet, run_without_inference, valid_table
from tests.fuzz.test_yaml import VALID
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.spec import JobSpec

pytestmark = pytest.mark.slow
SECONDS = 30.0


def mutated(good: bytes, *, near_end: bool = False) -> Iterator[bytes]:
    """Yield mutants for `SECONDS`."""
    seed, started = random.SystemRandom().randrange(1 << 32), time.monotonic()
    while time.monotonic() - started < SECONDS:
        print(f"seed {seed}")  # pytest prints it if the test fails
        yield from (content for _, content in mutants(good, count=50, seed=seed, near_end=near_end))
        seed += 1


@pytest.mark.parametrize("near_end", [False, True], ids=["anywhere", "footer"])
@pytest.mark.parametrize("writer", ["snappy", "pages", "plain"])
def test_mutated_parquet_works_or_is_refused(
    writer: str, near_end: bool, job: Callable[..., JobSpec], tmp_path: Path
) -> None:
    spec = job()
    for content in mutated(parquet(valid_table(), **WRITERS[writer]), near_end=near_end):
        (tmp_path / "in" / "a.parquet").write_bytes(content)
        attempt("Parquet files", content, lambda: run_without_inference(spec))


@pytest.mark.parametrize(("kind", "name"), [("native", "model.safetensors"), ("rugpts", RANK_FILE), ("old", RANK_FILE)])
def test_mutated_weights_work_or_are_refused(
    kind: str, name: str, models: dict[str, Path], damaged: DamagedCopy
) -> None:
    folder = damaged(kind)
    for content in mutated((models[kind] / name).read_bytes()):
        (folder / name).write_bytes(content)
        attempt("weights", content, lambda: read_model(folder))


@pytest.mark.parametrize("kind", ["native", "gpt2", "port"])
def test_a_mutated_config_works_or_is_refused(kind: str, models: dict[str, Path], damaged: DamagedCopy) -> None:
    folder = damaged(kind)
    for content in mutated((models[kind] / "config.json").read_bytes()):
        (folder / "config.json").write_bytes(content)
        attempt("config.json", content, lambda: read_model(folder))


def test_a_mutated_tokenizer_works_or_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    for content in mutated((tiny_model / "tokenizer.json").read_bytes()):
        (tmp_path / "tokenizer.json").write_bytes(content)
        attempt("tokenizers", content, lambda: load_tokenizer(str(tmp_path)).encode("abc день"))


def test_a_mutated_job_file_works_or_is_refused(tmp_path: Path) -> None:
    for content in mutated(VALID.encode()):
        (tmp_path / "job.yaml").write_bytes(content)
        attempt("job files", content, lambda: spec_from_file(tmp_path / "job.yaml"))


def test_a_mutated_template_works_or_is_refused() -> None:
    good = "{{ text|trim|upper }}{% if a is none %}: {{ n|default('—') }}{% endif %}\n{{ text|truncate(9, true) }}"
    for content in mutated(good.encode()):
        source = content.decode("utf-8", "replace")
        attempt("templates", source, lambda source=source: PromptTemplate(source).render({"text": "новость", "n": 7}))
