"""Answers over HTTP: what a forum asks as a question is typed, and what a moderator decides."""
