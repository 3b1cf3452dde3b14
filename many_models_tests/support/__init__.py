"""What several tests share: projects, ports, tasks, processes that are killed."""
