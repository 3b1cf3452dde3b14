// Data Lake Storage Gen2: containers for the lake, what Data Factory lands, and what runs print. No account keys.
param name string
param location string
param principalId string
param privateEndpoints bool
param subnetId string

var dataContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe' // Storage Blob Data Contributor
var containers = ['lake', 'landing', 'logs']

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  name: '${name}${take(uniqueString(resourceGroup().id), 8)}'
  location: location
  sku: {
    name: 'Standard_ZRS'
  }
  kind: 'StorageV2'
  properties: {
    isHnsEnabled: true
    allowSharedKeyAccess: false
    allowBlobPublicAccess: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: privateEndpoints ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: privateEndpoints ? 'Deny' : 'Allow'
    }
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = {
  parent: account
  name: 'default'
}

resource folders 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = [for container in containers: {
  parent: blobs
  name: container
}]

resource roles 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for (container, at) in containers: {
  scope: folders[at]
  name: guid(account.id, container, principalId, dataContributor)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataContributor)
  }
}]

module dfsEndpoint 'endpoint.bicep' = if (privateEndpoints) {
  name: 'storage-dfs'
  params: {
    name: account.name
    location: location
    subnetId: subnetId
    serviceId: account.id
    part: 'dfs'
    zones: ['privatelink.dfs.${environment().suffixes.storage}']
  }
}

module blobEndpoint 'endpoint.bicep' = if (privateEndpoints) {
  name: 'storage-blob'
  params: {
    name: account.name
    location: location
    subnetId: subnetId
    serviceId: account.id
    part: 'blob'
    zones: ['privatelink.blob.${environment().suffixes.storage}']
  }
}

output name string = account.name
output lake string = containers[0]
output landing string = containers[1]
