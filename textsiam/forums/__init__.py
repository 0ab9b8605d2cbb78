"""Exports of forums (Stack Exchange, Discourse, any table) as one kind of folder: questions and duplicate links."""
