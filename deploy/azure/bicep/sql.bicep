// Azure SQL with Entra ID only. The identity's user and its rights are made in the database, see README.md.
param name string
param location string
param administratorsId string
param administratorsName string
param privateEndpoints bool
param subnetId string

resource server 'Microsoft.Sql/servers@2023-08-01-preview' = {
  name: '${name}-sql-${take(uniqueString(resourceGroup().id), 8)}'
  location: location
  properties: {
    minimalTlsVersion: '1.2'
    publicNetworkAccess: privateEndpoints ? 'Disabled' : 'Enabled'
    administrators: {
      administratorType: 'ActiveDirectory'
      principalType: 'Group'
      login: administratorsName
      sid: administratorsId
      tenantId: subscription().tenantId
      azureADOnlyAuthentication: true
    }
  }
}

resource database 'Microsoft.Sql/servers/databases@2023-08-01-preview' = {
  parent: server
  name: 'forecasts'
  location: location
  sku: {
    name: 'GP_S_Gen5_2'
    tier: 'GeneralPurpose'
  }
}

module endpoint 'endpoint.bicep' = if (privateEndpoints) {
  name: 'sql-endpoint'
  params: {
    name: server.name
    location: location
    subnetId: subnetId
    serviceId: server.id
    part: 'sqlServer'
    zones: ['privatelink${environment().suffixes.sqlServerHostname}']
  }
}
