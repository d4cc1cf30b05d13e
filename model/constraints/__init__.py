"""Constrained decoding: what a completion must look like, compiled to masks over the vocabulary.

`constraint.py` turns a JSON Schema, a regular expression or a list of texts into a grammar, `tokens.py` describes the
model's tokenizer to the library (llguidance), `grammar.py` follows one completion.
"""
