"""What adapters need of SQL databases: connections, logins, dialects."""
