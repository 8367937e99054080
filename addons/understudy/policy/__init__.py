"""The policy: files, canonical forms and judgements; pure but for the loader's reads."""
