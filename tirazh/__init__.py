"""tirazh: offline batch inference for GPT-3-class models with sparse attention.

    manifest = tirazh.classify(input="news/*.parquet", output="labelled", labels=["art", "sport"])

`classify`, `generate`, `score`, `embed` and `finetune` take the settings of the commands of the same names, `run`
a job file of any kind. `plan` checks a job without starting it, `preview` makes a few of its rows,
`tune` finds the best settings of a classify job on labelled rows,
`verify`, `report` and `evaluate` examine an output, `calibrate` and `relabel` use its probabilities again, and
`load_pretrained` returns a model as a PyTorch module.
Errors are subclasses of `TirazhError`. Importing tirazh is cheap: other names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module

from tirazh.errors import (
    CheckpointError,
    InputError,
    JobError,
    OutputError,
    ReplicaError,
    RequestError,
    StorageError,
    TirazhError,
)

TYPE_CHECKING = False  # as typing.TYPE_CHECKING: until `__main__` has run, few modules may be imported
__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "Evaluation",
    "FittedCalibration",
    "InputError",
    "JobError",
    "JobPlan",
    "Manifest",
    "ModelSettings",
    "OutputError",
    "Preview",
    "ReplicaError",
    "Report",
    "RequestError",
    "StorageError",
    "TirazhError",
    "TrainingManifest",
    "Tuning",
    "Verification",
    "calibrate",
    "classify",
    "embed",
    "evaluate",
    "finetune",
    "generate",
    "load_pretrained",
    "plan",
    "preview",
    "relabel",
    "report",
    "run",
    "score",
    "tune",
    "verify",
]

if TYPE_CHECKING:
    from tirazh.jobs.api.calibration import calibrate, relabel
    from tirazh.jobs.api.functions import (
        classify,
        embed,
        evaluate,
        finetune,
        generate,
        plan,
        preview,
        report,
        run,
        score,
        verify,
    )
    from tirazh.jobs.api.results import (
        Evaluation,
        FittedCalibration,
        JobPlan,
        Manifest,
        Preview,
        Report,
        TrainingManifest,
    )
    from tirazh.jobs.api.tuning import Tuning, tune
    from tirazh.model.config import ModelSettings
    from tirazh.model.load import load_pretrained
    from tirazh.pipeline.output.verify import Verification
else:  # hidden from type checkers, which would take any name for one that exists
    _MODULES = {
        **dict.fromkeys(
            (
                *("classify", "embed", "evaluate", "finetune", "generate", "plan", "preview", "report", "run", "score"),
                "verify",
            ),
            "tirazh.jobs.api.functions",
        ),
        **dict.fromkeys(
            ("Evaluation", "FittedCalibration", "JobPlan", "Manifest", "Preview", "Report", "TrainingManifest"),
            "tirazh.jobs.api.results",
        ),
        **dict.fromkeys(("calibrate", "relabel"), "tirazh.jobs.api.calibration"),
        **dict.fromkeys(("Tuning", "tune"), "tirazh.jobs.api.tuning"),
        "ModelSettings": "tirazh.model.config",
        "load_pretrained": "tirazh.model.load",
        "Verification": "tirazh.pipeline.output.verify",
    }

    def __getattr__(name: str) -> object:
        """Load a public name on first use (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module 'tirazh' has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        return sorted([*globals(), *__all__])
