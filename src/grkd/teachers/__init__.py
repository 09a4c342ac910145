"""Language models: loading, cutting, generating, and the teacher's cached signal."""
