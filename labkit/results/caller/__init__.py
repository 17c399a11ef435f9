"""Whether what calls a runtime does so as the OCI Runtime Command Line Interface has it: a record of calls, judged."""
