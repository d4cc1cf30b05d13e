"""The command `tirazh report` and the function `tirazh.report`: comparison, --fail-on, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tirazh
from tests.pipeline.drift.nights import MORE_SPORT, Night, write_night
from tirazh.jobs.cli import main


@pytest.fixture
def nights(tmp_path: Path) -> Path:
    for day in range(18, 23):
        write_night(tmp_path / f"2026-11-{day}", Night(seed=day, abstain_below=0.5))
    write_night(tmp_path / "2026-11-23", Night(seed=1, shares=MORE_SPORT, abstain_below=0.5))
    return tmp_path


def test_the_command_prints_the_verdict_and_names_the_report(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"{nights}/2026-11-23", "--against", f"{nights}/2026-11-*"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "More sport than in the last 5 nights: 11 % instead of 3.8 % (p < 0.0001).",
        "Nothing else changed beyond chance.",
        f"report  {nights}/2026-11-23/_tirazh/report.html",
    ]


def test_baselines_are_given_one_by_one_or_together(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = (f"{nights}/2026-11-{day}" for day in (20, 21, 22))
    assert main(["report", f"{nights}/2026-11-23", "--against", first, second, "--against", third, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in found["baselines"]] == ["2026-11-20", "2026-11-21", "2026-11-22"]


def test_a_condition_that_holds_ends_with_3_and_one_sentence(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["report", f"{nights}/2026-11-23", "--against", f"{nights}/2026-11-*"]
    assert main([*flags, "--fail-on", "labels>0.05,rows±50%"]) == 3
    printed = capsys.readouterr()
    assert printed.err.startswith("tirazh: --fail-on labels>0.05 holds: labels is 0.")
    assert printed.err.count("\n") == 1
    assert printed.out.startswith("More sport than in the last 5 nights")
    assert main([*flags, "--fail-on", "drift", "--json"]) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out)["fail_on"] == [
        {"condition": "drift", "holds": True, "sentence": "drift is 1 (labels)"}
    ]
    assert main([*flags, "--fail-on", "rows±50%,errors>0.05", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_conditions_about_the_output_alone_need_no_baseline(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = f"{nights}/2026-11-23"
    assert main(["report", output, "--fail-on", "errors>0.05,abstained>0.2,rows<100"]) == 0
    capsys.readouterr()
    assert main(["report", output, "--fail-on", "rows<1000"]) == 3
    assert capsys.readouterr().err == "tirazh: --fail-on rows<1000 holds: rows is 350\n"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--fail-on", "lables>0.1"], "--fail-on there is no figure 'lables'; did you mean labels?"),
        (["--fail-on", "errors"], "--fail-on 'errors' has no value; write NAME>VALUE"),
        (["--fail-on", "labels>0.1"], "labels>0.1 compares with other outputs; give --against"),
        (["--fail-on", "accuracy<0.9"], "accuracy<0.9: it needs gold labels in the output; name a --gold-column"),
        (["--against", "OUTPUT"], "cannot be compared with itself"),
        (["--against", "UNFINISHED"], "is not finished; run its job again first"),
        (["--against"], "--against needs at least one value"),
        (["--against", "https://a.blob;AccountKey=hunter2"], "--against must hold no password, key or signature"),
        (["--agianst", "x"], "report has no flag --agianst; did you mean --against?"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    flags: list[str], says: str, nights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nights / "2026-11-18/_SUCCESS").unlink()
    places = {"OUTPUT": f"{nights}/2026-11-23", "UNFINISHED": f"{nights}/2026-11-18"}
    assert main(["report", f"{nights}/2026-11-23", *(places.get(flag, flag) for flag in flags)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_report_of_an_output_alone_is_written_as_before(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = f"{nights}/2026-11-23"
    assert main(["report", output]) == 0
    assert capsys.readouterr().out == f"report  {output}/_tirazh/report.html\n"
    assert "Compared with" not in Path(f"{output}/_tirazh/report.html").read_text(encoding="utf-8")
    assert main(["report", output, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == f"{output}/_tirazh/report.html"
    assert {each["name"]: each["value"] for each in found["figures"]}["rows"] == 350
    assert "verdict" not in found


def test_the_function_returns_what_json_prints(nights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, last = nights / "2026-11-23", nights / "2026-11-22"
    assert main(["report", str(output), "--against", str(last), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = tirazh.report(output, against=[last])
    assert found.to_dict() == printed
    assert tirazh.report(output, against=last).to_dict() == printed
    assert found.changes == ["labels"]
    assert found.verdict[0].startswith("More sport than in 2026-11-22")
    assert {each["name"] for each in found.figures} >= {"rows", "errors", "abstained", "confidence"}
    with open(found, encoding="utf-8") as page:
        assert "More sport than in 2026-11-22" in page.read()
    assert repr(found).startswith(f"Report(report='{output}/_tirazh/report.html'")


def test_the_comparison_needs_neither_ray_nor_torch(nights: Path) -> None:
    code = (
        f"import sys, tirazh; tirazh.report({str(nights / '2026-11-23')!r}, against={str(nights / '2026-11-22')!r}); "
        "print([name for name in ('ray', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
