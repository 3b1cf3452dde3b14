// Who many_models is: one user-assigned identity, whose client id is the settings' client_id.
param name string
param location string

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-many-models'
  location: location
}

output principalId string = identity.properties.principalId
output clientId string = identity.properties.clientId
