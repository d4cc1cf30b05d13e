"""Jobs between two buckets of a real S3 server: replicas, ranks, wrong credentials, an unreachable server."""

from __future__ import annotations

from typing import Any

import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from tests.seaweedfs import SeaweedServer
from tests.system.command import assert_one_sentence, run_tirazh
from tirazh import classify

pytestmark = [pytest.mark.s3, pytest.mark.ray]

# Words of equal length: to a random model the shortest label is always the most likely one.
LABELS = {name: f" {name}" for name in ("art", "law", "sea", "sky", "war", "zoo")}


@pytest.fixture(scope="module")
def news(news: pa.Table) -> pa.Table:
    return news.slice(0, 120)


@pytest.fixture(scope="module")
def files(s3_server: SeaweedServer) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(endpoint_url=s3_server.endpoint_url, use_listings_cache=False)


@pytest.fixture(scope="module")
def source(s3_server: SeaweedServer, files: s3fs.S3FileSystem, news: pa.Table) -> str:
    """The news as two files under one prefix."""
    bucket = s3_server.make_bucket("news")
    half = len(news) // 2
    for name, table in (("a", news.slice(0, half)), ("b", news.slice(half))):
        pq.write_table(table, f"{bucket}/tonight/{name}.parquet", filesystem=files)
    return f"{bucket}/tonight"


def label(source: str, output: str, model: str, server: SeaweedServer, **settings: Any) -> dict[str, Any]:
    return classify(
        input=f"{source}/*.parquet",
        output=output,
        model=model,
        labels=LABELS,
        template="{{ text }}\nТема:",
        truncate="right",
        dtype="float32",
        threads=1,
        endpoint_url=server.endpoint_url,
        **settings,
    )


def read(files: s3fs.S3FileSystem, output: str) -> polars.DataFrame:
    parts = sorted(files.glob(f"{output}/*.parquet"))
    return polars.concat([polars.read_parquet(files.cat(part)) for part in parts])


@pytest.fixture(scope="module")
def by_replicas(s3_server: SeaweedServer, source: str, tiny_model: str, ray_local: None) -> tuple[str, dict[str, Any]]:
    """The output of two replicas, and its manifest."""
    output = f"{s3_server.make_bucket('labels')}/replicas"
    return output, label(source, output, tiny_model, s3_server, replicas=2, part_rows=20)


def test_two_replicas_label_every_row(
    s3_server: SeaweedServer, files: s3fs.S3FileSystem, by_replicas: tuple[str, dict[str, Any]], news: pa.Table
) -> None:
    output, manifest = by_replicas
    rows = read(files, output)
    assert manifest["rows"] == len(rows) == len(news)
    assert rows["id"].to_list() == news["id"].to_pylist()
    assert rows["error"].null_count() == len(news)
    assert rows["label"].n_unique() > 1
    assert files.exists(f"{output}/_SUCCESS")

    done = run_tirazh("verify", output, "--endpoint-url", s3_server.endpoint_url)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow  # tests/model/test_tensor_parallel.py says it of the logits
def test_two_ranks_give_every_row_the_same_label(
    s3_server: SeaweedServer,
    files: s3fs.S3FileSystem,
    source: str,
    by_replicas: tuple[str, dict[str, Any]],
    tiny_model: str,
) -> None:
    output = f"{s3_server.make_bucket('labels-of-ranks')}/ranks"
    label(source, output, tiny_model, s3_server, tensor_parallel=2, slots=5, part_rows=50)
    rows, by_ranks = (read(files, each) for each in (by_replicas[0], output))
    assert rows["id"].to_list() == by_ranks["id"].to_list()
    assert rows["label"].to_list() == by_ranks["label"].to_list()
    assert (rows["confidence"] - by_ranks["confidence"]).abs().max() < 1e-4


def arguments(source: str, model: str, server: SeaweedServer) -> list[str]:
    flags = {
        "--input": f"{source}/*.parquet",
        "--output": "s3://labels-2/out",
        "--model": model,
        "--labels": "a,b",
        "--endpoint-url": server.endpoint_url,
    }
    return ["classify", *(text for pair in flags.items() for text in pair)]


def test_wrong_credentials_of_s3_end_in_one_sentence(s3_server: SeaweedServer, source: str, tiny_model: str) -> None:
    done = run_tirazh(*arguments(source, tiny_model, s3_server), env={"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert_one_sentence(done, exit_code=1, says="s3://news/tonight")
    assert "wrong" not in done.stderr.replace("wrong key", "")


def test_a_missing_bucket_ends_in_one_sentence(s3_server: SeaweedServer, tiny_model: str) -> None:
    done = run_tirazh(*arguments("s3://nowhere", tiny_model, s3_server))
    assert done.returncode in (1, 2)
    assert_one_sentence(done, exit_code=done.returncode, says="s3://nowhere")


def test_an_unreachable_s3_server_ends_in_one_sentence_within_seconds(
    s3_server: SeaweedServer, source: str, tiny_model: str
) -> None:
    command = arguments(source, tiny_model, s3_server)
    command[-1] = "http://127.0.0.1:9"
    done = run_tirazh(*command, timeout_s=90)
    assert_one_sentence(done, exit_code=1, says="127.0.0.1:9")
