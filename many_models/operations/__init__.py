"""What an operator does, without a console: run a day."""
