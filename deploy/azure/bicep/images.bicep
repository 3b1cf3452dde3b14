// The container registry. Who serves pulls from it, the pipeline's connection pushes; nobody has a password.
param name string
param location string
param pullId string
param pushId string
param privateEndpoints bool
param subnetId string

var pull = '7f951dda-4ed3-4680-a7ca-43fe172d538d' // AcrPull
var push = '8311e382-0749-4cb8-b61a-304f252e45ec' // AcrPush

resource registry 'Microsoft.ContainerRegistry/registries@2023-07-01' = {
  name: '${name}${take(uniqueString(resourceGroup().id), 8)}'
  location: location
  sku: {
    name: privateEndpoints ? 'Premium' : 'Standard' // only Premium has private endpoints
  }
  properties: {
    adminUserEnabled: false
    anonymousPullEnabled: false
    publicNetworkAccess: privateEndpoints ? 'Disabled' : 'Enabled'
    networkRuleBypassOptions: 'AzureServices'
  }
}

resource pulls 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: registry
  name: guid(registry.id, pullId, pull)
  properties: {
    principalId: pullId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', pull)
  }
}

resource pushes 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: registry
  name: guid(registry.id, pushId, push)
  properties: {
    principalId: pushId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', push)
  }
}

module endpoint 'endpoint.bicep' = if (privateEndpoints) {
  name: 'images-endpoint'
  params: {
    name: registry.name
    location: location
    subnetId: subnetId
    serviceId: registry.id
    part: 'registry'
    zones: ['privatelink${environment().suffixes.acrLoginServer}']
  }
}

output name string = registry.name
