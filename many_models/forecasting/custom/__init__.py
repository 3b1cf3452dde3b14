"""Users' forecasters: the parent's side, the child process, the features that regressors get."""
