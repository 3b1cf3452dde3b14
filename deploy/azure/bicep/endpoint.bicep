// One private endpoint, and its names in the private zones.
param name string
param location string
param subnetId string

@description('Id of the service that is reached.')
param serviceId string

@description('The part of the service: dfs, blob, file, vault, sqlServer, Sql, SqlOnDemand, registry, amlworkspace.')
param part string

@description('The private zones in which the service has its names.')
param zones array

resource endpoint 'Microsoft.Network/privateEndpoints@2023-09-01' = {
  name: '${name}-${part}'
  location: location
  properties: {
    subnet: {
      id: subnetId
    }
    privateLinkServiceConnections: [
      {
        name: part
        properties: {
          privateLinkServiceId: serviceId
          groupIds: [part]
        }
      }
    ]
  }
}

resource dns 'Microsoft.Network/privateDnsZones@2020-06-01' existing = [for zone in zones: {
  name: zone
}]

resource names 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2023-09-01' = {
  parent: endpoint
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [for (zone, at) in zones: {
      name: '${part}-${at}'
      properties: {
        privateDnsZoneId: dns[at].id
      }
    }]
  }
}
