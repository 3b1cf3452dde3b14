// Where models are registered: containers `staging` and `production` in the lake's account, and the roles on them.
// Training writes staging and has no role on production; promotion writes both; who serves reads production.
param storageName string
param trainId string
param promoteId string
param serveId string

var dataContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe' // Storage Blob Data Contributor
var dataReader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1' // Storage Blob Data Reader

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' existing = {
  name: storageName
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' existing = {
  parent: account
  name: 'default'
}

resource staging 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobs
  name: 'staging'
}

resource production 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobs
  name: 'production'
}

resource lake 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' existing = {
  parent: blobs
  name: 'lake'
}

resource lakeWriters 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for who in [trainId, promoteId]: {
  scope: lake
  name: guid(lake.id, who, dataContributor)
  properties: {
    principalId: who
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataContributor)
  }
}]

resource stagingWriters 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for who in [trainId, promoteId]: {
  scope: staging
  name: guid(staging.id, who, dataContributor)
  properties: {
    principalId: who
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataContributor)
  }
}]

resource productionWriter 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: production
  name: guid(production.id, promoteId, dataContributor)
  properties: {
    principalId: promoteId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataContributor)
  }
}

resource productionReader 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: production
  name: guid(production.id, serveId, dataReader)
  properties: {
    principalId: serveId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataReader)
  }
}
