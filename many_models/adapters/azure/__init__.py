"""What several adapters need of Azure: logins, blob storage, an Azure ML workspace."""
