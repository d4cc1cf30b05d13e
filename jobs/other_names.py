"""Names of settings in other programs: the API of OpenAI, vLLM, transformers and lm-evaluation-harness.

The command line and job files suggest our name where they refuse such a name.
"""

from __future__ import annotations

OTHER_NAMES = {
    "n": "samples",
    "best_of": "samples",
    "num_samples": "samples",
    "num_return_sequences": "samples",
    "num_generations": "samples",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "max_gen_toks": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "min_length": "min_new_tokens",
    "stop_strings": "stop",
    "stop_sequences": "stop",
    "stop_token": "stop",
    "until": "stop",
    "bad_words_ids": "bad_words",
    "sequence_bias": "logit_bias",
    "encoder_repetition_penalty": "repetition_penalty",
    "random_seed": "seed",
    "json_schema": "schema",
    "guided_json": "schema",
    "response_format": "schema",
    "guided_regex": "regex",
    "guided_choice": "choices",
    "num_fewshot": "shots",
    "num_shots": "shots",
    "tensor_parallel_size": "tensor_parallel",
    "max_model_len": "seq_length",
    "max_num_seqs": "slots",
    "batch_size": "slots",
    "torch_dtype": "dtype",
    "model_name_or_path": "model",
    "tokenizer_name": "tokenizer",
    "num_replicas": "replicas",
    "concurrency": "replicas",
}
