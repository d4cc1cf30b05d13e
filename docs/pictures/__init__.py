"""The pictures of README and docs: drawn by `python -m docs.pictures.draw`, never edited by hand."""
