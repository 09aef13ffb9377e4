"""Queries -> answers: the only generation path, under evaluation, chat and server alike."""

from llava_teamlora.generation.fixed import Steps
from llava_teamlora.generation.generator import Generator
from llava_teamlora.generation.query import Answer, Decoding, LogLikelihood, Query
from llava_teamlora.generation.reader import PromptTooLong

__all__ = ["Answer", "Decoding", "Generator", "LogLikelihood", "PromptTooLong", "Query", "Steps"]
