"""One small module for each form in which rows come."""
