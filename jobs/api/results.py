"""Results of the Python functions: immutable mappings whose usual keys are also typed attributes.

`manifest.rows` and `manifest["rows"]` are the same value. Keys that only some jobs have
(`accuracy`, `labels`) are attributes that are None when absent.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class Result(Mapping[str, Any]):
    """An immutable mapping of JSON values, shown on one line."""

    __slots__ = ("_values",)
    _shown: ClassVar[tuple[str, ...]] = ()

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={self._values[name]!r}" for name in self._shown if self._values.get(name) is not None
        )
        return f"{type(self).__name__}({shown})"

    def to_dict(self) -> dict[str, Any]:
        """Return a copy as a plain dictionary that `json.dumps` accepts."""
        return copy.deepcopy(self._values)


class Manifest(Result):
    """A finished classify or generate job; the same values are in `OUTPUT/_tirazh/manifest.json`."""

    __slots__ = ()
    _shown = ("kind", "rows", "errors", "num_parts", "accuracy", "seconds", "output")

    @property
    def kind(self) -> str:
        """ "classify" or "generate"."""
        return str(self["kind"])

    @property
    def output(self) -> str:
        """The output directory, as an absolute path or a URI."""
        return str(self["output"])

    @property
    def rows(self) -> int:
        """Rows in the output, those with an error included."""
        return int(self["rows"])

    @property
    def errors(self) -> int:
        """Rows whose `error` column is not null."""
        return int(self["errors"])

    @property
    def parts(self) -> list[dict[str, Any]]:
        """Every output file: name, input, row range, rows, errors, tokens, bytes and SHA-256."""
        return [dict(part) for part in self["parts"]]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return int(self["prompt_tokens"])

    @property
    def completion_tokens(self) -> int:
        """Tokens of all completions."""
        return int(self["completion_tokens"])

    @property
    def seconds(self) -> float:
        """Wall time of the last run that made parts."""
        return float(self["seconds"])

    @property
    def dtype(self) -> str:
        """Data type of the computation, with "auto" resolved."""
        return str(self["dtype"])

    @property
    def fingerprint(self) -> str:
        """Hash of the settings that define the output."""
        return str(self["fingerprint"])

    @property
    def labels(self) -> dict[str, int] | None:
        """Rows of each label; None for generate and for several questions."""
        return dict(self["labels"]) if "labels" in self else None

    @property
    def questions(self) -> dict[str, Any] | None:
        """The figures of each of several questions, such as its `labels` and `accuracy`; None without questions."""
        return dict(self["questions"]) if "questions" in self else None

    @property
    def accuracy(self) -> float | None:
        """Share of rows with the right label; None without `gold_column`."""
        return self.get("accuracy")

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 over the labels; None without `gold_column`."""
        return self.get("macro_f1")


class TrainingManifest(Result):
    """A finished training run; the same values are in the manifest of its output directory."""

    __slots__ = ()
    _shown = ("total_steps", "trained_tokens", "last_loss", "evaluation", "seconds", "output")

    @property
    def output(self) -> str:
        """Directory of the trained model; `model=` of the other functions accepts it."""
        return str(self["output"])

    @property
    def total_steps(self) -> int:
        """Optimizer steps."""
        return int(self["total_steps"])

    @property
    def trained_tokens(self) -> int:
        """Tokens of all training steps."""
        return int(self["trained_tokens"])

    @property
    def first_loss(self) -> float:
        """Mean loss of the first `loss_steps` steps: 20, or half of all steps where there are fewer than 40."""
        return float(self["first_loss"])

    @property
    def last_loss(self) -> float:
        """Mean loss of the last `loss_steps` steps."""
        return float(self["last_loss"])

    @property
    def evaluation(self) -> dict[str, float]:
        """The last evaluation (perplexity, accuracy, ...); empty without held-out data."""
        return dict(self["evaluation"])

    @property
    def seconds(self) -> float:
        """Wall time of the run that finished the training."""
        return float(self["seconds"])


class JobPlan(Result):
    """What a job would do: its size, and an estimate of memory and time where the model's shape is known."""

    __slots__ = ()
    _shown = ("kind", "files", "rows", "parts", "estimated_tokens", "time_s", "model", "dtype")

    @property
    def kind(self) -> str:
        """ "classify" or "generate"."""
        return str(self["kind"])

    @property
    def files(self) -> int:
        """Input files."""
        return int(self["files"])

    @property
    def rows(self) -> int:
        """Input rows."""
        return int(self["rows"])

    @property
    def output_rows(self) -> int:
        """Output rows: one for each sample of an input row."""
        return int(self["output_rows"])

    @property
    def parts(self) -> int:
        """Output files."""
        return int(self["parts"])

    @property
    def estimated_tokens(self) -> int:
        """Prompt and completion tokens of all samples, extrapolated from a sample of rows (`tokens_source`)."""
        return int(self["estimated_tokens"])

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all samples."""
        return int(self["prompt_tokens"])

    @property
    def completion_tokens(self) -> int:
        """Completion tokens of all samples: as in the output's last run, else `max_new_tokens` for each."""
        return int(self["completion_tokens"])

    @property
    def mean_prompt_tokens(self) -> float:
        """Tokens of a prompt on average."""
        return float(self["mean_prompt_tokens"])

    @property
    def mean_shared_prompt_tokens(self) -> float:
        """Of these the tokens of the prefix that prompts share, which is computed once."""
        return float(self["mean_shared_prompt_tokens"])

    @property
    def cut_share(self) -> float:
        """Share of the rows whose text is cut because the prompt is too long."""
        return float(self["cut_share"])

    @property
    def error_share(self) -> float:
        """Share of the rows that will have an error instead of a prompt."""
        return float(self["error_share"])

    @property
    def fingerprint(self) -> str:
        """Hash of the settings that define the output."""
        return str(self["fingerprint"])

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Lowest and highest estimate of the wall time; None for a model of unknown shape."""
        low_high = self.get("time_s")
        return None if low_high is None else (float(low_high[0]), float(low_high[1]))


class Preview(Result):
    """Some rows of a job, and a forecast of the whole job."""

    __slots__ = ()
    _shown = ("kind", "input_rows", "notes")

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows that were made: `row` (the number in the input, from 0), `input` (the file), `prompt`, and
        `output`, the rows that the job writes for it, as dictionaries."""
        return [dict(row) for row in self["rows"]]

    @property
    def forecast(self) -> JobPlan:
        """Tokens, memory and time of the whole job, with the speed that was measured."""
        return JobPlan(self["forecast"])

    @property
    def notes(self) -> list[str]:
        """Sentences about the job, such as that prompts are cut."""
        return list(self["notes"])


class Evaluation(Result):
    """Figures of a finished output against gold labels; the same values are in `OUTPUT/_tirazh/evaluation.json`."""

    __slots__ = ()
    _shown = ("rows", "accuracy", "coverage", "macro_f1", "ece", "output")

    @property
    def rows(self) -> int:
        """Rows that were evaluated; `counts` says what became of the others."""
        return int(self["rows"])

    @property
    def accuracy(self) -> float | None:
        """Share of right answers among the rows with an answer; None if there is none."""
        return self.get("accuracy")

    @property
    def coverage(self) -> float:
        """Share of rows with an answer."""
        return float(self["coverage"])

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the labels that have gold rows."""
        return float(self["macro_f1"])

    @property
    def ece(self) -> float | None:
        """Expected calibration error; None without confidences."""
        return self.get("ece")

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals by the names of the figures."""
        return {name: (low, high) for name, (low, high) in self["intervals"].items()}

    @property
    def classes(self) -> list[dict[str, Any]]:
        """Support, precision, recall and F1 of every label."""
        return [dict(each) for each in self["classes"]]


class Report(Result):
    """The report of an output and, with baselines, a comparison with them; `open` takes it as the path of the page."""

    __slots__ = ()
    _shown = ("report", "verdict")

    def __fspath__(self) -> str:
        return self.page

    @property
    def page(self) -> str:
        """The path or URI of the HTML page."""
        return str(self["report"])

    @property
    def verdict(self) -> list[str]:
        """Sentences about what changed, the most important first; empty without baselines."""
        return list(self.get("verdict", ()))

    @property
    def changes(self) -> list[str]:
        """The names of what changed beyond chance: figures, and `labels`."""
        return list(self.get("changes", ()))

    @property
    def figures(self) -> list[dict[str, Any]]:
        """Every figure: `name`, `question`, `value` and, with baselines, `baseline`, `difference` and `p_value`."""
        return [dict(figure) for figure in self.get("figures", ())]


class FittedCalibration(Result):
    """A calibration that `tirazh.calibrate` fitted and stored."""

    __slots__ = ()
    _shown = ("method", "rows", "file")

    @property
    def file(self) -> str:
        """The file, as an absolute path or a URI."""
        return str(self["file"])

    @property
    def method(self) -> str:
        """ "temperature", "vector", "isotonic" or "batch"."""
        return str(self["method"])

    @property
    def rows(self) -> int:
        """Rows with a gold label that it was fitted on."""
        return int(self["rows"])

    @property
    def before(self) -> dict[str, float]:
        """`log_loss` in nats, `ece` and `accuracy` of the probabilities of the output."""
        return dict(self["before"])

    @property
    def after(self) -> dict[str, float]:
        """The same of the calibrated probabilities, each row by a calibration that was fitted on other rows."""
        return dict(self["after"])

    @property
    def targets(self) -> list[dict[str, Any]]:
        """For target errors of 0.1, 0.05 and 0.01 the `threshold` and the `coverage`, or None and the `reason`."""
        return [dict(target) for target in self["targets"]]
