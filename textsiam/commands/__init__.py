"""The commands: thin functions over the library, one file for each thing a user sets out to do."""
