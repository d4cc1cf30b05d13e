"""Prefix caching: tokens with which several waiting prompts begin are computed once and forked."""
