"""Results of papers, reproduced. A package, so that its files may be named as the modules are."""
