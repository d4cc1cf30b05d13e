"""A manifest says how wrong the forecast of its run was."""

from __future__ import annotations

from tirazh.pipeline.output.forecast_outcome import judge_forecast


def test_the_time_is_inside_and_the_tokens_are_four_per_cent_too_many() -> None:
    forecast = {"time_s": [20, 60], "tokens": 1_040, "source": "the size of the model", "wall_s": 31.26}
    assert judge_forecast(forecast, tokens=1_000) == {
        **{"time_s": [20, 60], "tokens": 1_040, "source": "the size of the model", "wall_s": 31.3},
        **{"inside": True, "token_error": 0.04},
    }
    assert judge_forecast(forecast | {"wall_s": 61}, tokens=1_000)["inside"] is False


def test_a_run_that_resumed_has_no_forecast_but_its_wall_time() -> None:
    found = judge_forecast({"wall_s": 5.0}, tokens=10)
    assert (found["wall_s"], found["time_s"], found["inside"], found["token_error"]) == (5.0, None, None, None)
    assert judge_forecast(found, tokens=10) == found
