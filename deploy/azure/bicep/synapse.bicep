// A Synapse workspace with a dedicated pool. COPY reads as the workspace's own identity.
param name string
param location string
param administratorsId string
param storageName string
param lake string
param privateEndpoints bool
param subnetId string

var dataReader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1' // Storage Blob Data Reader

resource workspace 'Microsoft.Synapse/workspaces@2021-06-01' = {
  name: '${name}-synapse-${take(uniqueString(resourceGroup().id), 8)}'
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    azureADOnlyAuthentication: true
    publicNetworkAccess: privateEndpoints ? 'Disabled' : 'Enabled'
    managedVirtualNetwork: 'default'
    defaultDataLakeStorage: {
      accountUrl: 'https://${storageName}.dfs.${environment().suffixes.storage}'
      filesystem: lake
    }
  }
}

resource administrators 'Microsoft.Synapse/workspaces/administrators@2021-06-01' = {
  parent: workspace
  name: 'activeDirectory'
  properties: {
    administratorType: 'ActiveDirectory'
    sid: administratorsId
    tenantId: subscription().tenantId
  }
}

resource pool 'Microsoft.Synapse/workspaces/sqlPools@2021-06-01' = {
  parent: workspace
  name: 'forecasts'
  location: location
  sku: {
    name: 'DW100c'
  }
  properties: {
    createMode: 'Default'
  }
}

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: storageName
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' existing = {
  parent: account
  name: 'default'
}

resource container 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' existing = {
  parent: blobs
  name: lake
}

resource reads 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: container
  name: guid(container.id, workspace.id, dataReader)
  properties: {
    principalId: workspace.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataReader)
  }
}

module poolEndpoint 'endpoint.bicep' = if (privateEndpoints) {
  name: 'synapse-sql'
  params: {
    name: workspace.name
    location: location
    subnetId: subnetId
    serviceId: workspace.id
    part: 'Sql'
    zones: ['privatelink.sql.azuresynapse.net']
  }
}

module serverlessEndpoint 'endpoint.bicep' = if (privateEndpoints) {
  name: 'synapse-serverless'
  params: {
    name: workspace.name
    location: location
    subnetId: subnetId
    serviceId: workspace.id
    part: 'SqlOnDemand'
    zones: ['privatelink.sql.azuresynapse.net']
  }
}
