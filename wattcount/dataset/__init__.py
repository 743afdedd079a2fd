"""The open data set: bundles of records that strangers submit, the rules that they must keep, and the store of results."""
