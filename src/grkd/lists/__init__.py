"""`task: rank`: lists of candidates ordered by a teacher, learnt by a small student; one file per stage."""
