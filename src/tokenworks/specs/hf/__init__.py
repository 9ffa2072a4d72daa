"""Builds a model from its Hugging Face config.json: weight shapes, cache reads and formats, or an error in words."""

from tokenworks.specs.hf.load import ModelLike, load_model, model_names

__all__ = ["ModelLike", "load_model", "model_names"]
