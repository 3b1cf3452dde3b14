// One Azure ML workspace with its own storage (a plain account: a workspace takes none with folders), key vault and logs,
// and the datastore that the registry's models are in.
param name string
param location string

@description('staging or production: the container of the datastore, and the end of the workspace\'s name.')
param role string

@description('The lake\'s account, which has that container.')
param storageName string

@description('Principals that register models here.')
param writerIds array

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

output id string = workspace.id
