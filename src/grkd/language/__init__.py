"""The language-model task: a file for each stage, prepare -> respond -> score -> train -> evaluate."""
