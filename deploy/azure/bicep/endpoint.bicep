// One private endpoint, and its name in the private zone.
param name string
param location string
param subnetId string

@description('Id of the service that is reached.')
param serviceId string

@description('The part of the service: dfs, blob, vault, sqlServer, Sql.')
param part string

@description('The private zone in which the service has its name.')
param zone string

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

resource dns 'Microsoft.Network/privateDnsZones@2020-06-01' existing = {
  name: zone
}

resource names 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2023-09-01' = {
  parent: endpoint
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      {
        name: part
        properties: {
          privateDnsZoneId: dns.id
        }
      }
    ]
  }
}
