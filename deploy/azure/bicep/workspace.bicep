// One Azure ML workspace with its own storage (a plain account: a workspace takes none with folders), key vault and logs,
// and the datastore that the registry's models are in.
param name string
param location string

@description('staging or production: the container of the datastore, and the end of the workspace\'s name.')
param role string

@description('The lake\'s account, which has that container.')
param storageName string

@description('The container registry, whose images jobs and endpoints pull.')
param imagesName string

@description('Principals that register models here.')
param writerIds array

param privateEndpoints bool
param subnetId string

var dataScientist = 'f6c7c914-8db3-469d-8ca1-694a8f32e121' // AzureML Data Scientist

resource files 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  name: 'ml${take(uniqueString(resourceGroup().id, name, role), 13)}'
  location: location
  sku: {
    name: 'Standard_LRS'
  }
  kind: 'StorageV2'
  properties: {
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

resource vault 'Microsoft.KeyVault/vaults@2023-07-01' = {
  name: 'ml-${take(uniqueString(resourceGroup().id, name, role), 13)}'
  location: location
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enablePurgeProtection: true
    publicNetworkAccess: privateEndpoints ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'AzureServices'
      defaultAction: privateEndpoints ? 'Deny' : 'Allow'
    }
  }
}

resource logs 'Microsoft.Insights/components@2020-02-02' = {
  name: '${name}-${role}'
  location: location
  kind: 'web'
  properties: {
    Application_Type: 'web'
  }
}

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: storageName
}

resource images 'Microsoft.ContainerRegistry/registries@2023-07-01' existing = {
  name: imagesName
}

// what compute and endpoints of the workspace reach in the closed network: the lake and the images
var reached = {
  lake_dfs: {
    type: 'PrivateEndpoint'
    destination: {
      serviceResourceId: account.id
      subresourceTarget: 'dfs'
    }
  }
  lake_blob: {
    type: 'PrivateEndpoint'
    destination: {
      serviceResourceId: account.id
      subresourceTarget: 'blob'
    }
  }
  images: {
    type: 'PrivateEndpoint'
    destination: {
      serviceResourceId: images.id
      subresourceTarget: 'registry'
    }
  }
}

resource workspace 'Microsoft.MachineLearningServices/workspaces@2024-04-01' = {
  name: '${name}-${role}'
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    friendlyName: '${name} ${role}'
    storageAccount: files.id
    keyVault: vault.id
    applicationInsights: logs.id
    publicNetworkAccess: privateEndpoints ? 'Disabled' : 'Enabled'
    managedNetwork: {
      isolationMode: privateEndpoints ? 'AllowInternetOutbound' : 'Disabled'
      outboundRules: privateEndpoints ? reached : {}
    }
  }
}

resource models 'Microsoft.MachineLearningServices/workspaces/datastores@2024-04-01' = {
  parent: workspace
  name: 'many_models_registry'
  properties: {
    datastoreType: 'AzureBlob'
    accountName: storageName
    containerName: role
    credentials: {
      credentialsType: 'None'
    }
  }
}

resource writers 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for who in writerIds: {
  scope: workspace
  name: guid(workspace.id, who, dataScientist)
  properties: {
    principalId: who
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataScientist)
  }
}]

module workspaceEndpoint 'endpoint.bicep' = if (privateEndpoints) {
  name: '${role}-workspace'
  params: {
    name: workspace.name
    location: location
    subnetId: subnetId
    serviceId: workspace.id
    part: 'amlworkspace'
    zones: ['privatelink.api.azureml.ms', 'privatelink.notebooks.azure.net']
  }
}

module blobEndpoint 'endpoint.bicep' = if (privateEndpoints) {
  name: '${role}-files-blob'
  params: {
    name: files.name
    location: location
    subnetId: subnetId
    serviceId: files.id
    part: 'blob'
    zones: ['privatelink.blob.${environment().suffixes.storage}']
  }
}

module fileEndpoint 'endpoint.bicep' = if (privateEndpoints) {
  name: '${role}-files-file'
  params: {
    name: files.name
    location: location
    subnetId: subnetId
    serviceId: files.id
    part: 'file'
    zones: ['privatelink.file.${environment().suffixes.storage}']
  }
}

module vaultEndpoint 'endpoint.bicep' = if (privateEndpoints) {
  name: '${role}-vault'
  params: {
    name: vault.name
    location: location
    subnetId: subnetId
    serviceId: vault.id
    part: 'vault'
    zones: ['privatelink.vaultcore.azure.net']
  }
}

output id string = workspace.id
