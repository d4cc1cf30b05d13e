"""The stable interface of the command line: scripts rely on these names, so a change here breaks users."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tirazh.jobs.cli import build_parser, main
from tirazh.jobs.settings import KINDS
from tirazh.pipeline.settings import flag_name

OUTPUT_FLAGS = "--help --json --quiet --verbose"
END_FLAGS = "--notify-command --notify-on --notify-url --track"
COMMON = (
    "--address --config --deepspeed-config --device --dry-run --dtype --endpoint-url --fix-sparsity-layout --input "
    "--invariant --allow-empty --append --key --no-allow-empty --no-append --no-retry-failed --retry-failed "
    "--limit --max-error-rate --model --no-overwrite --num-attention-heads --output --overwrite --part-rows --prefix "
    "--lease-s --preset --rank-timeout-s --replicas --seq-length --slots --sparse-mode --start-timeout-s --template "
    f"--progress --set --tensor-parallel --threads --tokenizer --truncate {END_FLAGS}"
)
FLAGS = {
    "classify": f"{COMMON} --abstain-below --calibrate --examples --gold-column --head --labels --multi-label "
    "--no-calibrate --none-label --permutations --priors --questions --scoring --search --seed --shape "
    "--shot-selection --shot-tokens --shots --target-error --text-column --top",
    "generate": f"{COMMON} --accepted --against --bad-words --choices --dedup --dropped --examples --filters "
    "--frequency-penalty --keep --logit-bias --max-attempts --max-new-tokens --min-new-tokens --min-p "
    "--no-repeat-ngram-size --per-cell --pii --presence-penalty --prompt-column --regex --repetition-penalty --rows "
    "--samples --samples-as --schema --schema-column --seed --shots --stop --temperature --top-k --top-p --vary",
    "score": f"{COMMON} --text-column",
    "embed": f"{COMMON} --pooling --text-column",
    "finetune": f"{END_FLAGS} "
    "--input-weights --license --messages-column --save "
    "--activation-checkpointing --adam-beta1 --adam-beta2 --adam-epsilon --address --batch-size --best-by "
    "--completion-column --completion-loss-weight --config --deepspeed-config --device --dry-run --dtype "
    "--endpoint-url --epochs --eval-input --eval-limit --eval-steps --fix-sparsity-layout --input --keep-checkpoints "
    "--fresh-optimizer --from --keep --keep-last-checkpoint --no-fresh-optimizer --no-keep-last-checkpoint --patience "
    "--label-column --label-input --labels --learning-rate --lease-s --limit --lora-alpha "
    "--lora-rank --lora-targets --lr-schedule --max-error-rate --max-grad-norm --max-restarts --max-steps "
    "--micro-batch-size --min-learning-rate --model --no-activation-checkpointing --no-overwrite --num-attention-heads "
    "--offload --output --overwrite --packing --preset --progress --prompt-column --prompt-loss-weight "
    "--save-dtype --save-steps --seed --seq-length --set --sparse-mode --template --text-column "
    "--threads --tokenizer --truncate --warmup-steps --weight-decay --work-dir --workers --zero-stage",
    "run": f"--address --dry-run --progress --set {END_FLAGS}",
    "plan": "--price-per-hour --probe --set",
    "preview": "--rows --set",
    "tune": "--gold --gold-label --metric --out --overwrite --rows --search --seed --set --token-budget",
    "verify": "--endpoint-url --skip-input",
    "report": "--against --endpoint-url --fail-on --key",
    "evaluate": "--against --endpoint-url --gold --gold-column --gold-label --key --no-write --question --seed",
    "calibrate": "--endpoint-url --gold --gold-column --gold-label --key --method --out --question",
    "relabel": "--abstain-below --calibration --endpoint-url --gold --gold-column --gold-label --key --out --question "
    "--target-error",
    "history": "--endpoint-url",
    "prune": "--dry-run --endpoint-url --keep",
    "convert": "--deepspeed-config --dtype --fix-sparsity-layout --num-attention-heads --preset --sparse-mode "
    "--tokenizer",
    "submit": "--address --follow --image --set",
    "status": "--address --endpoint-url --max-age",
    "logs": "--address --follow",
    "stop": "--address",
    "resume": "--address --follow",
    "demo": "--output --progress",
}


def test_the_command_line_has_exactly_these_commands() -> None:
    assert list(build_parser()[1]) == list(FLAGS)


@pytest.mark.parametrize("command", FLAGS)
def test_a_command_has_exactly_these_flags(command: str) -> None:
    expected = {*FLAGS[command].split(), *("--help" if command == "logs" else OUTPUT_FLAGS).split()}
    assert set(build_parser()[1][command].flags()) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_flag_has_the_name_of_the_spec_field(kind: str) -> None:
    assert {flag_name(setting.name) for setting in fields(KINDS[kind])} <= set(build_parser()[1][kind].flags())


@pytest.mark.parametrize("command", FLAGS)
def test_every_command_has_a_help_text(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: tirazh {command}")
    assert "SUPPRESS" not in shown
