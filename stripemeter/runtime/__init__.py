"""Settings, logs, the embedded PostgreSQL and the supervisor behind `stripemeter up`."""
