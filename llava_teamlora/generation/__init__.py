"""Queries -> answers: the only generation path, under evaluation, chat and server alike."""

from llava_teamlora.generation.answering import Answering, Ask, Likelihood, Token
from llava_teamlora.generation.fixed import Steps
from llava_teamlora.generation.generator import Generator
from llava_teamlora.generation.query import Answer, Decoding, LogLikelihood, Query
from llava_teamlora.generation.reader import PromptTooLong
from llava_teamlora.generation.spoken import Spoken

__all__ = [
    "Answer",
    "Answering",
    "Ask",
    "Decoding",
    "Generator",
    "Likelihood",
    "LogLikelihood",
    "PromptTooLong",
    "Query",
    "Spoken",
    "Steps",
    "Token",
]
