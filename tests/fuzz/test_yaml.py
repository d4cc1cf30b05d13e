"""Job files and label files of malformed, hostile and unusual YAML."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.ending import attempt, refusal
from tests.fuzz.mutations import mutants
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.jobs.yaml_values.labels import read_labels
from tirazh.pipeline.spec import JobSpec

VALID = """kind: classify
input: [news/*.parquet, more]
output: out
labels:
  economics: экономика
  sport: спорт
replicas: 1:8
abstain_below: 0.25
calibrate: true
template: "{{ text }}\\nТема:"
"""


def billion_laughs(levels: int) -> str:
    lines = ["a0: &a0 [lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def with_line(line: str) -> str:
    return f"{VALID}{line}\n"


BAD: dict[str, str] = {
    "an empty file": "",
    "only comments": "# nothing here\n",
    "a string": "classify",
    "a number": "7",
    "a list": "- kind: classify\n",
    "null": "null",
    "two documents": "kind: classify\n---\nkind: generate\n",
    "tabs as whitespace": "kind:\tclassify\n\tinput: x\n",
    "an open quote": 'kind: "classify\n',
    "an open list": "input: [a, b\n",
    "an open mapping": "{kind: classify",
    "a lone colon": ": : :\n",
    "an unknown YAML version": "%YAML 9.9\n---\nkind: classify\n",
    "an unknown directive and a repeated one": "%FOO bar\n%YAML 1.1\n%YAML 1.1\n---\na: b\n",
    "a python object": "kind: !!python/object/apply:os.system ['id']\n",
    "a python name": "kind: !!python/name:os.system\n",
    "a python module": "!!python/module:os\n",
    "a python tuple": "input: !!python/tuple [a]\n",
    "an unknown tag": "kind: !mine x\n",
    "binary": with_line("prefix: !!binary aGk="),
    "bad binary": with_line("prefix: !!binary '****'"),
    "a timestamp": with_line("prefix: !!timestamp 2026-11-24"),
    "an invalid timestamp": with_line("prefix: !!timestamp 9999-99-99"),
    "an invalid int": with_line("limit: !!int seven"),
    "a NaN for an unknown setting": with_line("abstain_below_: !!float .nan"),
    "an invalid bool": with_line("overwrite: !!bool perhaps"),
    "an invalid null": with_line("limit: !!null 7x") + "limit: 3\n",
    "a set": with_line("prefix: !!set {a, b}"),
    "an omap": with_line("prefix: !!omap [a: b]"),
    "pairs": with_line("prefix: !!pairs [a: b]"),
    "a merge key": "base: &b {kind: classify}\n<<: *b\n",
    "a tagged merge key": "? !!merge '<<'\n: {kind: classify}\n",
    "a repeated key": with_line("output: other"),
    "a repeated label": "kind: classify\nlabels:\n  a: b\n  a: c\n",
    "a key that is a list": "[a, b]: c\n",
    "a key that is a mapping": "{a: b}: c\n",
    "a key that is null": "~: c\n",
    "a setting of the other kind": with_line("temperature: 0.5"),
    "an unknown key": with_line("outptu: x"),
    "an empty key": with_line('"": x'),
    "a key of control characters": with_line('"\\x1b[31m\\0": x'),
    "a very long key": with_line(f"{'k' * 900}: x"),
    "a key of 100,000 characters": with_line(f'? "{"k" * 100_000}"\n: x'),
    "an unknown kind": "kind: clasify\n",
    "a kind that is a list": "kind: [classify]\n",
    "a kind that is a mapping": "kind: {a: b}\n",
    "a kind that is true": "kind: true\n",
    "a number of 5,000 digits": with_line(f"limit: {'9' * 5_000}"),
    "a float of 5,000 digits": with_line(f"max_error_rate: {'9' * 5_000}.0"),
    "a number of 400 digits": with_line(f"limit: {'9' * 400}"),
    "an integer of 400 digits for a float": with_line(f"max_error_rate: {'9' * 400}"),
    "an infinite number": with_line("max_error_rate: 1e999"),
    "a negative number": with_line("slots: -1"),
    "a number of a million digits": with_line(f"slots: {'1' * 1_000_000}"),
    "5,000 digits for replicas": with_line("x: 1").replace("1:8", "9" * 5_000),
    "replicas in descending order": VALID.replace("1:8", "8:1"),
    "no replicas": VALID.replace("1:8", "0"),
    "99,999,999,999 replicas": VALID.replace("1:8", "99999999999"),
    "a list for a string": with_line("prefix: [a]"),
    "a mapping for a number": with_line("limit: {a: 1}"),
    "inputs that are numbers": VALID.replace("[news/*.parquet, more]", "[1, 2]"),
    "inputs that are nested": VALID.replace("[news/*.parquet, more]", "[[a]]"),
    "no inputs": VALID.replace("[news/*.parquet, more]", "[]"),
    "a prefix with a slash": with_line("prefix: ../../etc/"),
    "a prefix with a NUL": with_line('prefix: "a\\0b"'),
    "a lone surrogate": with_line('model: "\\ud800"'),
    "a lone surrogate as a label": VALID.replace("спорт", '"\\udfff"'),
    "a single label": VALID.replace("  sport: спорт\n", ""),
    "labels with the same words": VALID.replace("экономика", "спорт"),
    "labels that are lists of lists": VALID.replace("спорт", "[[a], b]"),
    "labels that are mappings": VALID.replace("спорт", "{a: b}"),
    "labels that are empty": VALID.replace("спорт", '""'),
    "labels that are floats": VALID.replace("спорт", "1.5"),
    "a cycle of lists": "a: &a [*a]\n",
    "a cycle of mappings": "&a {a: *a}\n",
    "a cycle as the kind": "kind: &a [*a]\n",
    "a cycle as a setting": with_line("prefix: &a [*a]"),
    "a cycle as labels": VALID.replace("спорт", "&a {a: *a}"),
    "a billion laughs": billion_laughs(12),
    "a billion laughs as a setting": with_line(f"prefix: [{billion_laughs(2).splitlines()[0][4:]}]")
    + billion_laughs(12),
    "an undefined alias": "kind: *nobody\n",
    "a repeated anchor": "a: &x 1\nb: &x 2\nc: *x\n",
    "deep lists": "[" * 5_000 + "]" * 5_000,
    "deep lists, unclosed": "[" * 100_000,
    "deep mappings": "{a: " * 3_000 + "1" + "}" * 3_000,
    "deep by indentation": "".join(f"{' ' * n}a:\n" for n in range(1_200)),
    "deep lists by dashes": "- " * 3_000 + "x",
    "deep lists in a setting": with_line(f"prefix: {'[' * 500}{']' * 500}"),
    "control characters": "kind: \x01\x02\n",
    "a NUL": "kind: class\0ify\n",
    "an escape sequence": "kind: \x1b[31mclassify\n",
    "a byte order mark inside": "kind: classify\n\ufeffinput: x\n",
    "line separators": "kind: classify\u2028input: x\u2029output: y\n",
    "a right-to-left override": with_line("\u202eprefix: x"),
    "a template with a loop": with_line("prompt: x").replace("{{ text }}", "{% for a in b %}{% endfor %}"),
    "a password in an address": VALID.replace("output: out", "output: s3://me:hunter2@bucket/out"),
    "a signature in an address": VALID.replace("output: out", "output: 'az://c/out?sv=1&sig=hunter2'"),
}
BAD_BYTES: dict[str, bytes] = {
    "latin-1": "kind: kласс".encode("cp1251"),
    "utf-16": VALID.encode("utf-16"),
    "utf-32": VALID.encode("utf-32"),
    "a truncated character": VALID.encode()[:63],
    "an overlong encoding of a slash": b"kind: \xc0\xaf\n",
    "a surrogate in utf-8": b"kind: \xed\xa0\x80\n",
    "a gzip file": b"\x1f\x8b\x08\x00" + bytes(20),
    "a Parquet file": b"PAR1" + bytes(100) + b"PAR1",
    "zero bytes": bytes(10_000),
    "all bytes": bytes(range(256)) * 4,
}


def job(folder: Path, content: bytes) -> JobSpec:
    path = folder / "job.yaml"
    path.write_bytes(content)
    return spec_from_file(path)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_job_file_is_refused(name: str, tmp_path: Path) -> None:
    refusal("job files", BAD[name], lambda: job(tmp_path, BAD[name].encode("utf-8", "surrogatepass")))


@pytest.mark.parametrize("name", BAD_BYTES)
def test_a_job_file_that_is_not_utf_8_text_is_refused(name: str, tmp_path: Path) -> None:
    refusal("job files", BAD_BYTES[name], lambda: job(tmp_path, BAD_BYTES[name]))


def test_special_files_and_bad_paths_are_refused_as_job_files(tmp_path: Path) -> None:
    (tmp_path / "round.yaml").symlink_to("round.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "large.yaml").write_bytes(b"# " + b"x" * (64 << 20))
    for name in ("round.yaml", "folder.yaml", "large.yaml", "nul\0.yaml", "l" * 300, "no/such.yaml"):
        refusal("job files", name, lambda name=name: spec_from_file(tmp_path / name))
    refusal("job files", "/dev/zero", lambda: spec_from_file("/dev/zero"))


@pytest.mark.parametrize(
    "name", ["20,000 labels with words", "200 labels separated by commas", "a list of 20,000 labels"]
)
def test_many_labels_are_read_within_the_time_limit(name: str, tmp_path: Path) -> None:
    values = {
        "20,000 labels with words": "{" + ", ".join(f"l{n}: w{n}" for n in range(20_000)) + "}",
        "200 labels separated by commas": ",".join(f"label {n}" for n in range(200)),
        "a list of 20,000 labels": "[" + ", ".join(f"l{n}" for n in range(20_000)) + "]",
    }
    content = f"kind: classify\ninput: a\noutput: b\nlabels: {values[name]}\n"
    assert attempt("job files", content, lambda: job(tmp_path, content.encode())) == ""


LABEL_FILES = {
    "a string": "just words",
    "a number": "7",
    "an empty file": "",
    "one label": "[a]",
    "a repeated label": "[a, a]",
    "nested lists": "[[a], [b]]",
    "nulls": "[null, null]",
    "booleans": "[true, false]",
    "a cycle": "&a [*a, b]",
    "a billion laughs": billion_laughs(10),
    "deep lists": "[" * 4_000,
    "a set": "!!set {a, b}",
    "bytes": "[!!binary aGk=, b]",
    "dates": "[!!timestamp 2026-11-24, b]",
    "floats": "[0.5, 1.5]",
    "a label of 5,000 digits": f"[{'7' * 5000}, b]",
    "JSON with an extra comma": '["a", "b",,]',
    "truncated JSON": '{"a": "b", "c"',
    "empty words": '{a: "", b: c}',
    "blank labels": '{" ": x, b: c}',
    "the same words": "{a: x, b: ' x'}",
    "a lone surrogate": '["\\ud800", b]',
}


@pytest.mark.parametrize("name", LABEL_FILES)
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_bad_labels_file_is_refused(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"labels{suffix}"
    path.write_text(LABEL_FILES[name], encoding="utf-8")
    content = f"kind: classify\ninput: a\noutput: b\nlabels: {path}\n"
    refusal("label files", LABEL_FILES[name] + suffix, lambda: job(tmp_path, content.encode()))


@pytest.mark.parametrize("value", [None, 7, 1.5, True, b"x", {1.5: "a", 2: "b"}, [object()], {"a": {"b": "c"}}, ["\0"]])
def test_labels_of_a_wrong_type_from_python_work_or_are_refused(value: object) -> None:
    attempt("label files", value, lambda: read_labels(value))


@pytest.mark.parametrize("seed", range(4))
def test_a_randomly_damaged_job_file_works_or_is_refused(seed: int, tmp_path: Path) -> None:
    for _, content in mutants(VALID.encode(), count=60, seed=seed):
        attempt("job files", content, lambda content=content: job(tmp_path, content))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))


@given(value=NESTED)
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
def test_any_value_as_labels_works_or_is_refused(value: object) -> None:
    attempt("label files", value, lambda: read_labels(value))


YAML_LIKE = st.lists(
    st.sampled_from([*"{}[]:,-?&*!|>%@`'\"# \n\t", "a", "kind", "classify", "&a", "*a", "!!int", "<<", "~", "7", "- "]),
    max_size=40,
).map("".join)


@given(text=YAML_LIKE)
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_any_sequence_of_yaml_tokens_works_or_is_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    attempt("job files", text, lambda: job(folder, text.encode()))
