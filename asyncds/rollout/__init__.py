"""Rollouts, from lease to batch: open leases, the scheduler, the journal."""
