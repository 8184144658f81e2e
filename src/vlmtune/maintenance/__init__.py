"""Run folders after the fact: what they hold, what is stale or damaged, what may be deleted."""
