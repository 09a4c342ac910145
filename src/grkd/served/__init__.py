"""A teacher behind an OpenAI-compatible server: log-probabilities, choices and responses, asked once and kept."""

from grkd.served.server import Server
from grkd.served.teacher import ServedTeacher

__all__ = ["ServedTeacher", "Server"]
