"""What reports read: realised accuracy, actuals, views."""
