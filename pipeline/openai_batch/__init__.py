"""OpenAI's batch format as input and output: `custom_id` and `body` in, `response` and `error` out."""
