// AKS for Dagster and the real-time service: workload identities, the application routing ingress, secrets from Key Vault.
param name string
param location string
param imagesName string

@description('With private endpoints the nodes are in the subnet `nodes` of this network; else AKS makes its own.')
param networkName string
param privateEndpoints bool

@description('Identities of the service accounts many-models, many-models-train and many-models-promote.')
param identityName string
param trainName string
param promoteName string

var pull = '7f951dda-4ed3-4680-a7ca-43fe172d538d' // AcrPull
var networkContributor = '4d97b98b-1d4f-4787-a291-c67834d212e7' // Network Contributor

resource nodes 'Microsoft.Network/virtualNetworks/subnets@2023-09-01' existing = {
  name: '${networkName}/nodes'
}

var subnet = privateEndpoints ? {
  vnetSubnetID: nodes.id
} : {}

resource cluster 'Microsoft.ContainerService/managedClusters@2024-05-01' = {
  name: '${name}-aks'
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    dnsPrefix: name
    enableRBAC: true
    disableLocalAccounts: true
    aadProfile: {
      managed: true
      enableAzureRBAC: true
    }
    oidcIssuerProfile: {
      enabled: true
    }
    securityProfile: {
      workloadIdentity: {
        enabled: true
      }
    }
    ingressProfile: {
      webAppRouting: {
        enabled: true
      }
    }
    networkProfile: {
      networkPlugin: 'azure'
      networkPolicy: 'cilium'
      networkDataplane: 'cilium'
      networkPluginMode: 'overlay'
    }
    addonProfiles: {
      azureKeyvaultSecretsProvider: {
        enabled: true
      }
    }
    agentPoolProfiles: [
      union(subnet, {
        name: 'system'
        mode: 'System'
        vmSize: 'Standard_D4s_v5'
        count: 2
      })
      union(subnet, {
        name: 'runs'
        mode: 'User'
        vmSize: 'Standard_D8s_v5'
        enableAutoScaling: true
        minCount: 0
        maxCount: 3
        count: 0
      })
    ]
  }
}

resource registry 'Microsoft.ContainerRegistry/registries@2023-07-01' existing = {
  name: imagesName
}

resource pulls 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: registry
  name: guid(registry.id, cluster.id, pull)
  properties: {
    principalId: cluster.properties.identityProfile.kubeletidentity.objectId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', pull)
  }
}

resource joins 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (privateEndpoints) {
  scope: nodes
  name: guid(nodes.id, cluster.id, networkContributor)
  properties: {
    principalId: cluster.identity.principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', networkContributor)
  }
}

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' existing = {
  name: identityName
}

resource train 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' existing = {
  name: trainName
}

resource promote 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' existing = {
  name: promoteName
}

resource identityAccount 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = {
  parent: identity
  name: 'aks'
  properties: {
    issuer: cluster.properties.oidcIssuerProfile.issuerURL
    subject: 'system:serviceaccount:forecasting:many-models'
    audiences: ['api://AzureADTokenExchange']
  }
}

resource trainAccount 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = {
  parent: train
  name: 'aks'
  properties: {
    issuer: cluster.properties.oidcIssuerProfile.issuerURL
    subject: 'system:serviceaccount:forecasting:many-models-train'
    audiences: ['api://AzureADTokenExchange']
  }
}

resource promoteAccount 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = {
  parent: promote
  name: 'aks'
  properties: {
    issuer: cluster.properties.oidcIssuerProfile.issuerURL
    subject: 'system:serviceaccount:forecasting:many-models-promote'
    audiences: ['api://AzureADTokenExchange']
  }
}

output name string = cluster.name
