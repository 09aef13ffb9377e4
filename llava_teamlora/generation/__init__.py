"""Queries -> answers: the only generation path, under evaluation, chat and server alike."""

from llava_teamlora.generation.generator import Generator
from llava_teamlora.generation.query import Answer, Decoding, LogLikelihood, Query

__all__ = ["Answer", "Decoding", "Generator", "LogLikelihood", "Query"]
