"""`tirazh finetune`: a training run from its request to the exported model. Start at `run.py`."""
