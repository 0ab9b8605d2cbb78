"""What version 0.1 called otherwise or wrote in another form: the only place that knows old words and formats."""
