"""Results of a report: what each task shows of a held-out part, as numbers; nothing of HTML."""
