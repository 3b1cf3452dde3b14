// Who many_models is. One identity runs the data plane; three more have the rights of one stage each, and one pushes images.
// Their client ids are the settings' client_id, and the annotations of the service accounts in deploy/kubernetes.
param name string
param location string

@description('Issuer of Azure DevOps\' service connections with workload identity federation; empty: none are federated.')
param devOpsIssuer string

@description('Subject identifier of the service connection many-models-promote, as its page shows it.')
param promoteSubject string

@description('Subject identifier of the service connection many-models-images.')
param imagesSubject string

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-many-models'
  location: location
}

resource train 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-train'
  location: location
}

resource promote 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-promote'
  location: location
}

resource serve 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-serve'
  location: location
}

resource images 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-images'
  location: location
}

resource promoteConnection 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = if (devOpsIssuer != '') {
  parent: promote
  name: 'azure-devops'
  properties: {
    issuer: devOpsIssuer
    subject: promoteSubject
    audiences: ['api://AzureADTokenExchange']
  }
}

resource imagesConnection 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = if (devOpsIssuer != '') {
  parent: images
  name: 'azure-devops'
  properties: {
    issuer: devOpsIssuer
    subject: imagesSubject
    audiences: ['api://AzureADTokenExchange']
  }
}

output principalId string = identity.properties.principalId
output clientId string = identity.properties.clientId
output name string = identity.name
output trainName string = train.name
output trainId string = train.properties.principalId
output trainClientId string = train.properties.clientId
output promoteName string = promote.name
output promoteId string = promote.properties.principalId
output promoteClientId string = promote.properties.clientId
output serveId string = serve.properties.principalId
output imagesId string = images.properties.principalId
