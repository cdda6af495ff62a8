"""The verbs: ingest, fold, recount, push, reconcile. Each reads one stage's tables and writes its own."""
