"""Which model serves: the rules, and the approval of a release."""
