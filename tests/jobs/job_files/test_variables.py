"""Variables: `{{ date }}` and those of `vars:` and `--set`, in paths and names of columns and nowhere else."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tirazh.errors import RequestError
from tirazh.jobs.cli import main
from tirazh.jobs.job_files.job_file import job_of, resolve_flags, spec_from_file
from tirazh.jobs.job_files.variables import make_variables, map_texts
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, StepsSpec

LATE = datetime(2026, 11, 23, 22, 30, tzinfo=UTC)  # the 24th in Moscow


def values(*given: str, section: object = None) -> dict[str, str]:
    return dict(make_variables(section, given, now=lambda: LATE).values)


def refusal(text: str, *given: str, section: object = None) -> str:
    with pytest.raises(RequestError) as caught:
        make_variables(section, given, now=lambda: LATE).replace(text, place="job.yaml line 3: output: ")
    return str(caught.value)


def test_date_is_today_in_utc_and_yesterday_the_day_before() -> None:
    assert values() == {"timezone": "UTC", "date": "2026-11-23", "yesterday": "2026-11-22"}


@pytest.mark.parametrize("how", [{"given": ["timezone=Europe/Moscow"]}, {"section": {"timezone": "Europe/Moscow"}}])
def test_a_time_zone_decides_which_day_it_is(how: dict[str, object]) -> None:
    found = make_variables(how.get("section"), how.get("given", []), now=lambda: LATE).values  # type: ignore[arg-type]
    assert (found["date"], found["yesterday"]) == ("2026-11-24", "2026-11-23")


@pytest.mark.parametrize("given", ["date=2026-03-01", "yesterday=2026-02-28"])
def test_a_night_is_run_again_by_either_of_its_days(given: str) -> None:
    found = values(given)
    assert (found["date"], found["yesterday"]) == ("2026-03-01", "2026-02-28")


def test_a_variable_of_the_command_line_wins_over_the_file() -> None:
    section = {"region": "ru", "place": "s3://news/{{ region }}/{{ date }}", "shards": 4}
    assert values(section=section)["place"] == "s3://news/ru/2026-11-23"
    assert values("region=en", section=section)["place"] == "s3://news/en/2026-11-23"
    assert values(section=section)["shards"] == "4"


def test_a_day_may_be_written_in_another_form() -> None:
    variables = make_variables(None, ["date=2026-03-01"])
    assert (
        variables.replace("s3://n/{{ date:%Y/%m/%d }}/{{yesterday:%Y%m%d}}.parquet")
        == "s3://n/2026/03/01/20260228.parquet"
    )


def test_a_value_is_put_in_as_it_is() -> None:
    assert make_variables(None, ["x={{ date }}"]).replace("a/{{ x }}") == "a/{{ date }}"


@pytest.mark.parametrize(
    ("text", "given", "says"),
    [
        ("out/{{ dat }}", [], "job.yaml line 3: output: there is no variable dat; did you mean date?"),
        ("out/{{ region }}", [], "there is no variable region; give it with --set region=VALUE"),
        ("out/{{ date | upper }}", [], "'{{ date | upper }}' is not a variable"),
        ("out/{{ ''.__class__ }}", [], "is not a variable"),
        ("out/{{ date", [], "has {{ without }}"),
        ("out/{{ date:%s }}", [], "only a day has a form, of %Y, %m, %d"),
        ("out/{{ x:%Y }}", ["x=1"], "only a day has a form"),
        ("", ["date=23.11.2026"], "date must be a day such as 2026-11-23, not '23.11.2026'"),
        ("", ["date=20261123"], "date must be a day"),
        ("", ["timezone=Europe/Moskow"], "there is no time zone 'Europe/Moskow'; did you mean Europe/Moscow?"),
        ("", ["date=2026-11-23", "yesterday=2026-11-21"], "date is 2026-11-23 and yesterday 2026-11-21; give one"),
        ("", ["region"], "--set must be NAME=VALUE, such as date=2026-11-23, not 'region'"),
        ("", ["a=1", "a=2"], "--set a is given twice (1, then 2); give it once"),
    ],
)  # fmt: skip
def test_what_is_no_variable_is_refused_with_one_sentence(text: str, given: list[str], says: str) -> None:
    found = refusal(text, *given)
    assert says in found
    assert "\n" not in found


def test_a_wrong_vars_section_is_refused() -> None:
    assert "vars must be a mapping of names to values" in refusal("", section=["a"])
    assert "region must be a text or a number, not ['ru']" in refusal("", section={"region": ["ru"]})
    assert "'a b' is not a name" in refusal("", section={"a b": "c"})


def test_a_name_of_set_that_nothing_uses_is_refused() -> None:
    variables = make_variables(None, ["dat=2026-11-23"])
    with pytest.raises(RequestError, match=r"^--set dat: there is no variable dat; did you mean date\?$"):
        variables.refuse_unused({"region"})


@pytest.mark.parametrize(
    "name", ["template", "labels", "questions", "stop", "regex", "schema", "choices", "bad_words", "filters", "notify"]
)
def test_settings_that_hold_texts_are_never_touched(name: str) -> None:
    for value in ("{{ text }}", ["{{ text }}"], {"a": "{{ text }}"}):
        assert map_texts(name, value, lambda text: pytest.fail(f"{name} was changed")) == value


def test_a_template_keeps_its_own_variables_beside_those_of_the_job() -> None:
    job = job_of(
        {
            "kind": "classify",
            "input": ["s3://news/{{ date }}/*.parquet"],
            "output": "s3://labelled/{{ date }}",
            "template": "{% for e in examples %}{{ e.text }}{% endfor %}{{ date }} {{ text }}",
            "labels": {"a": "{{ text }}", "b": "b"},
        },
        given=["date=2026-11-23"],
    )
    assert job.values["input"] == ["s3://news/2026-11-23/*.parquet"]
    assert job.values["output"] == "s3://labelled/2026-11-23"
    assert job.values["template"] == "{% for e in examples %}{{ e.text }}{% endfor %}{{ date }} {{ text }}"
    assert job.values["labels"] == {"a": "{{ text }}", "b": "b"}


def test_steps_and_files_of_values_have_variables_too(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "kind: steps\nvars: {region: ru}\noutput: out-{{ date }}\nsteps:\n"
        "  - name: a\n    kind: generate\n    rows: 2\n    template: '{{ topic }}'\n"
        "    vary: {topic: '{{ region }}.csv#{{ region }}', s: [x, '{{ y }}']}\n"
        "  - {name: b, kind: filter, against: ['{{ yesterday }}'], dedup: exact}\n"
    )
    spec = spec_from_file(tmp_path / "job.yaml", ["date=2026-11-23"])
    assert isinstance(spec, StepsSpec)
    assert spec.output == str(tmp_path / "out-2026-11-23")
    first = spec.steps[0].spec
    assert isinstance(first, GenerateSpec)
    assert first.vary == {"topic": f"{tmp_path / 'ru.csv'}#ru", "s": ["x", "{{ y }}"]}
    assert spec.steps[1].spec.to_dict()["against"] == [str(tmp_path / "2026-11-22")]


def test_flags_have_the_variables_of_the_file() -> None:
    job = job_of({"kind": "classify", "vars": {"region": "ru"}}, given=["date=2026-11-23"])
    given = {"output": "out/{{ region }}/{{ date }}", "template": "{{ text }}", "limit": 5}
    found = resolve_flags(given, job.variables, job.used)
    assert found == {"output": "out/ru/2026-11-23", "template": "{{ text }}", "limit": 5}
    with pytest.raises(RequestError, match=r"^--output: there is no variable regio; did you mean region\?$"):
        resolve_flags({"output": "{{ regio }}"}, job.variables)


def test_a_setting_that_a_flag_overrides_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text("kind: classify\ninput: '{{ unknown }}'\noutput: out\nlabels: [a, b]\n")
    arguments = ["classify", "--config", str(tmp_path / "job.yaml"), "--dry-run", "--input"]
    assert main([*arguments, str(tmp_path / "none-{{ date }}.parquet"), "--set", "date=2026-11-23"]) == 2
    assert "none-2026-11-23.parquet does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "plan", "preview", "submit", "tune"])
def test_every_command_that_reads_a_job_file_takes_set(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.yaml").write_text("kind: classify\ninput: '{{ place }}'\noutput: out\nlabels: [a, b]\n")
    more = ["--gold", "g.parquet", "--out", "best.yaml"] if command == "tune" else []
    assert main([command, str(tmp_path / "job.yaml"), "--set", "plac=x", *more]) == 2
    assert "line 2: input: there is no variable place; did you mean plac?" in capsys.readouterr().err


def test_the_spec_has_the_values_and_not_the_names(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "kind: classify\ninput: s3://news/{{ date }}/\noutput: s3://labelled/{{ date }}\nlabels: [a, b]\n"
    )
    nights = [spec_from_file(tmp_path / "job.yaml", [f"date=2026-11-{day}"]) for day in (23, 23, 24)]
    assert isinstance(nights[0], ClassifySpec)
    assert nights[0].output == "s3://labelled/2026-11-23"
    assert nights[0].fingerprint() == nights[1].fingerprint() != nights[2].fingerprint()
