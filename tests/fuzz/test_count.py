"""Checks the number of listed bad inputs; those of hypothesis and of mutations are not counted."""

from __future__ import annotations

from tests.fuzz import (
    test_checkpoint,
    test_output_files,
    test_parquet,
    test_pickle,
    test_settings,
    test_template,
    test_tokenizer,
    test_yaml,
)

LISTS = (
    *(test_yaml.BAD, test_yaml.BAD_BYTES, test_yaml.LABEL_FILES, test_template.BAD, test_template.BAD_FOR_A_ROW),
    *(test_settings.FLAGS, test_settings.CASES, test_checkpoint.CONFIG_CASES, test_checkpoint.PATTERNS),
    *(test_checkpoint.WEIGHT_MAPS, test_checkpoint.TRACKERS, test_checkpoint.SAFETENSORS, test_pickle.PICKLES),
    *(test_tokenizer.TOKENIZERS, test_tokenizer.SIDE_FILES, test_parquet.BYTES, test_parquet.SCHEMAS),
    *(test_parquet.NAMES, test_output_files.CHANGES, test_output_files.CONTENTS, test_output_files.RECEIPTS),
)


def test_at_least_three_hundred_bad_inputs_are_listed() -> None:
    assert sum(map(len, LISTS)) >= 300
